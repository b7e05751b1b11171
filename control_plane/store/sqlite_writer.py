"""The one writer of a SQLite log, which commits in groups.

All commits that arrive while a transaction is on its way to the disk share the
next one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiosqlite

from control_plane.store.log import Commit, StoreError
from control_plane.store.sqlite_file import connect_to_write
from control_plane.store.sqlite_group import Pending, write_group
from control_plane.store.sqlite_thread import connect, run

QUEUED_COMMITS_MAX = 10_000
GROUP_COMMITS_MAX = 256

T = TypeVar("T")


class SqliteWriter:
    """Owns the connection that writes. `on_commits` hears how many commits a
    group has made durable."""

    def __init__(self, connection: aiosqlite.Connection, on_commits: Callable[[int], None]) -> None:
        self._connection = connection
        self._on_commits = on_commits
        self._queue: deque[Pending] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(cls, path: Path, on_commits: Callable[[int], None]) -> SqliteWriter:
        """Connect to a file that is prepared. Raises sqlite3.Error, StoreError."""
        return cls(await connect(partial(connect_to_write, path)), on_commits)

    def submit(self, pending: Pending) -> None:
        """Put a commit into the next group."""
        if self._closed:
            pending.done.set_exception(StoreError("the store is closed"))
        elif len(self._queue) >= QUEUED_COMMITS_MAX:
            pending.done.set_exception(StoreError(f"{QUEUED_COMMITS_MAX} commits wait already"))
        else:
            self._queue.append(pending)
            if self._writing is None:
                self._writing = asyncio.get_running_loop().create_task(self._drain())

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do other work between two groups. Raises StoreError."""
        if self._closed:
            raise StoreError("the store is closed")
        try:
            return await run(self._connection, work)
        except (sqlite3.Error, ValueError) as error:
            raise StoreError(f"the log cannot be written: {error}") from error

    async def close(self) -> None:
        """Finish what is queued, then close the connection."""
        self._closed = True
        if self._writing is not None:
            await asyncio.wait([self._writing])
        await self._connection.close()

    async def _drain(self) -> None:
        group: list[Pending] = []
        try:
            while self._queue:
                group = [self._queue.popleft() for _ in range(min(len(self._queue), GROUP_COMMITS_MAX))]
                await self._commit(group)
        except BaseException:
            # The loop is being torn down: what becomes of the group is not known.
            for pending in (*group, *self._queue):
                pending.done.cancel()
            self._queue.clear()
            raise
        finally:
            self._writing = None

    async def _commit(self, group: list[Pending]) -> None:
        outcomes = await run(self._connection, lambda connection: write_group(connection, group))
        self._on_commits(sum(isinstance(outcome, Commit) for outcome in outcomes))
        for pending, outcome in zip(group, outcomes, strict=True):
            if pending.done.done():
                continue
            if isinstance(outcome, Commit):
                pending.done.set_result(outcome)
            else:
                pending.done.set_exception(outcome)
