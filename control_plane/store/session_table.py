"""What a table of sessions promises; every implementation passes
tests/contract.

- A report is news of its session if its sequence is above that of the record,
  or equal to it while the session is lost. Any other report leaves the record
  as it is, so a batch may come again, and late.
- Turns go by their number. News replaces a turn; any other report only adds
  turns that are not there. Of a session TURNS_KEPT are kept, those with the
  highest numbers.
- What was put is durable when `put` returns. After a StoreError some of it may
  be there; putting it again makes it whole, and tells of it again.
- Whether a session is lost is the table's own knowledge: the record stays what
  its node has said, and so does its sequence.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from voxplane.v1 import session_pb2, session_service_pb2

TURNS_KEPT = 1_000
"""Of a session."""
PAGE_LIMIT_MAX = 1_001
"""Sessions that `page` returns at most."""

ACTIVE = session_pb2.SESSION_STATE_ACTIVE
ENDED = session_pb2.SESSION_STATE_ENDED
LOST = session_pb2.SESSION_STATE_LOST


class SessionId(NamedTuple):
    """A session of a tenant."""

    tenant_id: str
    session_id: str


class Place(NamedTuple):
    """Where a session stands in its tenant's list: when it began, in
    microseconds since 1970, and its id."""

    started: int
    session_id: str


@dataclass(frozen=True, slots=True)
class SessionChange:
    """What a report has made of a session: the record as it is now, the turns
    that are new, and the agent that held it before ("" if it is new). Of a
    report that comes again it is the record with the report's turns."""

    session: session_pb2.Session
    turns: tuple[session_pb2.SessionTurn, ...] = ()
    agent_before: str = ""


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """Sessions of a tenant, the newest first. What is "" or 0 does not narrow
    it; `before` leaves out all sessions down to that place."""

    tenant_id: str
    agent_id: str = ""
    state: session_pb2.SessionState = session_pb2.SESSION_STATE_UNSPECIFIED
    version: int = 0
    node_id: str = ""
    user_id: str = ""
    before: Place | None = None
    limit: int = PAGE_LIMIT_MAX


class SessionTable(Protocol):
    """The sessions of all tenants. Errors are StoreError. Times are in seconds
    since 1970; messages that are given or got must not be changed."""

    def put(
        self, reports: Sequence[session_service_pb2.SessionReport], now: float
    ) -> Awaitable[list[SessionChange]]:
        """Take reports in their order, and return what has changed or come
        again. The call itself enqueues, so that what is put first is written
        first. A session that says no start time began when it was first put. A
        store that has too much enqueued refuses."""
        ...

    async def reconcile(
        self, node_id: str, running: Collection[SessionId], now: float
    ) -> list[session_pb2.Session]:
        """Of the sessions of a node: those that are active and do not run are
        lost, those that are lost and run are active again. Returns what has
        changed. After a StoreError a part of it may be done."""
        ...

    async def get(self, tenant_id: str, session_id: str) -> session_pb2.Session | None:
        """One session."""
        ...

    async def turns(self, tenant_id: str, session_id: str) -> list[session_pb2.SessionTurn]:
        """The turns of a session, in order."""
        ...

    async def page(self, query: SessionQuery) -> list[session_pb2.Session]:
        """At most `limit` sessions, clamped to PAGE_LIMIT_MAX."""
        ...

    async def active_nodes(self) -> list[str]:
        """The nodes that have an active session, in ascending order."""
        ...

    async def trim(self, changed_before: float, sessions_max: int) -> int:
        """Forget sessions that are not active: those that were last put or lost
        before a time, and of each tenant those behind its `sessions_max`
        newest. Done in short steps; returns how many are gone."""
        ...


def id_of(session: session_pb2.Session) -> SessionId:
    """The session's id."""
    return SessionId(session.tenant_id, session.session_id)


def place_of(session: session_pb2.Session) -> Place:
    """The session's place in its tenant's list."""
    return Place(microseconds(session.start_time), session.session_id)


def microseconds(time: Timestamp) -> int:
    """Microseconds since 1970. Raises ValueError if it is no time."""
    return time.ToMicroseconds()


class Word(Enum):
    """What a report is to the record of its session."""

    NEWS = auto()
    AGAIN = auto()
    LATE = auto()


def word(report: session_pb2.Session, sequence: int, state: session_pb2.SessionState) -> Word:
    """What a report is to a record with a sequence and a state."""
    if report.sequence == sequence:
        return Word.NEWS if state == LOST else Word.AGAIN
    return Word.NEWS if report.sequence > sequence else Word.LATE


def with_start(session: session_pb2.Session, started: int) -> session_pb2.Session:
    """The session, with a start time if it says none."""
    if session.HasField("start_time"):
        return session
    known = session_pb2.Session()
    known.CopyFrom(session)
    known.start_time.FromMicroseconds(started)
    return known


def with_state(session: session_pb2.Session, state: session_pb2.SessionState) -> session_pb2.Session:
    """The session in a state."""
    if session.state == state:
        return session
    known = session_pb2.Session()
    known.CopyFrom(session)
    known.state = state
    return known
