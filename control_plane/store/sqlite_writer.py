"""The one writer of a SQLite log: a thread that commits in groups.

All commits that arrive while a transaction is on its way to the disk share the
next one. Each of a group succeeds or is refused on its own; a fault of the
disk fails them all, and none of them was acknowledged.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from control_plane.store.chain import make_entry
from control_plane.store.log import (
    NO_HASH,
    REQUEST_ID_SECONDS,
    Answer,
    Commit,
    CommitMeta,
    DuplicateRequest,
    RevisionConflict,
    StoreError,
)
from voxplane.names import TenantId
from voxplane.storage.v1 import log_pb2

QUEUED_COMMITS_MAX = 10_000
GROUP_COMMITS_MAX = 256
EXPIRED_REQUESTS_PURGED = 500

ANSWER = (
    "SELECT revision, fingerprint, response FROM requests"
    " WHERE tenant_id = ? AND request_id = ? AND expires > ?"
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A commit that waits for its group."""

    tenant_id: TenantId
    expected_revision: int
    mutations: Sequence[log_pb2.Mutation]
    meta: CommitMeta
    done: asyncio.Future[Commit]


def connect(path: Path) -> sqlite3.Connection:
    """A connection whose commits survive a loss of power."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


class SqliteWriter:
    """Owns the connection that writes. `on_commits` hears how many commits a
    group has made durable."""

    def __init__(self, connection: sqlite3.Connection, on_commits: Callable[[int], None]) -> None:
        self._connection = connection
        self._on_commits = on_commits
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="voxplane-log")
        self._queue: deque[Pending] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._closed = False

    def submit(self, pending: Pending) -> None:
        """Put a commit into the next group."""
        if self._closed:
            pending.done.set_exception(StoreError("the store is closed"))
        elif len(self._queue) >= QUEUED_COMMITS_MAX:
            pending.done.set_exception(StoreError(f"more than {QUEUED_COMMITS_MAX} commits wait"))
        else:
            self._queue.append(pending)
            if self._writing is None:
                self._writing = asyncio.get_running_loop().create_task(self._drain())

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do other work in a transaction of its own, between two groups."""

        def transaction() -> T:
            with _Transaction(self._connection):
                return work(self._connection)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)
        except sqlite3.Error as error:
            raise StoreError(f"the log cannot be written: {error}") from error

    async def close(self) -> None:
        """Finish what is queued, then close the connection."""
        self._closed = True
        if self._writing is not None:
            await self._writing
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._queue:
                group = [self._queue.popleft() for _ in range(min(len(self._queue), GROUP_COMMITS_MAX))]
                outcomes = await loop.run_in_executor(self._thread, self._write, group)
                self._on_commits(sum(isinstance(outcome, Commit) for outcome in outcomes))
                for pending, outcome in zip(group, outcomes, strict=True):
                    if pending.done.done():
                        continue
                    if isinstance(outcome, Commit):
                        pending.done.set_result(outcome)
                    else:
                        pending.done.set_exception(outcome)
        finally:
            self._writing = None

    def _write(self, group: Sequence[Pending]) -> list[Commit | StoreError]:
        try:
            with _Transaction(self._connection):
                outcomes = [self._one(pending) for pending in group]
                self._purge(max(pending.meta.time for pending in group))
            return outcomes
        except Exception as error:
            # Whatever it is, nothing of the group is durable, and each must hear it.
            return [StoreError(f"the log cannot be written: {error}") for _ in group]

    def _one(self, pending: Pending) -> Commit | StoreError:
        execute, meta, tenant = self._connection.execute, pending.meta, pending.tenant_id
        if meta.request_id:
            earlier = execute(ANSWER, (tenant, meta.request_id, meta.time)).fetchone()
            if earlier:
                return DuplicateRequest(Answer(*earlier))
        row = execute("SELECT revision, hash FROM heads WHERE tenant_id = ?", (tenant,)).fetchone()
        revision, head_hash = row or (0, NO_HASH)
        if revision != pending.expected_revision or meta.previous_hash not in (b"", head_hash):
            return RevisionConflict(pending.expected_revision, revision)
        entry = make_entry(tenant, revision + 1, pending.mutations, meta, head_hash)
        execute(
            "INSERT INTO entries (tenant_id, revision, time, principal, method, request_id, entry, hash)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(tenant, entry.revision, meta.time, meta.principal, meta.method, meta.request_id),
                *(entry.encoded, entry.hash),
            ),
        )
        execute(
            "INSERT INTO heads (tenant_id, revision, hash, floor) VALUES (?, ?, ?, 0)"
            " ON CONFLICT (tenant_id) DO UPDATE SET revision = excluded.revision, hash = excluded.hash",
            (tenant, entry.revision, entry.hash),
        )
        if meta.request_id:
            expires = meta.time + REQUEST_ID_SECONDS
            execute(
                "INSERT OR REPLACE INTO requests"
                " (tenant_id, request_id, revision, fingerprint, response, expires)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (tenant, meta.request_id, entry.revision, meta.fingerprint, meta.response, expires),
            )
        return Commit(entry.revision, entry)

    def _purge(self, now: float) -> None:
        self._connection.execute(
            "DELETE FROM requests WHERE rowid IN (SELECT rowid FROM requests WHERE expires <= ? LIMIT ?)",
            (now, EXPIRED_REQUESTS_PURGED),
        )


class _Transaction:
    """BEGIN and COMMIT; ROLLBACK when either or what is between them fails."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
