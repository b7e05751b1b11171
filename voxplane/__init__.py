"""Everything that both sides of Voxplane and its clients share; no I/O but in `cli`."""
