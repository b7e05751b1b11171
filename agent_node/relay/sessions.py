"""The sessions of this node, and who has them.

- A session has one process at a time; another that comes with its id is
  refused.
- A call whose process is gone before it has ended is an orphan: what it left is
  kept for ORPHAN_SECONDS_MAX, and `orphans` tells whoever can start another
  process for it. That one is given the legacy, and the session goes on, at most
  REPLACEMENTS_MAX times. Otherwise, and if it is given up, it has FAILED.
- A session that has failed, or that was ended while it had no process, does not
  come back: a process that comes for it then is refused.
- A text session ends with its process.
- The records of a session rise over processes, also if its id is used again,
  here or on another node: a process that continues none begins at the time, in
  milliseconds since 1970.
- While the node drains nothing is an orphan: what its process has not ended has
  ended as NODE_STOPPED.
- Every command is answered: by the session, or, if that is not here or ends
  before, by the desk. A process that takes over is given what the one before
  has not answered, and the version that the session is pinned to.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import protovalidate
import structlog
from google.rpc import status_pb2  # pyright: ignore[reportMissingTypeStubs]

from agent_node.relay.held import HeldSession, SessionId, id_of
from agent_node.relay.tally import SessionTally
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError, to_status
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1 import session_pb2, session_service_pb2
from voxplane.v1.session_service_pb2 import SessionCommand

ORPHAN_SECONDS_MAX = 30.0
REPLACEMENTS_MAX = 3
ORPHANS_MAX = 1_000
"""Orphans that wait to be looked at."""
COMMANDS_MAX = 100
"""That a session has still to answer."""
QUEUED_MAX = COMMANDS_MAX + 2
"""With the session's pin, and what the node itself wants of it."""
OVER_MAX = 10_000
"""Sessions that are known not to come back; of more the oldest are forgotten."""
JOBS_KNOWN_MAX = 10_000
"""Jobs that have been here; of more the oldest are forgotten."""
VIOLATIONS_MAX = 10
"""Of a report, that are logged."""
ALARM_SECONDS_MIN = 0.01

_OF_A_STOP = (session_pb2.SESSION_OUTCOME_CALLER_LEFT, session_pb2.SESSION_OUTCOME_OPERATOR_ENDED)
"""How jobs that the node ends may think that they have ended."""

_log = structlog.stdlib.get_logger(__name__)


class Teller(Protocol):
    """The way to the control plane. Nothing of it waits."""

    def report(self, report: session_service_pb2.SessionReport) -> None:
        """How a session stands, and turns that are new. It is not changed any
        more."""
        ...

    def result(self, result: session_service_pb2.SessionCommandResult) -> None:
        """What became of a command."""
        ...

    def moved(self, tenant_id: str, session_id: str) -> None:
        """A session is another node's from now on."""
        ...


@dataclass(frozen=True, slots=True)
class Orphan:
    """A call that has lost its process. `job_id` is that process's job; the
    caller's agent is the one that has the session now."""

    caller: relay_pb2.CallerContext
    room: str
    job_id: str
    kind: session_pb2.SessionKind
    replacements: int


class Seat:
    """A process that has a session. `legacy` is to be given to it before
    anything else; `commands` are to be passed on to it."""

    def __init__(self, desk: SessionDesk, held: HeldSession, legacy: relay_pb2.SessionLegacy | None) -> None:
        self.legacy = legacy
        self.commands: asyncio.Queue[SessionCommand] = asyncio.Queue(QUEUED_MAX)
        self._desk = desk
        self._held = held

    def take(self, request: relay_pb2.AttachRequest) -> None:
        """The process tells something of its session."""
        self._desk.take(self._held, request)

    def follows(self, agent_id: str) -> None:
        """The session is another agent's from now on, and so is a process that
        takes it over."""
        caller = self._held.hello.caller
        caller.agent_id, caller.alias = agent_id, ""

    def leave(self, *, orderly: bool) -> None:
        """The process has gone; orderly if it said that it goes."""
        self._desk.leave(self, self._held, orderly=orderly)


