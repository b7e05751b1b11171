"""The log in a SQLite file: the embedded default.

WAL with synchronous=FULL, one thread that writes in groups (sqlite_writer),
and a connection of its own for reads, which never wait for the writer. One
process at a time: a lock file keeps a second one out.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import sqlite3
from collections.abc import Awaitable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import aiosqlite
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from control_plane.store.counter import CommitCounter
from control_plane.store.log import (
    CHANGES_LIMIT_MAX,
    Answer,
    Commit,
    CommitMeta,
    Compacted,
    Entry,
    StoreError,
)
from control_plane.store.migrations import upgrade
from control_plane.store.sqlite_writer import ANSWER, Pending, SqliteWriter, connect
from voxplane.names import TenantId
from voxplane.storage.v1 import log_pb2

EPOCH_BYTES = 8


class SqliteStore:
    """A LogStore in a file. Make one by `await SqliteStore.open(path)`."""

    def __init__(
        self, epoch: str, writer: sqlite3.Connection, reader: aiosqlite.Connection, lock: int
    ) -> None:
        self._epoch = epoch
        self._counter = CommitCounter()
        self._writer = SqliteWriter(writer, self._counter.add)
        self._reader = reader
        self._lock = lock

    @classmethod
    async def open(cls, path: Path) -> SqliteStore:
        """Open the file, or make it, and bring its tables up to date.

        Raises StoreError if another process has it, or it is no such file.
        """
        lock, epoch, writer = await asyncio.to_thread(_prepare, path)
        reader = await aiosqlite.connect(path, isolation_level=None)
        await reader.execute("PRAGMA query_only=1")
        return cls(epoch, writer, reader, lock)

    @property
    def epoch(self) -> str:
        """Names this history of the store."""
        return self._epoch

    def commit(
        self,
        tenant_id: TenantId,
        expected_revision: int,
        mutations: Sequence[log_pb2.Mutation],
        meta: CommitMeta,
    ) -> Awaitable[Commit]:
        """See LogStore.commit."""
        done: asyncio.Future[Commit] = asyncio.get_running_loop().create_future()
        self._writer.submit(Pending(tenant_id, expected_revision, mutations, meta, done))
        return done

    async def head(self, tenant_id: TenantId) -> int:
        """See LogStore.head."""
        rows = await self._read("SELECT revision FROM heads WHERE tenant_id = ?", (tenant_id,))
        return rows[0][0] if rows else 0

    async def changes(self, tenant_id: TenantId, after: int, limit: int) -> list[Entry]:
        """See LogStore.changes."""
        rows = await self._read(
            "SELECT revision, entry, hash FROM entries WHERE tenant_id = ? AND revision > ?"
            " ORDER BY revision LIMIT ?",
            (tenant_id, after, max(0, min(limit, CHANGES_LIMIT_MAX))),
        )
        # Read after the entries: a trim in between is seen.
        floor = await self._read("SELECT floor FROM heads WHERE tenant_id = ?", (tenant_id,))
        if floor and after < floor[0][0]:
            raise Compacted(floor[0][0])
        return [Entry(*row) for row in rows]

    async def answer(self, tenant_id: TenantId, request_id: str, now: float) -> Answer | None:
        """See LogStore.answer."""
        rows = await self._read(ANSWER, (tenant_id, request_id, now))
        return Answer(*rows[0]) if rows else None

    async def snapshot(self, tenant_id: TenantId) -> log_pb2.Snapshot | None:
        """See LogStore.snapshot."""
        rows = await self._read("SELECT snapshot FROM snapshots WHERE tenant_id = ?", (tenant_id,))
        return log_pb2.Snapshot.FromString(rows[0][0]) if rows else None

    async def save_snapshot(self, snapshot: log_pb2.Snapshot) -> None:
        """See LogStore.save_snapshot."""
        encoded = snapshot.SerializeToString()
        tenant_id, revision = snapshot.tenant_id, snapshot.revision

        def save(connection: sqlite3.Connection) -> None:
            saved = _revision(connection, "snapshots", tenant_id)
            if not saved <= revision <= _revision(connection, "heads", tenant_id):
                raise StoreError(f"a snapshot of revision {revision} does not fit the log")
            connection.execute(
                "INSERT OR REPLACE INTO snapshots (tenant_id, revision, snapshot) VALUES (?, ?, ?)",
                (tenant_id, revision, encoded),
            )

        await self._writer.run(save)

    async def trim(self, tenant_id: TenantId, through: int) -> int:
        """See LogStore.trim."""

        def cut(connection: sqlite3.Connection) -> int:
            row = connection.execute("SELECT floor FROM heads WHERE tenant_id = ?", (tenant_id,)).fetchone()
            floor = row[0] if row else 0
            end = min(through, _revision(connection, "snapshots", tenant_id))
            if end <= floor:
                return floor
            connection.execute("DELETE FROM entries WHERE tenant_id = ? AND revision <= ?", (tenant_id, end))
            connection.execute("UPDATE heads SET floor = ? WHERE tenant_id = ?", (end, tenant_id))
            return end

        return await self._writer.run(cut)

    async def tenants(self) -> list[TenantId]:
        """See LogStore.tenants."""
        rows = await self._read("SELECT tenant_id FROM heads ORDER BY tenant_id", ())
        return [TenantId(row[0]) for row in rows]

    async def wait(self, seen: int) -> int:
        """See LogStore.wait."""
        return await self._counter.above(seen)

    async def close(self) -> None:
        """See LogStore.close."""
        await self._writer.close()
        await self._reader.close()
        os.close(self._lock)

    async def _read(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        try:
            rows = await self._reader.execute_fetchall(statement, cast("Iterable[Any]", values))
        except (sqlite3.Error, ValueError) as error:
            raise StoreError(f"the log cannot be read: {error}") from error
        return cast("list[tuple[Any, ...]]", rows)


def _revision(connection: sqlite3.Connection, table: str, tenant_id: str) -> int:
    row = connection.execute(f"SELECT revision FROM {table} WHERE tenant_id = ?", (tenant_id,)).fetchone()
    return row[0] if row else 0


def _prepare(path: Path) -> tuple[int, str, sqlite3.Connection]:
    """The lock, the epoch and the connection that writes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        epoch = _migrate(path)
        return lock, epoch, connect(path)
    except BlockingIOError as error:
        os.close(lock)
        raise StoreError(f"{path} is in use by another process") from error
    except Exception as error:
        os.close(lock)
        raise StoreError(f"{path} cannot be opened: {error}") from error


def _migrate(path: Path) -> str:
    """Bring the tables up to date, and return the store's epoch."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    with engine.begin() as connection:
        upgrade(connection)
        connection.execute(
            text("INSERT INTO meta (name, value) VALUES ('epoch', :value) ON CONFLICT DO NOTHING"),
            {"value": secrets.token_hex(EPOCH_BYTES)},
        )
        row = connection.execute(text("SELECT value FROM meta WHERE name = 'epoch'")).one()
        return str(row[0])
