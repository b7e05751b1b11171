"""Attacks on the hub: wake-ups, holds, heartbeats and what is left behind."""

from __future__ import annotations

import asyncio
import time

import pytest

from control_plane.watch import Permit
from tests.unit.watch.attack_world import AttackWorld, SteeredRights, turns_until

QUIET, LONGEST = 0.5, 2.0


@pytest.mark.parametrize("turns", range(5))
async def test_a_last_change_in_the_turn_in_which_a_hold_ends_goes_out(turns: int) -> None:
    """A burst lasts just as long as the longest wait. Its last commit is
    delivered in whichever turn of the loop it comes."""
    world = AttackWorld(quiet_seconds=QUIET, longest_seconds=LONGEST)
    world.tenants.publish("acme", "a", "first")
    held = world.hold("acme")
    await world.clock.settle()
    world.tenants.publish("acme", "a", "at once")
    world.tenants.publish("acme", "a", "held")

    async def last_commit() -> None:
        await turns_until(lambda: world.clock.monotonic() >= LONGEST)
        for _ in range(turns):
            await asyncio.sleep(0)
        world.tenants.publish("acme", "a", "last")

    for number in range(4):
        await world.clock.advance(0.45)
        world.tenants.publish("acme", "a", f"burst {number}")
    last = asyncio.create_task(last_commit())
    await world.clock.advance(600)
    await last
    (record,) = world.tenants.logs["acme"].state.bundles.values()
    assert held.etags("acme") == {record.name: record.etag}
    await world.close(held)


@pytest.mark.parametrize(
    "turns",
    range(5),
)
async def test_a_change_just_after_an_urgent_one_goes_out(turns: int) -> None:
    """An urgent change overtakes a held one. The next commit is delivered in
    whichever turn of the loop it comes, also in that in which the hold ends
    with nothing left to do."""
    world = AttackWorld(quiet_seconds=QUIET, longest_seconds=LONGEST)
    world.tenants.publish("acme", "a", "first")
    held = world.hold("acme")
    await world.clock.settle()
    world.tenants.publish("acme", "a", "at once")
    world.tenants.publish("acme", "a", "held")

    async def last_commit() -> None:
        await turns_until(lambda: world.clock.monotonic() >= QUIET)
        for _ in range(turns):
            await asyncio.sleep(0)
        world.tenants.publish("acme", "a", "last")

    await world.clock.advance(QUIET - 0.1)
    world.tenants.publish("acme", "a", "urgent", urgent=True)
    last = asyncio.create_task(last_commit())
    await world.clock.advance(600)
    await last
    (record,) = world.tenants.logs["acme"].state.bundles.values()
    assert held.etags("acme") == {record.name: record.etag}
    await world.close(held)


async def test_a_change_after_a_reader_took_the_held_ones_goes_out() -> None:
    """The longest wait of a burst is over in a turn in which another tenant
    changes and the reader is ready: the burst's last commit goes out too."""
    world = AttackWorld(quiet_seconds=QUIET, longest_seconds=LONGEST)
    world.tenants.publish("acme", "a", "first")
    world.tenants.publish("other", "a", "first")
    held, other = world.hold("acme"), world.hold("other")
    await world.clock.settle()
    held.reads.clear()
    world.tenants.publish("acme", "a", "at once")
    world.tenants.publish("acme", "a", "held")

    async def last_commit() -> None:
        await turns_until(lambda: world.clock.monotonic() >= LONGEST)
        world.tenants.publish("other", "a", "second")
        held.reads.set()
        asyncio.get_running_loop().call_soon(world.tenants.publish, "acme", "a", "last")

    for number in range(4):
        await world.clock.advance(0.45)
        world.tenants.publish("acme", "a", f"burst {number}")
    last = asyncio.create_task(last_commit())
    await world.clock.advance(600)
    await last
    (record,) = world.tenants.logs["acme"].state.bundles.values()
    assert held.etags("acme") == {record.name: record.etag}
    await world.close(held, other)


async def test_tenants_that_nobody_looked_at_leave_nothing_behind() -> None:
    """A reader that hangs while many tenants change, and goes, leaves no word
    of them."""
    world = AttackWorld(quiet_seconds=QUIET, longest_seconds=LONGEST)
    world.tenants.publish("t0", "a", "first")
    held = world.hold("-")
    await world.clock.settle()
    held.reads.clear()
    for number in range(200):
        world.tenants.publish(f"t{number}", "a", "changed")
    await world.clock.advance(10)
    await world.close(held)
    debounce = world.hub._debounce  # pyright: ignore[reportPrivateUsage]
    assert not debounce._last  # pyright: ignore[reportPrivateUsage]


async def test_a_stream_lets_others_have_their_turn() -> None:
    """A stream of thousands of tenants that looks at all of them again, and
    finds nothing to send, does not keep the loop."""
    world = AttackWorld()
    for number in range(5_000):
        world.tenants.publish(f"t{number:04}", "a", "first")
    held = world.hold("-")
    await turns_until(lambda: len(held.messages) >= 5_000)
    await world.clock.settle()
    world.rights.set("none", world.rights.otherwise)
    stream = held.stream
    assert stream is not None
    await asyncio.sleep(0)
    waiter = "_waiter"
    assert await turns_until(lambda: getattr(stream, waiter) is not None) >= 10
    await world.close(held)


async def test_a_first_heartbeat_that_is_due_at_once_comes() -> None:
    """A stream whose first wait is nothing still has heartbeats."""
    world = AttackWorld(jitter=lambda: 0.0, heartbeat_seconds=30.0)
    world.tenants.publish("acme", "a", "first")
    held = world.hold("acme")
    await world.clock.advance(300)
    assert sum(message.HasField("heartbeat") for message in held.messages) >= 9
    await world.close(held)


async def test_a_first_stream_after_a_long_time_holds_nobody_up() -> None:
    """A server that nobody watched for weeks takes its first stream as any
    other."""
    world = AttackWorld()
    world.tenants.publish("acme", "a", "first")
    await world.clock.advance(40 * 86_400)
    held = world.hold("acme")
    began = time.process_time()
    await world.clock.advance(2)
    assert time.process_time() - began < 0.1
    await world.close(held)


class CountedRights(SteeredRights):
    """Counts how often it is asked."""

    asked = 0

    def permit(self, principal: str, tenant_id: str) -> Permit:
        """See SteeredRights."""
        self.asked += 1
        return super().permit(principal, tenant_id)


async def test_a_change_of_rights_does_not_keep_the_loop() -> None:
    """However many streams look again at what they show, others have their
    turn every few thousand looks."""
    rights = CountedRights()
    world = AttackWorld(rights=rights)
    for number in range(120):
        world.tenants.publish(f"t{number:03}", "a", "first")
    held = [world.hold("-") for _ in range(400)]
    await turns_until(lambda: all(len(each.messages) >= 120 for each in held))
    await world.clock.settle()
    world.hub.rights_changed()
    most = 0
    for _ in range(300):
        before = rights.asked
        await asyncio.sleep(0)
        most = max(most, rights.asked - before)
    assert most <= 15_000
    await world.close(*held)
