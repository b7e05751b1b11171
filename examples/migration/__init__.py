"""Reads a hard-coded LiveKit agent; see migrate_hardcoded_agent.py, which uses it."""
