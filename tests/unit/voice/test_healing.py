"""An agent comes back to a caller whose call's process died."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agent_node.calls.healing import DEATHS_MAX, TRIES_MAX, Healer, Lost, Outcome
from agent_node.relay import Orphan
from tests.unit.voice.call_world import CallWorld, Dispatch, FakeDesk, FakeRooms, metadata, orphan

DEAD = "agent-job-1"


class HealingWorld(CallWorld):
    """A gate that holds the call `s-1` of job-1, whose process has died."""

    def __init__(self, slots_max: int = 2) -> None:
        super().__init__(slots_max=slots_max)
        self.rooms = FakeRooms()
        self.rooms.agents[DEAD] = "s-1"
        self.desk = FakeDesk()
        self.kills: list[str] = []
        self.loads: list[float] = []
        self.offers: set[asyncio.Task[object]] = set()
        self.healer = Healer(
            node_id="n-1",
            rooms=self.rooms,
            gate=self.gate,
            desk=self.desk,
            clock=self.clock,
            kill=self.kills.append,
            tell=self._tell,
            dispatch_of=self.gate.dispatch_of,
        )

    async def _tell(self) -> None:
        self.loads.append(self.meter.told())

    @asynccontextmanager
    async def dies(self, job_id: str = "job-1") -> AsyncIterator[Orphan]:
        """The call runs, its process dies, and the healer is at work."""
        await self.offer(job_id, metadata(session="s-1"))
        lost = orphan(job_id)
        healing = asyncio.create_task(self.healer.run(self.desk.orphans))
        self.desk.orphans.put_nowait(lost)
        yield lost
        healing.cancel()

    def take_here(self, dispatch: Dispatch) -> None:
        """LiveKit offers each dispatch to this node."""
        request = dispatch.wanted
        job = self.offer(
            "job-2",
            metadata(session=request.caller.session_id, node=request.node),
            dispatch_id=dispatch.id,
        )
        self.offers.add(asyncio.create_task(job))


async def test_the_dead_agent_goes_and_another_comes_here() -> None:
    """At once, with the caller's own words, for this node, and the old dispatch is forgotten."""
    world = HealingWorld()
    world.rooms.on_dispatch = world.take_here
    async with world.dies():
        await world.clock.settle()
        await world.clock.settle()
        assert world.clock.monotonic() == 0
    assert (world.kills, world.rooms.removed, world.rooms.deleted) == (["job-1"], [DEAD], ["AD_job-1"])
    (dispatch,) = world.rooms.dispatches
    assert dispatch.wanted.node == "n-1"
    assert dispatch.wanted.caller == orphan().caller
    assert world.healer.outcomes == {Outcome.HERE: 1}
    assert world.desk.given_up == []
    assert (len(world.slots), world.slots.kept) == (1, 0)


async def test_a_full_node_takes_its_own_call_back() -> None:
    """LiveKit is told that there is room, before it is asked, and no other caller gets it."""
    world = HealingWorld(slots_max=1)
    async with world.dies():
        await world.clock.settle()
        assert world.loads
        assert world.loads[0] < 1
        assert (await world.offer("job-9", metadata())).rejected == [False]
        assert (await world.offer("job-2", metadata(session="s-1", node="n-1"))).accepted
        await world.clock.settle()
    assert world.healer.outcomes == {Outcome.HERE: 1}


async def test_a_caller_who_has_left_is_not_looked_after() -> None:
    """No agent is asked for into an empty room."""
    world = HealingWorld()
    world.rooms.callers = 0
    async with world.dies():
        await world.clock.settle()
    assert world.rooms.dispatches == []
    assert world.desk.given_up == ["its process died, and the caller left"]
    assert world.healer.outcomes == {Outcome.LEFT: 1}


async def test_another_node_takes_the_call_if_this_one_does_not_get_it() -> None:
    """The second dispatch is for anybody; the first can be taken by nobody any more."""
    world = HealingWorld()

    def elsewhere(dispatch: Dispatch) -> None:
        if not dispatch.wanted.node:
            world.rooms.agents["agent-other"] = "s-1"

    world.rooms.on_dispatch = elsewhere
    async with world.dies():
        await world.clock.advance(10)
        late = await world.offer("job-2", metadata(session="s-1", node="n-1"))
    assert late.rejected == [False]
    assert [each.wanted.node for each in world.rooms.dispatches] == ["n-1", ""]
    assert world.rooms.deleted == ["AD_job-1", "AD_new0"]
    assert (world.desk.moves, world.desk.given_up) == (["job-1"], [])
    assert world.healer.outcomes == {Outcome.ELSEWHERE: 1}


