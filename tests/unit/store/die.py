"""A process that is killed at work on a log.

    python -m tests.unit.store.die commits PATH AT COUNT BACKUP GENERATIONS
    python -m tests.unit.store.die opens PATH STEP

The first commits COUNT revisions after AT, and is killed when they are
acknowledged. Half way it copies the log to BACKUP, unless that is "-", and then
begins so many generations of the journal. The second opens the log, and is
killed before its call number STEP of STEPS.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path
from types import FrameType

from control_plane.store import SqliteStore, sqlite_journal
from tests.contract.log_samples import ACME, commit, snapshot

STEPS = {"connect", "unlink", "fsync", "commit"}


async def commits(path: Path, at: int, count: int, backup: str, generations: int) -> None:
    """Commit and die."""
    store = await SqliteStore.open(path)
    usual = sqlite_journal.GENERATION_BYTES
    for number in range(count):
        if number == count // 2:
            if backup != "-":
                with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
                    source.backup(target)
            sqlite_journal.GENERATION_BYTES = 1
        if number == count // 2 + generations:
            sqlite_journal.GENERATION_BYTES = usual
        await commit(store, ACME, at + number)
    # What follows a commit is done before the next one.
    await store.save_snapshot(snapshot(ACME, at + count))
    os.kill(os.getpid(), signal.SIGKILL)


async def opens(path: Path, step: int) -> None:
    """Open and die."""
    calls = 0

    def count(_frame: FrameType, event: str, called: object) -> None:
        nonlocal calls
        if event == "c_call" and getattr(called, "__name__", "") in STEPS:
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1

    threading.setprofile(count)
    await SqliteStore.open(path)
    os.kill(os.getpid(), signal.SIGKILL)


match sys.argv[1:]:
    case ["commits", path, at, count, backup, generations]:
        asyncio.run(commits(Path(path), int(at), int(count), backup, int(generations)))
    case ["opens", path, step]:
        asyncio.run(opens(Path(path), int(step)))
    case _:
        sys.exit(2)
