"""Attacks on the end of streams: interrupts, cancellations, drains, leaks."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.watch.attack_world import AttackWorld, Held, turns_until
from voxplane.errors import VoxplaneError
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

KINDS = ("end, interrupt", "cancel, interrupt", "interrupt, cancel", "read, interrupt", "interrupt, read")


def request_of(tenant: str = "acme", node: str = "") -> sync_pb2.WatchConfigRequest:
    """A request for all of a tenant."""
    request = sync_pb2.WatchConfigRequest(tenant_id=tenant)
    if node:
        request.node.node_id = node
    return request


def attribute(owner: Any, *path: str) -> Any:
    """What is at a path of attributes."""
    for name in path:
        owner = getattr(owner, name)
    return owner


async def hanging(world: AttackWorld) -> Held:
    """A stream that hangs in a write."""
    world.tenants.publish("acme", "a", "first")
    held = world.hold("acme")
    await world.clock.settle()
    held.reads.clear()
    world.tenants.publish("acme", "a", "second")
    await world.clock.settle()
    return held


@pytest.mark.parametrize("kind", KINDS)
async def test_an_interrupt_and_what_comes_with_it(kind: str) -> None:
    """A hanging stream that is interrupted ends with its reason, also if the
    write is over in the same turn; one that is cancelled at the same time is
    cancelled."""
    world = AttackWorld()
    held = await hanging(world)
    stream = held.stream
    assert stream is not None
    error = VoxplaneError(reason_pb2.ERROR_REASON_NODE_REPLACED, "replaced")
    steps: dict[str, Callable[[], object]] = {
        "end": lambda: None,
        "cancel": held.task.cancel,
        "interrupt": stream.interrupt,
        "read": held.reads.set,
    }
    stream.end(error)
    for step in kind.split(", "):
        steps[step]()
    await asyncio.gather(held.task, return_exceptions=True)
    if "cancel" in kind:
        assert held.task.cancelled()
    else:
        assert held.error is error
        assert held.task.cancelling() == 0
    assert world.hub.streams == 0
    await world.close()


async def test_an_interrupted_stream_is_interrupted_once() -> None:
    """Interrupts that follow do not reach what comes after the stream."""
    world = AttackWorld()
    held = await hanging(world)
    stream = held.stream
    assert stream is not None
    stream.end(VoxplaneError(reason_pb2.ERROR_REASON_NODE_REPLACED, "replaced"))
    for _ in range(3):
        stream.interrupt()
    await world.clock.settle()
    stream.interrupt()
    await asyncio.gather(held.task)
    assert held.error is not None
    await world.close()


@pytest.mark.parametrize("turns", range(6))
async def test_a_drain_meets_streams_that_open(turns: int) -> None:
    """A stream that opens while the server drains is refused or told, and all
    are ended in time."""
    world = AttackWorld()
    world.tenants.publish("acme", "a", "first")
    # So many names are read in a thread, while which the drain begins.
    large = request_of()
    large.known.update({f"tenants/acme/agents/a{number}": "e" for number in range(2_100)})
    large.start_revisions["acme"].number = 1
    held = [world.hold(large if number % 2 else request_of()) for number in range(20)]
    for _ in range(turns):
        await asyncio.sleep(0)
    await world.clock.finish(world.hub.drain(10))
    await asyncio.wait_for(asyncio.gather(*(each.task for each in held)), 20)
    assert {each.error.reason for each in held if each.error} == {reason_pb2.ERROR_REASON_SHUTTING_DOWN}
    assert all(each.error for each in held)
    await world.close()
    assert world.hub.streams == 0


async def test_two_drains_and_a_close_at_once() -> None:
    """A server that is told to go twice, and then at once, goes."""
    random.seed(1)
    world = AttackWorld(jitter=random.random)
    world.tenants.publish("acme", "a", "first")
    held = [world.hold("acme") for _ in range(1_000)]
    await world.clock.settle()
    for each in held[::3]:
        each.reads.clear()
    world.tenants.publish("acme", "a", "second")
    await world.clock.settle()
    drains = [asyncio.create_task(world.hub.drain(5)) for _ in range(2)]
    await world.clock.advance(0.5)
    await world.hub.close()
    await asyncio.gather(*(each.task for each in held))
    await world.clock.advance(10)
    assert all(drain.done() for drain in drains)
    assert {each.error.reason for each in held if each.error} == {reason_pb2.ERROR_REASON_SHUTTING_DOWN}
    assert world.hub.streams == 0


async def test_streams_that_come_and_go_leave_nothing_in_the_hub() -> None:
    """Thousands of streams, cancelled at any moment, leave no word of
    themselves, no task and no object."""
    chance = random.Random(7)
    world = AttackWorld(jitter=chance.random, stall_seconds=1.0)
    world.rights.ends = world.clock.time() + 30
    for number in range(10):
        world.tenants.publish(f"t{number}", "a", "first")

    async def round_of(count: int) -> None:
        held: list[Held] = []
        for _ in range(count):
            tenant = chance.choice(("-", "t1", "t2", "nobody"))
            held.append(world.hold(request_of(tenant, chance.choice(("", "n1", "n2", "n3")))))
            if chance.random() < 0.3:
                await asyncio.sleep(0)
            if chance.random() < 0.2:
                held[-1].reads.clear()
            if chance.random() < 0.2:
                world.tenants.publish(f"t{chance.randrange(10)}", "a", f"{chance.random()}")
            if chance.random() < 0.5:
                held.pop(chance.randrange(len(held))).task.cancel()
        await world.clock.advance(chance.choice((0.0, 1.0, 5.0)))
        for each in held:
            each.task.cancel()
        await asyncio.gather(*(each.task for each in held), return_exceptions=True)
        await world.clock.settle()

    sizes: list[int] = []
    for _ in range(6):
        await round_of(400)
        gc.collect()
        sizes.append(len(gc.get_objects()))
    hub = world.hub
    left = {
        place: len(attribute(hub, *place.split(".")))
        for place in (
            "_streams",
            "_watchers",
            "_marked",
            "_sleepers",
            "_holding",
            "_around.pace._slots",
            "_around.pins._counts",
            "_around.fleet._streams",
            "_planner._newest",
            "_credentials._unwarned",
            "_credentials._warned",
            "_stalls._pending",
        )
    }
    left["pinned"] = len(world.tenants.pinned)
    assert {name: count for name, count in left.items() if count} == {}
    assert sizes[-1] - sizes[2] < 3_000
    await world.close()
    assert await turns_until(lambda: len(asyncio.all_tasks()) == 1) < 100


async def test_a_stream_that_ends_while_thousands_are_woken() -> None:
    """Streams that close while they wait for their wake-up do not stop the
    others from getting theirs."""
    chance = random.Random(3)
    world = AttackWorld()
    world.tenants.publish("acme", "a", "first")
    held = [world.hold("acme") for _ in range(700)]
    await world.clock.settle()
    for number in range(12):
        world.tenants.publish("acme", "a", f"{number}")
        for _ in range(chance.randrange(9)):
            await asyncio.sleep(0)
            for _ in range(4):
                held.pop(chance.randrange(len(held))).task.cancel()
    await world.clock.settle()
    (record,) = world.tenants.logs["acme"].state.bundles.values()
    assert all(each.etags("acme") == {record.name: record.etag} for each in held)
    await world.close(*held)
