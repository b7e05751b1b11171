"""The log in a SQLite file: the embedded default.

WAL with synchronous=FULL, one thread that writes in groups (sqlite_writer),
and a connection of its own for reads, which never wait for the writer. One
process at a time: a lock file keeps a second one out.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import aiosqlite
import structlog
from google.protobuf.message import DecodeError

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
from control_plane.store.snapshot_bytes import decode_snapshot, encode_snapshot
from control_plane.store.sqlite_file import LockedFile, connect_to_read, prepare
from control_plane.store.sqlite_group import (
    ANSWER,
    TRIMMED_ENTRIES,
    Pending,
    delete_some,
    put_snapshot,
    raise_floor,
)
from control_plane.store.sqlite_sessions import SqliteSessions
from control_plane.store.sqlite_thread import connect
from control_plane.store.sqlite_writer import SqliteWriter
from voxplane.names import TenantId
from voxplane.storage.v1 import log_pb2

TRIMMED_ENTRY_BYTES = 4096
"""What it takes in the journal to delete an entry: its page."""
_log = structlog.get_logger(__name__)


class SqliteStore:
    """A Store in a file. Make one by `await SqliteStore.open(path)`."""

    def __init__(
        self,
        file: LockedFile,
        writer: SqliteWriter,
        reader: aiosqlite.Connection,
        sessions: SqliteSessions,
        counter: CommitCounter,
        opened: AsyncExitStack,
    ) -> None:
        self._epoch = file.epoch
        self._writer = writer
        self._reader = reader
        self._sessions = sessions
        self._counter = counter
        self._opened = opened

    @classmethod
    async def open(cls, path: Path) -> SqliteStore:
        """Open the file, or make it and its folder, and bring its tables up to date.

        Raises StoreError if another store has it open, if it is damaged, or if
        it is no log, or one of a newer Voxplane.
        """
        file = await asyncio.to_thread(prepare, path)
        async with AsyncExitStack() as undo:
            undo.callback(file.unlock)
            counter = CommitCounter()
            try:
                writer = await SqliteWriter.open(file, counter.add)
                undo.push_async_callback(writer.close)
                reader = await connect(partial(connect_to_read, file.path))
                undo.push_async_callback(reader.close)
                sessions = SqliteSessions(writer, await connect(partial(connect_to_read, file.path)))
                undo.push_async_callback(sessions.close)
            except (sqlite3.Error, OSError) as error:
                raise StoreError(f"{path} cannot be opened: {error}") from error
            if file.restored:
                _log.warning(
                    "the store has a new epoch: all clients take everything anew",
                    reason=file.restored,
                    epoch=file.epoch,
                )
            return cls(file, writer, reader, sessions, counter, undo.pop_all())

    @property
    def epoch(self) -> str:
        """Names this history of the store."""
        return self._epoch

    @property
    def sessions(self) -> SqliteSessions:
        """The table of sessions beside the log."""
        return self._sessions

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

    async def floor(self, tenant_id: TenantId) -> int:
        """See LogStore.floor."""
        rows = await self._read("SELECT floor FROM heads WHERE tenant_id = ?", (tenant_id,))
        return rows[0][0] if rows else 0

    async def changes(self, tenant_id: TenantId, after: int, limit: int) -> list[Entry]:
        """See LogStore.changes."""
        after = max(0, after)
        rows = await self._read(
            "SELECT revision, entry, hash FROM entries WHERE tenant_id = ? AND revision > ?"
            " ORDER BY revision LIMIT ?",
            (tenant_id, after, max(0, min(limit, CHANGES_LIMIT_MAX))),
        )
        # Read after the entries: a trim in between is seen.
        floor = await self.floor(tenant_id)
        if after < floor:
            raise Compacted(floor)
        return [Entry(*row) for row in rows]

    async def answer(self, tenant_id: TenantId, request_id: str, now: float) -> Answer | None:
        """See LogStore.answer."""
        rows = await self._read(ANSWER, (tenant_id, request_id, now))
        return Answer(*rows[0]) if rows else None

    async def snapshot(self, tenant_id: TenantId) -> log_pb2.Snapshot | None:
        """See LogStore.snapshot."""
        rows = await self._read("SELECT snapshot FROM snapshots WHERE tenant_id = ?", (tenant_id,))
        try:
            return await asyncio.to_thread(decode_snapshot, rows[0][0]) if rows else None
        except DecodeError as error:
            raise StoreError(f"the snapshot of {tenant_id} cannot be read") from error

    async def save_snapshot(self, snapshot: log_pb2.Snapshot) -> None:
        """See LogStore.save_snapshot."""
        encoded = await asyncio.to_thread(encode_snapshot, snapshot)
        tenant_id, revision = snapshot.tenant_id, snapshot.revision
        await self._writer.run(
            lambda connection: put_snapshot(connection, tenant_id, revision, encoded), len(encoded)
        )

    async def trim(self, tenant_id: TenantId, through: int) -> int:
        """See LogStore.trim."""
        floor = await self._writer.run(partial(raise_floor, tenant_id=tenant_id, through=through))
        # Piece by piece, with commits in between. What a crash leaves behind
        # is hidden already, and goes with the next trim.
        deleting = partial(delete_some, tenant_id=tenant_id, floor=floor)
        while await self._writer.run(deleting, TRIMMED_ENTRIES * TRIMMED_ENTRY_BYTES):
            pass
        return floor

    async def tenants(self) -> list[TenantId]:
        """See LogStore.tenants."""
        rows = await self._read("SELECT tenant_id FROM heads ORDER BY tenant_id", ())
        return [TenantId(row[0]) for row in rows]

    async def wait(self, seen: int) -> int:
        """See LogStore.wait."""
        return await self._counter.above(seen)

    async def close(self) -> None:
        """See LogStore.close."""
        self._counter.close()
        await self._opened.aclose()

    async def _read(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        try:
            rows = await self._reader.execute_fetchall(statement, cast("Iterable[Any]", values))
        except (sqlite3.Error, ValueError) as error:
            raise StoreError(f"the log cannot be read: {error}") from error
        return cast("list[tuple[Any, ...]]", rows)
