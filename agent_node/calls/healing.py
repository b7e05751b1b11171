"""Brings an agent back to a caller whose call's process died.

LiveKit does nothing by itself: the caller would look at a dead agent for 20 s
and more. So the dead agent is put out of the room at once, and another is asked
for, with the session's id.

- First for this node alone, as the conversation so far is here; other nodes let
  such a job pass. If it has not come in time, for any node, where the session
  goes on with an empty history.
- Before every try the session must still wait, and the caller be there.
- A dispatch that is not needed any more is deleted, so that no other node goes
  on with a session that has ended or is here.
- A job that was accepted and whose process died before the relay knew of it has
  left nothing, but its caller waits as well.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import structlog

from agent_node.calls.gate import AGENT_NAME, Gate
from agent_node.calls.rooms import People, Rooms, RoomsError
from agent_node.job.voice_request import VoiceRequest, metadata_of
from agent_node.relay import Orphan
from voxplane.clock import Clock
from voxplane.node.v1.relay_service_pb2 import CallerContext

TRIES_MAX = 4
HERE_SECONDS_MAX = 1.5
ANYWHERE_SECONDS_MAX = 4.0
POLL_SECONDS = 0.5
HEALING_MAX = 16
"""Calls that are healed at once; others wait."""
DEATHS_MAX = 3
"""Of one call's processes before the relay knew of them."""
DEATHS_KEPT = 1_000

_log = structlog.stdlib.get_logger(__name__)


class Desk(Protocol):
    """Who has the node's sessions; relay.SessionDesk is the real one."""

    def waits(self, orphan: Orphan) -> bool:
        """Whether an orphan still waits for a process."""
        ...

    def give_up(self, orphan: Orphan, reason: str) -> None:
        """Nobody takes the session over."""
        ...

    def moved(self, orphan: Orphan) -> None:
        """Another node has taken the session over."""
        ...


class Outcome(Enum):
    """What became of a call whose process died."""

    HERE = "here"
    """Another process of this node has it."""
    ELSEWHERE = "another node"
    OVER = "over"
    """It ended meanwhile."""
    LEFT = "the caller left"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Lost:
    """A call whose process died; `orphan` is None if the relay did not know of it."""

    caller: CallerContext
    room: str
    job_id: str
    orphan: Orphan | None = None

    @property
    def agent(self) -> str:
        """The dead agent's identity in the room."""
        return f"agent-{self.job_id}"


