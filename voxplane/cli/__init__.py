"""The command line: `voxplane`."""

from voxplane.cli.app import main

__all__ = ["main"]
