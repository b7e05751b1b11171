"""Benchmarks: one command each, each prints one table."""
