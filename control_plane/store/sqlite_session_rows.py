"""What is done to the tables of sessions in one transaction, on the
connection's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from control_plane.store.session_table import (
    ACTIVE,
    LOST,
    TURNS_KEPT,
    Place,
    SessionChange,
    SessionId,
    SessionQuery,
    Word,
    microseconds,
    with_start,
    with_state,
    word,
)
from voxplane.v1 import session_pb2, session_service_pb2

TRIMMED_ROWS = 1_000
"""By one transaction, so that no commit waits long for it."""
TRIMMED_SESSIONS = 200

_KEY = " WHERE tenant_id = ? AND session_id = ?"
_PUT = (
    "INSERT INTO sessions (tenant_id, session_id, agent_id, node_id, user_id, state, version, sequence,"
    " started, changed, record) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (tenant_id, session_id) DO UPDATE SET agent_id = excluded.agent_id,"
    " node_id = excluded.node_id, user_id = excluded.user_id, state = excluded.state,"
    " version = excluded.version, sequence = excluded.sequence, started = excluded.started,"
    " changed = excluded.changed, record = excluded.record"
)
_PUT_TURN = (
    "INSERT INTO session_turns (tenant_id, session_id, turn, record) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (tenant_id, session_id, turn)"
)
_REPLACE_TURN = _PUT_TURN + " DO UPDATE SET record = excluded.record"
_ADD_TURN = _PUT_TURN + " DO NOTHING"
_FORGET_TURNS = (
    "DELETE FROM session_turns" + _KEY + " AND turn <= (SELECT turn FROM session_turns" + _KEY + ""
    f" ORDER BY turn DESC LIMIT 1 OFFSET {TURNS_KEPT})"
)


def put_reports(
    connection: sqlite3.Connection, reports: Sequence[session_service_pb2.SessionReport], now: float
) -> list[SessionChange]:
    """Take reports; what has changed."""
    changes = [_put(connection, report, now) for report in reports]
    return [change for change in changes if change is not None]


def _put(
    connection: sqlite3.Connection, report: session_service_pb2.SessionReport, now: float
) -> SessionChange | None:
    session = report.session
    key = SessionId(session.tenant_id, session.session_id)
    row = connection.execute("SELECT sequence, state, started, agent_id FROM sessions" + _KEY, key).fetchone()
    sequence, state, started, before = row or (0, LOST, round(now * 1e6), "")
    told = word(session, sequence, state) if row else Word.NEWS
    if told is Word.NEWS:
        if session.HasField("start_time"):
            started = microseconds(session.start_time)
        values = (
            *(session.agent_id, session.node_id, session.user_id, session.state, session.version),
            *(session.sequence, started, now, session.SerializeToString()),
        )
        connection.execute(_PUT, (*key, *values))
    new = _put_turns(connection, key, report.turns, replace=told is Word.NEWS)
    if told is Word.LATE and not new:
        return None
    known = with_start(session, started) if told is Word.NEWS else get_session(connection, key)
    assert known is not None
    return SessionChange(known, new if told is Word.LATE else tuple(report.turns), before)


def _put_turns(
    connection: sqlite3.Connection, key: SessionId, turns: Sequence[session_pb2.SessionTurn], *, replace: bool
) -> tuple[session_pb2.SessionTurn, ...]:
    """Returns those that are new."""
    new: list[session_pb2.SessionTurn] = []
    statement = _REPLACE_TURN if replace else _ADD_TURN
    for turn in turns:
        if connection.execute(statement, (*key, turn.turn, turn.SerializeToString())).rowcount:
            new.append(turn)
    if any(turn.turn > TURNS_KEPT for turn in new):
        connection.execute(_FORGET_TURNS, (*key, *key))
    return tuple(new)


def set_state(
    connection: sqlite3.Connection,
    node_id: str,
    keys: Sequence[SessionId],
    state: session_pb2.SessionState,
    now: float,
) -> list[session_pb2.Session]:
    """Have sessions of a node, of those that are active or lost, be so; those
    that were not."""
    former = LOST if state == ACTIVE else ACTIVE
    changed: list[session_pb2.Session] = []
    for key in keys:
        rows = connection.execute(
            "UPDATE sessions SET state = ?, changed = ?" + _KEY + " AND node_id = ? AND state = ?"
            " RETURNING started, record",
            (state, now, *key, node_id, former),
        ).fetchall()
        changed += [decode(state, started, record) for started, record in rows]
    return changed


def get_session(connection: sqlite3.Connection, key: SessionId) -> session_pb2.Session | None:
    """One session."""
    row = connection.execute("SELECT state, started, record FROM sessions" + _KEY, key).fetchone()
    return decode(*row) if row else None


def get_turns(connection: sqlite3.Connection, key: SessionId) -> list[session_pb2.SessionTurn]:
    """The turns of a session, in order."""
    rows = connection.execute("SELECT record FROM session_turns" + _KEY + " ORDER BY turn", key)
    return [session_pb2.SessionTurn.FromString(record) for (record,) in rows]


def get_page(connection: sqlite3.Connection, query: SessionQuery, limit: int) -> list[session_pb2.Session]:
    """Sessions of a tenant, the newest first."""
    wanted: dict[str, Any] = {
        "agent_id": query.agent_id,
        "state": query.state,
        "version": query.version,
        "node_id": query.node_id,
        "user_id": query.user_id,
    }
    wanted = {column: value for column, value in wanted.items() if value}
    where = "".join(f" AND {column} = ?" for column in wanted)
    values: list[Any] = [query.tenant_id, *wanted.values()]
    if query.before is not None:
        where += " AND (started, session_id) < (?, ?)"
        values += query.before
    rows = connection.execute(
        f"SELECT state, started, record FROM sessions WHERE tenant_id = ?{where}"
        " ORDER BY started DESC, session_id DESC LIMIT ?",
        (*values, limit),
    )
    return [decode(*row) for row in rows]


def active_of(connection: sqlite3.Connection, node_id: str) -> set[SessionId]:
    """The active sessions of a node."""
    rows = connection.execute(
        "SELECT tenant_id, session_id FROM sessions WHERE state = ? AND node_id = ?", (ACTIVE, node_id)
    )
    return {SessionId(*row) for row in rows}


def active_nodes(connection: sqlite3.Connection) -> list[str]:
    """The nodes that have an active session."""
    rows = connection.execute(
        "SELECT DISTINCT node_id FROM sessions WHERE state = ? ORDER BY node_id", (ACTIVE,)
    )
    return [node_id for (node_id,) in rows]


def next_tenant(connection: sqlite3.Connection, after: str) -> str | None:
    """The first tenant that has sessions and a greater id."""
    row = connection.execute(
        "SELECT tenant_id FROM sessions WHERE tenant_id > ? ORDER BY tenant_id LIMIT 1", (after,)
    ).fetchone()
    return row[0] if row else None


def place_at(connection: sqlite3.Connection, tenant_id: str, position: int) -> Place | None:
    """Where the session stands that is at a position, from 0, of a tenant's
    list."""
    row = connection.execute(
        "SELECT started, session_id FROM sessions WHERE tenant_id = ?"
        " ORDER BY started DESC, session_id DESC LIMIT 1 OFFSET ?",
        (tenant_id, position),
    ).fetchone()
    return Place(*row) if row else None


def delete_unchanged(connection: sqlite3.Connection, changed_before: float) -> tuple[int, bool]:
    """Delete some of the sessions that are not active and were last changed
    before a time; how many, and whether some may be left."""
    rows = connection.execute(
        "SELECT tenant_id, session_id FROM sessions WHERE changed < ? AND state <> ?"
        " ORDER BY changed LIMIT ?",
        (changed_before, ACTIVE, TRIMMED_SESSIONS),
    ).fetchall()
    return _delete(connection, rows)


def delete_from(connection: sqlite3.Connection, tenant_id: str, place: Place) -> tuple[int, bool]:
    """Delete some of a tenant's sessions from a place on, as
    `delete_unchanged`."""
    rows = connection.execute(
        "SELECT tenant_id, session_id FROM sessions WHERE tenant_id = ? AND (started, session_id) <= (?, ?)"
        " AND state <> ? ORDER BY started, session_id LIMIT ?",
        (tenant_id, *place, ACTIVE, TRIMMED_SESSIONS),
    ).fetchall()
    return _delete(connection, rows)


def _delete(connection: sqlite3.Connection, keys: Sequence[tuple[str, str]]) -> tuple[int, bool]:
    left = TRIMMED_ROWS
    gone = 0
    for key in keys:
        left -= (
            1
            + connection.execute(
                "DELETE FROM session_turns"
                + _KEY
                + " AND turn IN (SELECT turn FROM session_turns"
                + _KEY
                + ""
                " LIMIT ?)",
                (*key, *key, left),
            ).rowcount
        )
        if left <= 0:
            return gone, True
        connection.execute("DELETE FROM sessions" + _KEY, key)
        gone += 1
    return gone, len(keys) == TRIMMED_SESSIONS


def decode(state: session_pb2.SessionState, started: int, record: bytes) -> session_pb2.Session:
    """A session as its row says it is."""
    return with_state(with_start(session_pb2.Session.FromString(record), started), state)