class SessionDesk:
    """All sessions of the node. `orphans` are to be taken by who heals them."""

    def __init__(self, node_id: str, clock: Clock, teller: Teller) -> None:
        self.tally = SessionTally()
        self.orphans: asyncio.Queue[Orphan] = asyncio.Queue(ORPHANS_MAX)
        self._node_id = node_id
        self._clock = clock
        self._teller = teller
        self._held: dict[SessionId, HeldSession] = {}
        self._seats: dict[SessionId, Seat] = {}
        self._over: dict[SessionId, None] = {}
        self._jobs: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._draining = False
        self._stopping = False

    @property
    def kinds(self) -> Counter[str]:
        """Count of sessions by kind, those that wait for a process too."""
        kinds: Counter[str] = Counter(voice=0, text=0)
        for held in self._held.values():
            kinds["voice" if held.is_voice else "text"] += 1
        return kinds

    @property
    def waiting(self) -> int:
        """Count of sessions that wait for a process."""
        return len(self._held) - len(self._seats)

    def job_memory(self) -> Iterator[int]:
        """The memory of each process that has told it, in bytes."""
        return (held.pss_bytes for held in self._held.values() if held.pss_bytes)

    def awaits(self, hello: relay_pb2.JobHello) -> bool:
        """Whether a session waits for this process."""
        held = self._held.get(id_of(hello.caller))
        return held is not None and held.due is not None and held.may_go_to(hello)

    def waits(self, orphan: Orphan) -> bool:
        """Whether an orphan still waits for a process."""
        return self.is_interrupted(orphan.caller)

    def is_interrupted(self, caller: relay_pb2.CallerContext) -> bool:
        """Whether the caller's session waits for a process."""
        held = self._held.get(id_of(caller))
        return held is not None and held.due is not None

    def check_open(self, caller: relay_pb2.CallerContext) -> None:
        """Raises VoxplaneError SESSION_ENDED if the caller's session is known
        not to come back."""
        key = id_of(caller)
        if key in self._over:
            raise _ended(key)

    def attached(self, job_id: str) -> bool:
        """Whether one of LiveKit's jobs has ever been here."""
        return job_id in self._jobs

    def attach(self, hello: relay_pb2.JobHello) -> Seat:
        """A process has a session from now on. Raises VoxplaneError
        INVALID_REQUEST if another one has it, SESSION_ENDED if it does not come
        back. A session without an id is known to nobody."""
        key = id_of(hello.caller)
        self.check_open(hello.caller)
        held = self._held.get(key)
        if held is not None and (held.due is None or not held.may_go_to(hello)):
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_INVALID_REQUEST, f"session {key.session_id} runs on this node already"
            )
        if held is None:
            held = HeldSession(hello, self._node_id, self._clock.time())
        else:
            held.hello, held.due = hello, None
            held.returns = held.replacements + 1
            self.tally.replacements += 1
        seat = Seat(self, held, held.legacy())
        held.base = 0 if seat.legacy else int(self._clock.time() * 1e3)
        if held.returns:
            _log.info("session taken over", **_names(held), pid=hello.pid, replacements=held.returns)
            for command in held.orders():
                seat.commands.put_nowait(command)
        if key.session_id:
            self._held[key], self._seats[key] = held, seat
            self._know(hello.job_id)
        return seat

    def command(self, command: SessionCommand) -> None:
        """The control plane wants something of a session."""
        key = id_of(command.session)
        held, seat = self._held.get(key), self._seats.get(key)
        if held is None:
            self._answer(command, _not_found(key))
        elif held.ended:
            self._answer(command, _ended(key))
        elif seat is None and command.WhichOneof("action") == "end":
            self._end(held, session_pb2.SESSION_OUTCOME_OPERATOR_ENDED, command.end.reason)
            self._answer(command, None)
        elif len(held.unanswered) >= COMMANDS_MAX:
            self._answer(command, _too_many(key))
        else:
            held.unanswered[command.command_id] = command
            if seat is not None:
                seat.commands.put_nowait(command)

    def give_up(self, orphan: Orphan, reason: str) -> None:
        """Nobody takes the session over; nothing if somebody has, or it is
        over."""
        held = self._held.get(id_of(orphan.caller))
        if held is not None and held.due is not None:
            self._fail(held, reason)

    def moved(self, orphan: Orphan) -> None:
        """Another node has taken the session over, and reports it from now on;
        nothing if somebody has here, or it is over."""
        held = self._held.get(id_of(orphan.caller))
        if held is not None and held.due is not None:
            _log.warning("session taken over by another node", **_names(held))
            self._forget(held)
            self._teller.moved(*held.id)

    def end_all(self, reason: str) -> int:
        """The node ends the calls that are left, each after a last word; how
        many are told."""
        self.stop()
        told = 0
        for key, seat in self._seats.items():
            if self._held[key].is_voice and not seat.commands.full():
                command = SessionCommand(session=session_service_pb2.SessionKey(**key._asdict()))
                command.end.reason = reason
                seat.commands.put_nowait(command)
                told += 1
        return told

    def drain(self) -> None:
        """The node takes nothing new: a process that goes now is not
        replaced."""
        self._draining = True
        for held in [held for held in self._held.values() if held.due is not None]:
            self._end(held, session_pb2.SESSION_OUTCOME_NODE_STOPPED, "the node stopped")

    def stop(self) -> None:
        """The node ends the sessions that are left: none of their callers has
        left by himself."""
        self.drain()
        self._stopping = True

    async def run(self) -> None:
        """Give up sessions that wait too long, until cancelled."""
        while True:
            due = min((held.due for held in self._held.values() if held.due is not None), default=None)
            now = self._clock.monotonic()
            if due is None:
                self._wake.clear()
                await self._wake.wait()
            elif due > now:
                await self._clock.sleep(max(due - now, ALARM_SECONDS_MIN))
            else:
                for held in [h for h in self._held.values() if h.due is not None and h.due <= now]:
                    self._fail(held, f"no process has taken it over within {ORPHAN_SECONDS_MAX:g} s")

    def take(self, held: HeldSession, request: relay_pb2.AttachRequest) -> None:
        """See Seat."""
        match request.WhichOneof("event"):
            case "session" if held.id.session_id:
                self._report(held, request.session)
            case "result":
                command = held.unanswered.pop(request.result.command_id, None)
                if command is not None:
                    held.obeyed(command, request.result.status)
                    self._teller.result(request.result)
            case "memory":
                held.memory.add(request.memory)
            case "figures":
                held.pss_bytes = request.figures.pss_bytes or held.pss_bytes
                self.tally.figures(request.figures)
            case _:
                pass

    def leave(self, seat: Seat, held: HeldSession, *, orderly: bool) -> None:
        """See Seat."""
        if self._seats.get(held.id) is not seat:
            return  # it has no id, or was given up
        del self._seats[held.id]
        held.pss_bytes = 0
        if held.ended or (held.record is None and (orderly or not held.is_voice)):
            self._forget(held)
        elif self._draining:
            self._end(held, session_pb2.SESSION_OUTCOME_NODE_STOPPED, "the node stopped")
        elif not held.is_voice:
            self._fail(held, "its process died")
        elif held.replacements >= REPLACEMENTS_MAX:
            self._fail(held, f"its process died, and it was replaced {held.replacements} times already")
        else:
            self._orphan(held)

    def _report(self, held: HeldSession, report: session_service_pb2.SessionReport) -> None:
        session = report.session
        session.tenant_id, session.session_id = held.id
        session.node_id = self._node_id
        session.sequence += held.base
        is_end = session.state == session_pb2.SESSION_STATE_ENDED and not held.ended
        if is_end and self._stopping and session.outcome in _OF_A_STOP:
            session.outcome = session_pb2.SESSION_OUTCOME_NODE_STOPPED
            session.end_reason = session.end_reason or "the node stopped"
        try:
            protovalidate.validate(report)
        except protovalidate.ValidationError as error:
            self.tally.invalid_reports += 1
            _log.error("a report is not valid", **_names(held), fields=_paths(error))
            return
        if held.ended and session.state != session_pb2.SESSION_STATE_ENDED:
            return
        held.told(session)
        for turn in report.turns:
            self.tally.turn(turn)
        self._teller.report(report)
        if is_end:
            self.tally.end(session.outcome)
            self._answer_all(held)

    def _know(self, job_id: str) -> None:
        if job_id:
            self._jobs[job_id] = None
            if len(self._jobs) > JOBS_KNOWN_MAX:
                del self._jobs[next(iter(self._jobs))]

    def _orphan(self, held: HeldSession) -> None:
        held.due = self._clock.monotonic() + ORPHAN_SECONDS_MAX
        self.tally.orphans += 1
        hello = held.hello
        caller = relay_pb2.CallerContext()
        caller.CopyFrom(hello.caller)
        orphan = Orphan(caller, hello.room, hello.job_id, hello.kind, held.replacements)
        _log.error("the process of a session died", **_names(held), pid=hello.pid, job_id=hello.job_id)
        try:
            self.orphans.put_nowait(orphan)
        except asyncio.QueueFull:
            self._fail(held, f"its process died, and {ORPHANS_MAX} other sessions wait for one")
        self._wake.set()

    def _fail(self, held: HeldSession, reason: str) -> None:
        _log.error("session failed", **_names(held), reason=reason)
        self._end(held, session_pb2.SESSION_OUTCOME_FAILED, reason)

    def _end(self, held: HeldSession, outcome: session_pb2.SessionOutcome, reason: str) -> None:
        """End a session that has no process."""
        self._over[held.id] = None
        if len(self._over) > OVER_MAX:
            del self._over[next(iter(self._over))]
        record = held.over(outcome, reason, self._clock.time())
        self.tally.end(outcome)
        self._teller.report(session_service_pb2.SessionReport(session=record))
        self._forget(held)

    def _forget(self, held: HeldSession) -> None:
        held.due = None
        self._answer_all(held)
        self._held.pop(held.id, None)

    def _answer_all(self, held: HeldSession) -> None:
        """Whoever waits for the session to answer hears that it is over."""
        operator = held.record and held.record.outcome == session_pb2.SESSION_OUTCOME_OPERATOR_ENDED
        for command in held.unanswered.values():
            done = operator and command.WhichOneof("action") == "end"
            self._answer(command, None if done else _ended(held.id))
        held.unanswered.clear()

    def _answer(self, command: SessionCommand, error: VoxplaneError | None) -> None:
        status = to_status(error) if error else status_pb2.Status()
        self._teller.result(
            session_service_pb2.SessionCommandResult(command_id=command.command_id, status=status)
        )


def _names(held: HeldSession) -> dict[str, str]:
    caller = held.hello.caller
    return {"tenant_id": caller.tenant_id, "agent": caller.agent_id, "session_id": caller.session_id}


def _paths(error: protovalidate.ValidationError) -> list[str]:
    """Where a report is not valid; what is there is not repeated."""
    fields = [violation.proto.field for violation in error.violations[:VIOLATIONS_MAX]]
    return [".".join(element.field_name for element in field.elements) for field in fields if field]


def _not_found(key: SessionId) -> VoxplaneError:
    return VoxplaneError(
        reason_pb2.ERROR_REASON_SESSION_NOT_FOUND,
        f"session {key.session_id} is not on this node",
        metadata={"session": key.session_id},
    )


def _ended(key: SessionId) -> VoxplaneError:
    return VoxplaneError(
        reason_pb2.ERROR_REASON_SESSION_ENDED,
        f"session {key.session_id} is over",
        metadata={"session": key.session_id},
    )


def _too_many(key: SessionId) -> VoxplaneError:
    return VoxplaneError(
        reason_pb2.ERROR_REASON_LIMIT_REACHED,
        f"session {key.session_id} has {COMMANDS_MAX} commands to answer",
        metadata={"session": key.session_id},
    )
