"""Sessions and turns for tests."""

from __future__ import annotations

from typing import Any

from control_plane.store import SessionId, SessionQuery, SessionTable
from voxplane.v1 import session_pb2, session_service_pb2

ACTIVE = session_pb2.SESSION_STATE_ACTIVE
ENDED = session_pb2.SESSION_STATE_ENDED
LOST = session_pb2.SESSION_STATE_LOST
NOW = 1_700_000_000.0
MINUTE = 60.0


def session(
    session_id: str = "s1", sequence: int = 1, *, started: float | None = NOW, **fields: Any
) -> session_pb2.Session:
    """A session of acme's agent sales on node n1 that runs, unless told
    otherwise. `started` is in seconds since 1970."""
    given: dict[str, Any] = {"tenant_id": "acme", "agent_id": "sales", "node_id": "n1", "state": ACTIVE}
    made = session_pb2.Session(session_id=session_id, sequence=sequence, **(given | fields))
    if started is not None:
        made.start_time.FromMicroseconds(round(started * 1e6))
    return made


def turn(number: int, **fields: Any) -> session_pb2.SessionTurn:
    """A turn of sales."""
    return session_pb2.SessionTurn(turn=number, agent_id="sales", **fields)


def report(of: session_pb2.Session, *turns: session_pb2.SessionTurn) -> session_service_pb2.SessionReport:
    """A session as it is, and turns."""
    return session_service_pb2.SessionReport(session=of, turns=turns)


async def put(table: SessionTable, *sessions: session_pb2.Session, now: float = NOW) -> None:
    """Put sessions without turns."""
    await table.put([report(each) for each in sessions], now)


async def ids(table: SessionTable, tenant_id: str = "acme", **narrowed: Any) -> list[str]:
    """The ids of a tenant's sessions, the newest first."""
    return [each.session_id for each in await table.page(SessionQuery(tenant_id, **narrowed))]


def key(session_id: str, tenant_id: str = "acme") -> SessionId:
    """A session's id."""
    return SessionId(tenant_id, session_id)
