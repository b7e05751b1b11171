"""Attacks on what may be watched: the right to all tenants, and credentials."""

from __future__ import annotations

import asyncio
import time

import pytest

from control_plane.fleet import Fleet
from control_plane.state import TenantState
from control_plane.watch import EVERY_AGENT, NOTHING, Permit
from tests.unit.watch.attack_world import AttackWorld
from tests.virtual_clock import VirtualClock
from voxplane.names import ALL_TENANTS, TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2


async def test_who_declares_something_still_needs_the_right_to_all_tenants() -> None:
    """A client that may not watch all tenants at once is refused, whatever it
    says that it has."""
    world = AttackWorld()
    world.tenants.publish("acme", "a", "first")
    world.rights.set(ALL_TENANTS, NOTHING)
    request = sync_pb2.WatchConfigRequest(tenant_id=ALL_TENANTS)
    request.start_revisions["acme"].number = 1
    held = world.hold(request)
    await world.clock.settle()
    assert held.etags("acme") == {}
    assert held.error is not None
    assert held.error.reason == reason_pb2.ERROR_REASON_PERMISSION_LOST
    await world.close(held)


async def test_a_stream_of_all_tenants_ends_with_its_right() -> None:
    """Losing the right to all tenants ends an open stream of them."""
    world = AttackWorld()
    world.tenants.publish("acme", "a", "first")
    held = world.hold(ALL_TENANTS)
    await world.clock.settle()
    world.rights.set(ALL_TENANTS, NOTHING)
    await world.clock.settle()
    world.tenants.publish("globex", "a", "made since")
    await world.clock.settle()
    assert held.etags("globex") == {}
    assert held.error is not None
    assert held.error.reason == reason_pb2.ERROR_REASON_PERMISSION_LOST
    await world.close(held)


async def test_a_credential_that_ends_sooner_than_it_was_to_ends_the_stream() -> None:
    """A credential whose end is moved forward ends its streams at the new
    time."""
    world = AttackWorld()
    world.tenants.publish("acme", "a", "first")
    world.rights.ends = world.clock.time() + 3_000
    held = world.hold("acme")
    await world.clock.advance(100)
    world.rights.ends = world.clock.time() + 10
    world.rights.set("acme", EVERY_AGENT)
    await world.clock.advance(60)
    assert held.error is not None
    assert held.error.reason == reason_pb2.ERROR_REASON_CREDENTIAL_EXPIRED
    await world.close(held)


@pytest.mark.parametrize("left", [NOTHING, Permit(agents=frozenset())])
async def test_a_right_that_goes_while_a_tenant_is_loaded_counts(left: Permit) -> None:
    """Nothing of a tenant is sent to a client that has lost the right to it
    while the tenant was read from the store."""
    world = AttackWorld()
    world.tenants.publish("acme", "a", "first")
    loaded = asyncio.Event()
    log = world.tenants.logs.pop("acme")

    async def get(tenant_id: TenantId) -> TenantState:
        await loaded.wait()
        return log.state

    world.tenants.get = get  # type: ignore[method-assign]
    held = world.hold("acme")
    await world.clock.settle()
    world.rights.set("acme", left)
    loaded.set()
    await world.clock.settle()
    assert not any(message.transfer.bundles for message in held.messages)
    await world.close(held)


async def test_tenants_that_may_not_be_seen_are_not_kept_in_memory() -> None:
    """A stream of all tenants keeps those that it may see, not all that there
    are."""
    world = AttackWorld()
    for number in range(20):
        world.tenants.publish(f"t{number}", "a", "first")
    world.rights.otherwise = NOTHING
    world.rights.permits |= {ALL_TENANTS: EVERY_AGENT, "t7": EVERY_AGENT}
    held = world.hold(ALL_TENANTS)
    await world.clock.settle()
    assert set(world.tenants.pinned) == {"t7"}
    await world.close(held)


async def test_a_reader_that_stopped_is_ended_when_it_loses_its_right() -> None:
    """A reader that hangs in a write, and may see nothing any more, does not
    keep its stream."""
    world = AttackWorld(stall_seconds=5.0)
    world.tenants.publish("acme", "a", "first")
    held = world.hold("acme")
    await world.clock.settle()
    held.reads.clear()
    world.tenants.publish("acme", "a", "second")
    await world.clock.advance(10)
    assert world.hub.stalled == 1
    world.rights.set("acme", NOTHING)
    await world.clock.advance(600)
    assert world.hub.streams == 0
    await world.close(held)


async def test_a_reader_that_stopped_is_ended_at_its_age() -> None:
    """A reader that hangs in a write does not outlive the greatest age."""
    world = AttackWorld(stall_seconds=5.0, age_seconds_max=600.0)
    world.tenants.publish("acme", "a", "first")
    held = world.hold("acme")
    await world.clock.settle()
    held.reads.clear()
    world.tenants.publish("acme", "a", "second")
    await world.clock.advance(7_200)
    assert world.hub.streams == 0
    await world.close(held)


def test_tenants_that_a_node_may_not_see_cost_the_same_each() -> None:
    """A node of all tenants that may see few: being told so of eight times as
    many costs about eight times as much."""

    def seconds(tenants: int) -> float:
        fleet = Fleet(VirtualClock())
        request = sync_pb2.WatchConfigRequest(tenant_id=ALL_TENANTS)
        request.node.node_id = "n1"
        fleet.open("s1", request)
        began = time.process_time()
        for number in range(tenants):
            fleet.removed("s1", TenantId(f"t{number}"))
        return time.process_time() - began

    small = min(seconds(2_000) for _ in range(3))
    assert seconds(16_000) < 24 * small
