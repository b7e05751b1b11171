"""The processes that come from this one."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

import psutil

KILL_SECONDS_MAX = 1.0
_POLL_SECONDS = 0.01


def kill_descendants() -> int:
    """Kill all processes that come from this one, with those that are theirs,
    and wait for them, up to KILL_SECONDS_MAX; how many there were.

    It blocks, needs no loop and may run in any thread.
    """
    killed: set[int] = set()
    ends = time.monotonic() + KILL_SECONDS_MAX
    while True:
        # again and again: one that is killed last may have started another
        alive = _descendants()
        if not alive or time.monotonic() > ends:
            return len(killed)
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed.update(alive)
        time.sleep(_POLL_SECONDS)


def _descendants() -> list[int]:
    """Those that live; a dead one may wait for somebody else to take note of it."""
    found: list[int] = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found
