"""`voxplane` with limits that only a test wants, by environment variables:

ROBUSTNESS_SNAPSHOT_COMMITS is how many commits lie between two snapshots, and
so how often history is trimmed; ROBUSTNESS_PART_BYTES is from where on a
transfer comes in several messages. 0 leaves them as they are. With
ROBUSTNESS_MISTAKES the server makes those of mistakes.py.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from control_plane import server
from control_plane.state import tenants
from control_plane.watch import Hub, WatchSettings
from tests.robustness.mistakes import ForgetfulTenants, LossyConfigSync
from voxplane.cli import main

_PART_BYTES = int(os.environ.get("ROBUSTNESS_PART_BYTES", "0"))
_SNAPSHOT_COMMITS = int(os.environ.get("ROBUSTNESS_SNAPSHOT_COMMITS", "0"))


class HubOfSmallParts(Hub):
    """A hub whose transfers are split early."""

    def __init__(self, *parts: Any, **more: Any) -> None:
        super().__init__(*(_smaller(part) for part in parts), **more)


def _smaller(part: Any) -> Any:
    return replace(part, part_bytes_max=_PART_BYTES) if isinstance(part, WatchSettings) else part


if __name__ == "__main__":
    if _SNAPSHOT_COMMITS:
        tenants.SNAPSHOT_COMMITS = _SNAPSHOT_COMMITS
    if _PART_BYTES:
        server.Hub = HubOfSmallParts
    if os.environ.get("ROBUSTNESS_MISTAKES"):
        server.Tenants = ForgetfulTenants
        server.ConfigSyncService = LossyConfigSync
    main()
