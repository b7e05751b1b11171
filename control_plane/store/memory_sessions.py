"""The table of sessions in memory: for tests and trials."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Collection, Sequence
from dataclasses import dataclass, field

from control_plane.store.log import StoreError
from control_plane.store.session_table import (
    ACTIVE,
    LOST,
    PAGE_LIMIT_MAX,
    TURNS_KEPT,
    SessionChange,
    SessionId,
    SessionQuery,
    Word,
    id_of,
    microseconds,
    place_of,
    with_start,
    with_state,
    word,
)
from voxplane.v1 import session_pb2, session_service_pb2


@dataclass(slots=True)
class _Row:
    session: session_pb2.Session
    changed: float
    turns: dict[int, session_pb2.SessionTurn] = field(default_factory=dict[int, session_pb2.SessionTurn])


class MemorySessions:
    """A SessionTable without a disk."""

    def __init__(self) -> None:
        self._rows: dict[SessionId, _Row] = {}
        self._closed = False

    def put(
        self, reports: Sequence[session_service_pb2.SessionReport], now: float
    ) -> Awaitable[list[SessionChange]]:
        """See SessionTable.put."""
        result: asyncio.Future[list[SessionChange]] = asyncio.get_running_loop().create_future()
        if self._closed:
            result.set_exception(StoreError("the store is closed"))
            return result
        try:
            changes = [self._put(report, now) for report in reports]
            result.set_result([change for change in changes if change is not None])
        except ValueError as error:
            result.set_exception(StoreError(f"the table cannot be written: {error}"))
        return result

    async def reconcile(
        self, node_id: str, running: Collection[SessionId], now: float
    ) -> list[session_pb2.Session]:
        """See SessionTable.reconcile."""
        named, changed = frozenset(running), list[session_pb2.Session]()
        for key, row in self._rows.items():
            state = ACTIVE if key in named else LOST
            if (
                row.session.node_id == node_id
                and row.session.state in (ACTIVE, LOST)
                and (row.session.state != state)
            ):
                row.session, row.changed = with_state(row.session, state), now
                changed.append(row.session)
        return changed

    async def get(self, tenant_id: str, session_id: str) -> session_pb2.Session | None:
        """See SessionTable.get."""
        row = self._rows.get(SessionId(tenant_id, session_id))
        return row.session if row else None

    async def turns(self, tenant_id: str, session_id: str) -> list[session_pb2.SessionTurn]:
        """See SessionTable.turns."""
        row = self._rows.get(SessionId(tenant_id, session_id))
        return [turn for _, turn in sorted(row.turns.items())] if row else []

    async def page(self, query: SessionQuery) -> list[session_pb2.Session]:
        """See SessionTable.page."""
        found = [row.session for row in self._rows.values() if _fits(row.session, query)]
        found.sort(key=place_of, reverse=True)
        return found[: max(0, min(query.limit, PAGE_LIMIT_MAX))]

    async def active_nodes(self) -> list[str]:
        """See SessionTable.active_nodes."""
        return sorted({row.session.node_id for row in self._rows.values() if row.session.state == ACTIVE})

    async def trim(self, changed_before: float, sessions_max: int) -> int:
        """See SessionTable.trim."""
        tenants: defaultdict[str, list[SessionId]] = defaultdict(list)
        for key in sorted(self._rows, key=lambda key: place_of(self._rows[key].session), reverse=True):
            tenants[key.tenant_id].append(key)
        beyond = {key for keys in tenants.values() for key in keys[max(0, sessions_max) :]}
        gone = [
            key
            for key, row in self._rows.items()
            if row.session.state != ACTIVE and (row.changed < changed_before or key in beyond)
        ]
        for key in gone:
            del self._rows[key]
        return len(gone)

    def close(self) -> None:
        """Take no more."""
        self._closed = True

    def _put(self, report: session_service_pb2.SessionReport, now: float) -> SessionChange | None:
        session, key = report.session, id_of(report.session)
        started = microseconds(session.start_time)
        row = self._rows.get(key)
        before = row.session.agent_id if row else ""
        told = word(session, row.session.sequence, row.session.state) if row else Word.NEWS
        if row is None:
            row = self._rows[key] = _Row(with_start(session, started or round(now * 1e6)), now)
        elif told is Word.NEWS:
            row.session, row.changed = with_start(session, place_of(row.session).started), now
        new: list[session_pb2.SessionTurn] = []
        for turn in report.turns:
            if told is Word.NEWS or turn.turn not in row.turns:
                row.turns[turn.turn] = turn
                new.append(turn)
        for number in sorted(row.turns)[:-TURNS_KEPT]:
            del row.turns[number]
        if told is Word.LATE and not new:
            return None
        return SessionChange(row.session, tuple(new if told is Word.LATE else report.turns), before)


def _fits(session: session_pb2.Session, query: SessionQuery) -> bool:
    wanted = (
        (session.agent_id, query.agent_id),
        (session.state, query.state),
        (session.version, query.version),
        (session.node_id, query.node_id),
        (session.user_id, query.user_id),
    )
    return (
        session.tenant_id == query.tenant_id
        and all(not asked or has == asked for has, asked in wanted)
        and (query.before is None or place_of(session) < query.before)
    )
