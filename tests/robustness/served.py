"""`voxplane` with limits that only a test wants: a server that saves snapshots,
and so trims its history, far more often than it is worth.

The environment variable ROBUSTNESS_SNAPSHOT_COMMITS says how many commits lie
between two snapshots.
"""

from __future__ import annotations

import os

from control_plane.state import tenants
from voxplane.cli import main

if __name__ == "__main__":
    commits = os.environ.get("ROBUSTNESS_SNAPSHOT_COMMITS")
    if commits:
        tenants.SNAPSHOT_COMMITS = int(commits)
    main()
