"""The table of sessions in the log's SQLite file.

It is written by the log's one writer, in transactions of its own, and read on
a connection of its own: long lists hold up nobody who reads the log.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import aiosqlite
from google.protobuf.message import DecodeError

from control_plane.store.log import StoreError
from control_plane.store.session_table import (
    ACTIVE,
    LOST,
    PAGE_LIMIT_MAX,
    SessionChange,
    SessionId,
    SessionQuery,
)
from control_plane.store.sqlite_session_rows import (
    TRIMMED_ROWS,
    active_nodes,
    active_of,
    delete_from,
    delete_unchanged,
    get_page,
    get_session,
    get_turns,
    next_tenant,
    place_at,
    put_reports,
    set_state,
)
from control_plane.store.sqlite_thread import run
from control_plane.store.sqlite_work import Work
from control_plane.store.sqlite_writer import SqliteWriter
from voxplane.v1 import session_pb2, session_service_pb2

PIECE_ROWS = 64
"""About as many rows are written as one work: more share a transaction."""
ROW_BYTES = 4096
"""What a row takes in the journal beyond its record: pages of its indexes."""

T = TypeVar("T")


class SqliteSessions:
    """A SessionTable in a file. `close` closes the reader alone."""

    def __init__(self, writer: SqliteWriter, reader: aiosqlite.Connection) -> None:
        self._writer = writer
        self._reader = reader

    def put(
        self, reports: Sequence[session_service_pb2.SessionReport], now: float
    ) -> Awaitable[list[SessionChange]]:
        """See SessionTable.put."""
        pending = [
            self._submit(partial(put_reports, reports=piece, now=now), _rows(piece), _bytes(piece))
            for piece in _pieces(reports)
        ]
        return asyncio.ensure_future(_joined(pending))

    async def reconcile(
        self, node_id: str, running: Collection[SessionId], now: float
    ) -> list[session_pb2.Session]:
        """See SessionTable.reconcile."""
        active = await self._read(partial(active_of, node_id=node_id))
        named = frozenset(running)
        pending: list[asyncio.Future[list[session_pb2.Session]]] = []
        for keys, state in ((sorted(active - named), LOST), (sorted(named - active), ACTIVE)):
            for start in range(0, len(keys), PIECE_ROWS):
                piece = keys[start : start + PIECE_ROWS]
                work = partial(set_state, node_id=node_id, keys=piece, state=state, now=now)
                pending.append(self._submit(work, len(piece)))
        return await _joined(pending)

    async def get(self, tenant_id: str, session_id: str) -> session_pb2.Session | None:
        """See SessionTable.get."""
        return await self._read(partial(get_session, key=SessionId(tenant_id, session_id)))

    async def turns(self, tenant_id: str, session_id: str) -> list[session_pb2.SessionTurn]:
        """See SessionTable.turns."""
        return await self._read(partial(get_turns, key=SessionId(tenant_id, session_id)))

    async def page(self, query: SessionQuery) -> list[session_pb2.Session]:
        """See SessionTable.page."""
        limit = max(0, min(query.limit, PAGE_LIMIT_MAX))
        return await self._read(partial(get_page, query=query, limit=limit))

    async def active_nodes(self) -> list[str]:
        """See SessionTable.active_nodes."""
        return await self._read(active_nodes)

    async def trim(self, changed_before: float, sessions_max: int) -> int:
        """See SessionTable.trim."""
        gone = await self._delete(partial(delete_unchanged, changed_before=changed_before))
        tenant_id = await self._read(partial(next_tenant, after=""))
        while tenant_id is not None:
            beyond = partial(place_at, tenant_id=tenant_id, position=max(0, sessions_max))
            if (place := await self._read(beyond)) is not None:
                gone += await self._delete(partial(delete_from, tenant_id=tenant_id, place=place))
            tenant_id = await self._read(partial(next_tenant, after=tenant_id))
        return gone

    async def close(self) -> None:
        """Let go of the file. What is enqueued is the writer's."""
        await self._reader.close()

    async def _delete(self, some: Callable[[sqlite3.Connection], tuple[int, bool]]) -> int:
        """All of it, piece by piece, with commits in between."""
        gone, more = 0, True
        while more:
            deleted, more = await self._submit(some, TRIMMED_ROWS)
            gone += deleted
        return gone

    def _submit(self, do: Callable[[sqlite3.Connection], T], rows: int, size: int = 0) -> asyncio.Future[T]:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._writer.submit_work(Work(do, rows, size + rows * ROW_BYTES, done))
        return done

    async def _read(self, look: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await run(self._reader, look)
        except (sqlite3.Error, ValueError, DecodeError) as error:
            raise StoreError(f"the sessions cannot be read: {error}") from error


async def _joined(pending: Sequence[asyncio.Future[list[Any]]]) -> list[Any]:
    """All results, once each has come or failed. Raises the first StoreError."""
    found: list[Any] = []
    for outcome in await asyncio.gather(*pending, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
        found += outcome
    return found


def _pieces(
    reports: Sequence[session_service_pb2.SessionReport],
) -> Iterator[list[session_service_pb2.SessionReport]]:
    piece: list[session_service_pb2.SessionReport] = []
    for report in reports:
        piece.append(report)
        if _rows(piece) >= PIECE_ROWS:
            yield piece
            piece = []
    if piece:
        yield piece


def _rows(reports: Sequence[session_service_pb2.SessionReport]) -> int:
    return sum(1 + len(report.turns) for report in reports)


def _bytes(reports: Sequence[session_service_pb2.SessionReport]) -> int:
    return sum(report.ByteSize() for report in reports)
