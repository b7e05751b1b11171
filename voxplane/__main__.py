"""`python -m voxplane` is the command `voxplane`."""

from voxplane.cli import main

if __name__ == "__main__":
    main()
