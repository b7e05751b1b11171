"""One session as the node holds it: pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from google.protobuf import timestamp_pb2
from google.rpc import code_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs]

from voxplane.names import LIVE
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.v1 import session_pb2, session_service_pb2

MEMORY_BYTES_MAX = 1_048_576
"""Of a session's conversation; of more the oldest items are dropped."""
ITEM_BYTES = 64
"""What an item takes beside its text."""
END_REASON_CHARS_MAX = 500


class SessionId(NamedTuple):
    """A session of a tenant."""

    tenant_id: str
    session_id: str


def id_of(key: session_service_pb2.SessionKey | session_pb2.Session | relay_pb2.CallerContext) -> SessionId:
    """The id of a session that is named so."""
    return SessionId(key.tenant_id, key.session_id)


class Memory:
    """The newest part of a conversation."""

    def __init__(self, bytes_max: int = MEMORY_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._items: deque[bytes] = deque()
        self._bytes = 0
        self._turns = 0

    @property
    def size(self) -> int:
        """The bytes that it takes."""
        return self._bytes

    def add(self, part: relay_pb2.SessionMemory) -> None:
        """A new part of the conversation."""
        self._turns = part.turns
        for item in part.items:
            self._items.append(item)
            self._bytes += len(item) + ITEM_BYTES
        while self._bytes > self._bytes_max:
            self._bytes -= len(self._items.popleft()) + ITEM_BYTES

    def whole(self) -> relay_pb2.SessionMemory:
        """All of it that is kept."""
        return relay_pb2.SessionMemory(items=self._items, turns=self._turns)


@dataclass(slots=True, eq=False)
class HeldSession:
    """A session, and the job that has it or had it last. `due` is when a
    session without a job is given up, on the monotonic clock; None while it
    has one. `base` is added to the sequences that the job tells."""

    hello: relay_pb2.JobHello
    node_id: str
    start_time: float
    record: session_pb2.Session | None = None
    memory: Memory = field(default_factory=Memory)
    unanswered: dict[str, session_service_pb2.SessionCommand] = field(
        default_factory=dict[str, session_service_pb2.SessionCommand]
    )
    pins: tuple[session_service_pb2.SessionCommand, ...] = ()
    returns: int = 0
    base: int = 0
    pss_bytes: int = 0
    due: float | None = None

    @property
    def id(self) -> SessionId:
        """Whose session it is, and which."""
        return id_of(self.hello.caller)

    @property
    def is_voice(self) -> bool:
        """Whether it is a call, in which another process can take over."""
        return self.hello.kind == session_pb2.SESSION_KIND_VOICE

    @property
    def ended(self) -> bool:
        """Whether its end was told."""
        return self.record is not None and self.record.state == session_pb2.SESSION_STATE_ENDED

    @property
    def replacements(self) -> int:
        """How often another process has taken it over."""
        return max(self.returns, self.record.replacements if self.record else 0)

    def may_go_to(self, hello: relay_pb2.JobHello) -> bool:
        """Whether a process can take it over: one of its kind, in its room."""
        return (hello.kind, hello.room) == (self.hello.kind, self.hello.room)

    def obeyed(self, command: session_service_pb2.SessionCommand, status: status_pb2.Status) -> None:
        """The session has answered a command."""
        if command.WhichOneof("action") == "pin_version" and status.code == code_pb2.OK:
            self.pins = (command,) if command.pin_version else ()

    def told(self, record: session_pb2.Session) -> None:
        """How the session stands. A pin ends with the agent that was pinned."""
        before, self.record = self.record, record
        if before is not None and before.agent_id != record.agent_id:
            self.pins = tuple(pin for pin in self.pins if pin.pin_version == record.pinned_version)

    def orders(self) -> Iterator[session_service_pb2.SessionCommand]:
        """The commands that a process that takes over is to be given."""
        if self._is_of_its_agent():
            yield from self.pins
        yield from self.unanswered.values()

    def legacy(self) -> relay_pb2.SessionLegacy | None:
        """What its process has left; None if the session had not begun."""
        if self.record is None:
            return None
        legacy = relay_pb2.SessionLegacy(session=self.record, memory=self.memory.whole())
        if not self._is_of_its_agent():
            legacy.session.pinned_version = 0
        return legacy

    def over(self, outcome: session_pb2.SessionOutcome, reason: str, now: float) -> session_pb2.Session:
        """Its record from now on, as one that has ended. `now` is in seconds
        since 1970."""
        record = session_pb2.Session()
        record.CopyFrom(self.record or self._unbegun())
        record.state, record.outcome = session_pb2.SESSION_STATE_ENDED, outcome
        record.end_reason = reason[:END_REASON_CHARS_MAX]
        record.end_time.CopyFrom(_stamp(max(now, self.start_time)))
        record.sequence += 1
        self.record = record
        return record

    def _is_of_its_agent(self) -> bool:
        """Whether the record is of the agent that a process would go on as: the
        session may have been about to go to another."""
        return self.record is None or self.record.agent_id == self.hello.caller.agent_id

    def _unbegun(self) -> session_pb2.Session:
        caller = self.hello.caller
        return session_pb2.Session(
            tenant_id=caller.tenant_id,
            session_id=caller.session_id,
            agent_id=caller.agent_id,
            node_id=self.node_id,
            user_id=caller.user_id,
            kind=self.hello.kind,
            room=self.hello.room,
            alias=caller.alias or LIVE,
            start_time=_stamp(self.start_time),
            replacements=self.returns,
            sequence=self.base,
        )


def _stamp(seconds: float) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromNanoseconds(round(seconds * 1e9))
    return stamp