class Healer:
    """Heals calls. `kill` makes sure that a job's process is dead; `tell` lets
    LiveKit know that the node can take a call; `dispatch_of` gives the dispatch
    that a job came from, and is empty if it is not known."""

    def __init__(
        self,
        *,
        node_id: str,
        rooms: Rooms,
        gate: Gate,
        desk: Desk,
        clock: Clock,
        kill: Callable[[str], None],
        tell: Callable[[], Awaitable[None]],
        dispatch_of: Callable[[str], str],
    ) -> None:
        self._node_id = node_id
        self._rooms = rooms
        self._gate = gate
        self._desk = desk
        self._clock = clock
        self._kill = kill
        self._tell = tell
        self._dispatch_of = dispatch_of
        self._free = asyncio.Semaphore(HEALING_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._deaths: OrderedDict[tuple[str, str], int] = OrderedDict()
        self.outcomes: Counter[Outcome] = Counter()

    async def run(self, orphans: asyncio.Queue[Orphan]) -> None:
        """Heal what comes, until cancelled."""
        try:
            while True:
                orphan = await orphans.get()
                self._start(Lost(orphan.caller, orphan.room, orphan.job_id, orphan))
        finally:
            for task in self._tasks:
                task.cancel()

    def unbegun(self, lost: Lost) -> None:
        """A call's process died before the relay knew of it."""
        key = (lost.caller.tenant_id, lost.caller.session_id)
        deaths = self._deaths[key] = self._deaths.pop(key, 0) + 1
        if len(self._deaths) > DEATHS_KEPT:
            self._deaths.popitem(last=False)
        if deaths < DEATHS_MAX:
            self._start(lost)
        else:
            self._end(lost, Outcome.NOBODY, f"its process died {deaths} times before it had begun")

    def _start(self, lost: Lost) -> None:
        # at once, before somebody else is given the place
        self._gate.ended(lost.job_id)
        arrived = self._gate.keep(lost.caller)
        task = asyncio.create_task(self._heal(lost, arrived), name="heal a call")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _heal(self, lost: Lost, arrived: asyncio.Future[str]) -> None:
        outcome, why = Outcome.NOBODY, "healing broke"
        began = self._clock.monotonic()
        asked = list(filter(None, [self._dispatch_of(lost.job_id)]))
        try:
            async with self._free:
                self._kill(lost.job_id)
                outcome, why = await self._bring_back(lost, arrived, asked)
                if outcome is not Outcome.ELSEWHERE:
                    await self._forget(lost.room, asked, arrived.result() if arrived.done() else "")
        except Exception as error:
            _log.error("healing broke", error=type(error).__name__, **_names(lost))
        finally:
            self._gate.give_up(lost.caller, arrived)
        self._end(lost, outcome, why, seconds=round(self._clock.monotonic() - began, 3))

    async def _bring_back(
        self, lost: Lost, arrived: asyncio.Future[str], asked: list[str]
    ) -> tuple[Outcome, str]:
        """`asked` are the call's dispatches that may still be there."""
        why, here = "", True
        dead = {lost.agent}
        for _ in range(TRIES_MAX):
            try:
                people = await self._rooms.people(lost.room)
                if here and not arrived.done():
                    dead |= people.holders(lost.caller.session_id)
                for identity in dead:
                    await self._rooms.remove(lost.room, identity)
                if (outcome := self._settled(lost, arrived, people, dead)) is not None:
                    return outcome, why
                wanted = VoiceRequest(lost.caller, self._node_id if here else "")
                await self._tell()
                made = await self._rooms.dispatch(lost.room, AGENT_NAME, metadata_of(wanted))
                asked.append(made)
                await self._forget(lost.room, asked, arrived.result() if arrived.done() else made)
                anywhere, here = not here, False
                if (outcome := await self._taken(lost, arrived, dead, anywhere=anywhere)) is not None:
                    return outcome, why
                why = "no node has taken the call"
            except RoomsError as error:
                why = str(error)
                await self._clock.sleep(POLL_SECONDS)
        return Outcome.NOBODY, why

    def _settled(
        self, lost: Lost, arrived: asyncio.Future[str], people: People, dead: set[str]
    ) -> Outcome | None:
        """What became of the call by now; None if an agent is still wanted."""
        if arrived.done():
            return Outcome.HERE
        if lost.orphan is not None and not self._desk.waits(lost.orphan):
            return Outcome.OVER
        if not people.callers:
            return Outcome.LEFT
        return Outcome.ELSEWHERE if people.holders(lost.caller.session_id) - dead else None

    async def _forget(self, room: str, asked: list[str], but: str) -> None:
        """Delete dispatches, but for one: their jobs are dead, or nobody has
        taken them. It also ends a job that takes one of them too late."""
        for dispatch_id in [each for each in asked if each != but]:
            with suppress(RoomsError):
                await self._rooms.delete_dispatch(room, dispatch_id)
                asked.remove(dispatch_id)

    async def _taken(
        self, lost: Lost, arrived: asyncio.Future[str], dead: set[str], *, anywhere: bool
    ) -> Outcome | None:
        """Wait until the call was taken; None if nobody has come."""
        ends = self._clock.monotonic() + (ANYWHERE_SECONDS_MAX if anywhere else HERE_SECONDS_MAX)
        while (left := ends - self._clock.monotonic()) > 0:
            await self._arrives(arrived, min(left, POLL_SECONDS))
            if arrived.done():
                return Outcome.HERE
            if anywhere:
                people = await self._rooms.people(lost.room)
                if (outcome := self._settled(lost, arrived, people, dead)) is not None:
                    return outcome
        return None

    async def _arrives(self, arrived: asyncio.Future[str], seconds: float) -> None:
        limit = asyncio.create_task(self._clock.sleep(seconds))
        try:
            await asyncio.wait({arrived, limit}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            limit.cancel()

    def _end(self, lost: Lost, outcome: Outcome, why: str, seconds: float = 0.0) -> None:
        self.outcomes[outcome] += 1
        if outcome in (Outcome.HERE, Outcome.ELSEWHERE):
            _log.warning("call healed", by=outcome.value, seconds=seconds, **_names(lost))
            if outcome is Outcome.ELSEWHERE and lost.orphan is not None:
                self._desk.moved(lost.orphan)
            return
        reason = why if outcome is Outcome.NOBODY else outcome.value
        _log.error("call not healed", reason=reason, seconds=seconds, job_id=lost.job_id, **_names(lost))
        if lost.orphan is not None:
            self._desk.give_up(lost.orphan, f"its process died, and {reason}")


def _names(lost: Lost) -> dict[str, str]:
    caller = lost.caller
    return {"tenant_id": caller.tenant_id, "agent": caller.agent_id, "session_id": caller.session_id}
