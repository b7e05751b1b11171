"""Which voice jobs a node takes."""

from __future__ import annotations

import asyncio

import pytest
from livekit.agents import AssignmentTimeoutError

from agent_node.calls.gate import ASK_SECONDS_MAX
from tests.unit.voice.call_world import CallWorld, metadata
from voxplane.errors import VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2

NOT_FOUND = VoxplaneError(reason_pb2.ERROR_REASON_AGENT_NOT_FOUND, "the node does not know the agent")
STALE = VoxplaneError(reason_pb2.ERROR_REASON_CONFIG_STALE, "no word for 300 s")
BROKEN = VoxplaneError(reason_pb2.ERROR_REASON_BUILD_FAILED, "no bundle can be used")


def reasons(world: CallWorld) -> list[str]:
    """Why the room was told that calls were refused."""
    return [told["reason"] for _, told, _ in world.told]


async def test_a_call_is_taken_and_its_agent_bears_the_session() -> None:
    """The job's id is the session's, unless the metadata name one."""
    world = CallWorld()
    assert (await world.offer("job-1", metadata())).accepted == [{"voxplane.session_id": "job-1"}]
    taken = await world.offer("job-2", metadata(session="s-9"))
    assert taken.accepted == [{"voxplane.session_id": "s-9"}]
    assert world.permission.asked[1].session_id == "s-9"
    assert (len(world.slots), world.gate.accepted, world.told) == (2, 2, [])
    assert world.gate.dispatch_of("job-2") == "AD_job-2"


async def test_bad_metadata_is_refused_for_good_and_the_room_hears_why() -> None:
    """No other node could do better. What the caller sent is not repeated."""
    world = CallWorld()
    answers = await world.offer("job-1", '{"tenant": "SECRET"}')
    assert answers.rejected == [True]
    room, told, final = world.told[0]
    assert (room, final, told["reason"], told["final"]) == ("room-1", True, "INVALID_REQUEST", True)
    assert "metadata.agent" in told["message"]
    assert "SECRET" not in told["message"]
    assert world.gate.refusals == {"INVALID_REQUEST": 1}


async def test_a_full_node_leaves_the_call_to_others() -> None:
    """The next call is refused until one has ended."""
    world = CallWorld(slots_max=1)
    await world.offer("job-1", metadata())
    answers = await world.offer("job-2", metadata())
    assert answers.rejected == [False]
    assert reasons(world) == ["NODE_FULL"]
    world.gate.ended("job-1")
    assert (await world.offer("job-3", metadata())).accepted


async def test_a_tenant_at_its_bound_does_not_keep_others_out() -> None:
    """The refusal is the tenant's alone."""
    world = CallWorld(slots_max=10, tenant_max=1)
    await world.offer("job-1", metadata("acme"))
    assert (await world.offer("job-2", metadata("acme"))).rejected == [False]
    assert (await world.offer("job-3", metadata("bolt"))).accepted
    assert reasons(world) == ["TENANT_FULL"]


async def test_calls_that_come_at_once_never_are_more_than_may_be() -> None:
    """The place is taken before the node thinks about the call."""
    world = CallWorld(slots_max=2)
    answers = await asyncio.gather(*(world.offer(f"job-{n}", metadata()) for n in range(5)))
    assert sum(len(each.accepted) for each in answers) == 2
    assert sum(len(each.rejected) for each in answers) == 3


async def test_an_unknown_agent_is_refused_for_good_only_by_who_would_know() -> None:
    """A node that is not in step with the tenant leaves the call to others; no place is lost."""
    world = CallWorld(slots_max=1)
    world.permission.error = NOT_FOUND
    assert (await world.offer("job-1", metadata())).rejected == [False]
    world.permission.level.add("acme")
    assert (await world.offer("job-2", metadata())).rejected == [True]
    assert [final for _, _, final in world.told] == [False, True]
    assert len(world.slots) == 0


@pytest.mark.parametrize("error", [STALE, BROKEN])
async def test_what_another_node_may_do_better_is_left_to_it(error: VoxplaneError) -> None:
    """A stale or broken config on this node says nothing of others."""
    world = CallWorld()
    world.permission.error = error
    assert (await world.offer("job-1", metadata())).rejected == [False]
    assert reasons(world) == [error.reason_name]
    assert len(world.slots) == 0


async def test_a_node_that_cannot_tell_in_time_refuses() -> None:
    """LiveKit's server waits for seconds only, and asks nobody else if no answer comes."""
    world = CallWorld()
    world.permission.waits = True
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await world.offer("job-1", metadata())).rejected == [False]
    assert loop.time() - began < ASK_SECONDS_MAX + 1
    assert reasons(world) == ["NOT_READY"]
    assert len(world.slots) == 0


async def test_a_draining_node_refuses_and_says_so() -> None:
    """Calls that were offered before LiveKit knew are answered, too."""
    world = CallWorld()
    world.gate.drain()
    assert (await world.offer("job-1", metadata())).rejected == [False]
    assert reasons(world) == ["DRAINING"]


async def test_a_busy_machine_refuses() -> None:
    """Though it has places."""
    world = CallWorld()
    world.meter.sample(0.9)
    assert (await world.offer("job-1", metadata())).rejected == [False]
    assert reasons(world) == ["CPU_BUSY"]


async def test_a_place_comes_back_when_the_job_never_comes() -> None:
    """LiveKit may offer a call to a node and give it to nobody."""
    world = CallWorld(slots_max=1)
    await world.offer("job-1", metadata(), assigned=AssignmentTimeoutError())
    assert (len(world.slots), world.unlaunched) == (0, [])
    await world.offer("job-2", metadata(), assigned=RuntimeError("no process became available"))
    assert (len(world.slots), world.unlaunched) == (0, ["job-2"])


async def test_a_session_is_held_once() -> None:
    """A second job for it is refused for good."""
    world = CallWorld()
    await world.offer("job-1", metadata(session="s"))
    assert (await world.offer("job-2", metadata(session="s"))).rejected == [True]
    assert reasons(world) == ["SESSION_HELD"]


async def test_a_call_that_is_healed_comes_back_to_its_place() -> None:
    """Also on a node that is full and busy, which nobody else gets into."""
    world = CallWorld(slots_max=1)
    await world.offer("job-1", metadata(session="s"))
    world.meter.sample(0.9)
    world.gate.ended("job-1")
    caller = world.permission.asked[0]
    arrived = world.gate.keep(caller)
    assert (await world.offer("job-2", metadata())).rejected == [False]
    assert not arrived.done()
    assert (await world.offer("job-3", metadata(session="s", node="n-1"))).accepted
    assert arrived.done()
    world.gate.give_up(caller, arrived)
    assert len(world.slots) == 1


async def test_a_job_that_heals_is_for_its_own_node() -> None:
    """Others let it pass, and so does its own when it comes too late; the room hears nothing of it."""
    world = CallWorld()
    assert (await world.offer("job-1", metadata(session="s", node="n-2"))).rejected == [False]
    assert (await world.offer("job-2", metadata(session="s", node="n-1"))).rejected == [False]
    assert world.told == []
    assert world.gate.refusals == {"OTHER_NODE": 2}