async def test_an_agent_of_another_session_is_no_help() -> None:
    """A room may hold agents that have nothing to do with the call."""
    world = HealingWorld()
    world.rooms.agents["agent-translator"] = ""
    async with world.dies():
        await world.clock.advance(60)
    assert len(world.rooms.dispatches) == TRIES_MAX
    assert world.desk.given_up == ["its process died, and no node has taken the call"]
    assert world.slots.kept == 0


@pytest.mark.parametrize("failures", [1, 2, 3])
async def test_a_server_that_is_away_for_a_moment_is_asked_again(failures: int) -> None:
    """The place is kept meanwhile, and the first dispatch is for this node still."""
    world = HealingWorld()
    world.rooms.on_dispatch = world.take_here
    world.rooms.failures = failures
    async with world.dies():
        await world.clock.advance(5)
    assert world.healer.outcomes == {Outcome.HERE: 1}
    assert [each.wanted.node for each in world.rooms.dispatches] == ["n-1"]


async def test_a_server_that_stays_away_is_given_up() -> None:
    """After a bounded number of tries; the session's end says why."""
    world = HealingWorld()
    world.rooms.failures = 1000
    async with world.dies():
        await world.clock.advance(60)
    assert world.desk.given_up == ["its process died, and LiveKit cannot be reached"]
    assert world.rooms.failures >= 1000 - 2 * TRIES_MAX


async def test_a_session_that_ended_meanwhile_is_left_alone() -> None:
    """As when an operator ends it; its dead agent still goes."""
    world = HealingWorld()
    world.desk.waiting = False
    async with world.dies():
        await world.clock.settle()
    assert world.rooms.dispatches == []
    assert world.rooms.removed == [DEAD]
    assert world.healer.outcomes == {Outcome.OVER: 1}


@pytest.mark.parametrize("end", [Outcome.OVER, Outcome.LEFT, Outcome.NOBODY])
async def test_what_was_asked_for_is_taken_back_when_nobody_is_wanted_any_more(end: Outcome) -> None:
    """A node that takes the call late would go on with a session that is over."""
    world = HealingWorld()
    async with world.dies():
        await world.clock.advance(3)
        assert [each.wanted.node for each in world.rooms.dispatches] == ["n-1", ""]
        world.desk.waiting = end is not Outcome.OVER
        world.rooms.callers = int(end is not Outcome.LEFT)
        await world.clock.advance(60)
    assert world.healer.outcomes == {end: 1}
    assert set(world.rooms.deleted) == {"AD_job-1", *(each.id for each in world.rooms.dispatches)}


async def test_a_job_that_comes_while_another_is_asked_for_is_the_only_one() -> None:
    """It is not ended for the sake of the other, which is taken back."""
    world = HealingWorld()

    async def take_first() -> None:
        await world.offer("job-2", metadata(session="s-1", node="n-1"), dispatch_id="AD_new0")

    def come_late(dispatch: Dispatch) -> None:
        if not dispatch.wanted.node:
            world.offers.add(asyncio.create_task(take_first()))

    world.rooms.on_dispatch = come_late
    async with world.dies():
        await world.clock.advance(10)
    assert world.healer.outcomes == {Outcome.HERE: 1}
    assert world.rooms.deleted == ["AD_job-1", "AD_new1"]


async def test_a_call_that_never_began_is_healed_but_not_for_ever() -> None:
    """A process that dies as soon as it starts is not started again and again."""
    world = HealingWorld()
    world.rooms.on_dispatch = world.take_here
    caller = orphan().caller
    for number in range(DEATHS_MAX):
        world.healer.unbegun(Lost(caller, "room-1", f"job-{number}"))
        await world.clock.advance(1)
        world.gate.ended("job-2")
    assert world.healer.outcomes == {Outcome.HERE: DEATHS_MAX - 1, Outcome.NOBODY: 1}
    assert len(world.rooms.dispatches) == DEATHS_MAX - 1
