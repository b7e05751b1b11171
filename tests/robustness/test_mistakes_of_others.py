"""Mistakes that others have made, made again: each check passes on what we
have, and fails on a class with the mistake in it."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable

import pytest

from agent_node.upstream import WatchProtocol
from agent_node.upstream.events import Action as NodeAction
from agent_node.upstream.events import BackOff, Begin, Close, Ended, Received, Subscribe, Tick
from control_plane.state import TenantState
from control_plane.watch import Hub, Stream
from tests.robustness.faults.hub_world import World
from tests.robustness.faults.mistakes_of_others import (
    Buffers,
    BusyFirst,
    Leaks,
    LosesWhileBusy,
    NotifiesUnderLock,
    ReadsFirst,
    RelistingNode,
    Relists,
    SendsUnderLock,
    WaitsForEver,
    WaitsForItsRevision,
)
from tests.unit.watch.reference_client import ReferenceClient
from voxplane.names import TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

BUSY, QUIET = TenantId("busy"), TenantId("quiet")
STREAMS = 50
COMMITS = 200
STATES_MAX = 10
READERS = 20
READS_MAX = 500
SILENT_SECONDS_MAX = 300.0
BYTES_PER_RESUME_MAX = 1_000


async def _fails(check: Callable[[], Awaitable[None]]) -> bool:
    """Whether a check finds fault."""
    try:
        await check()
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize(
    ("place", "mistaken"),
    [
        ("", LosesWhileBusy),
        ("", ReadsFirst),
        ("", Leaks),
        ("", NotifiesUnderLock),
        ("control_plane.watch.hub.Stream", BusyFirst),
        ("control_plane.watch.hub.Stream", Buffers),
        ("control_plane.watch.hub.Stream", SendsUnderLock),
        ("control_plane.watch.hub.Planner", Relists),
        ("control_plane.watch.serving.StreamState", WaitsForItsRevision),
    ],
)
async def test_a_mistake_does_not_show_on_a_quiet_day(
    monkeypatch: pytest.MonkeyPatch, place: str, mistaken: type
) -> None:
    """Each class with a mistake in it serves a lone client well: what the checks
    find is the mistake."""
    if place:
        monkeypatch.setattr(place, mistaken)
    world = World(Hub if place else mistaken)
    await world.create(BUSY)
    sink = world.watch(ReferenceClient(BUSY))
    await world.settle()
    newest = await world.update(BUSY, "One.")
    await world.settle()
    alive, number = not sink.task.done(), sink.client.number(BUSY)
    await world.close()
    assert alive
    assert number == newest


# etcd 17529: a busy stream starves others and loses events.


async def check_that_a_busy_stream_loses_nothing(hub: type[Hub] = Hub) -> None:
    """What changes while a stream is in a write comes after it."""
    world = World(hub)
    await world.create(BUSY)
    sink = world.watch(ReferenceClient(BUSY))
    await world.settle()
    sink.reading.clear()
    await world.update(BUSY, "One.")
    await world.settle()
    newest = await world.update(BUSY, "Two.")
    await world.settle()
    sink.reading.set()
    await world.settle()
    number = sink.client.number(BUSY)
    await world.close()
    assert number == newest


async def check_that_a_busy_tenant_starves_none(hub: type[Hub] = Hub) -> None:
    """A stream of all tenants brings a change of a quiet one soon, though
    another changes with each message that it sends."""
    world = World(hub)
    for tenant_id in (BUSY, QUIET):
        await world.create(tenant_id)
    sink = world.watch(ReferenceClient("-"))
    await world.settle()
    numbers = iter(range(COMMITS))

    async def change_again() -> None:
        number = next(numbers, None)
        if number is not None:
            await world.update(BUSY, f"Number {number}.")
            await world.clock.settle()

    sink.after_write = change_again
    sink.reading.clear()
    await world.update(BUSY, "Begin.")
    await world.settle()
    before = len(sink.messages)
    newest = await world.update(QUIET, "Here.")
    sink.reading.set()
    for _ in range(COMMITS):
        await world.settle()
        if sink.client.number(QUIET) == newest:
            break
    brought = [sync_pb2.WatchConfigResponse.FromString(data).transfer for data in sink.messages[before:]]
    await world.close()
    place = [transfer.tenant_id for transfer in brought].index(QUIET)
    assert place <= 3


async def test_etcd_17529_a_busy_stream_loses_nothing() -> None:
    """A stream that is busy is told of changes all the same; one that is told
    only when idle is found out."""
    await check_that_a_busy_stream_loses_nothing()
    assert await _fails(lambda: check_that_a_busy_stream_loses_nothing(LosesWhileBusy))


async def test_etcd_17529_a_busy_tenant_starves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenants of a stream are served in turn; a stream that serves the newest
    change first is found out."""
    await check_that_a_busy_tenant_starves_none()
    monkeypatch.setattr("control_plane.watch.hub.Stream", BusyFirst)
    assert await _fails(check_that_a_busy_tenant_starves_none)


# etcd 15402: bulk reads starve watches.


async def check_that_reads_do_not_starve_watches(hub: type[Hub] = Hub) -> None:
    """A change comes before many more reads are answered, though readers ask
    again at once, without end."""
    world = World(hub)
    await world.create(BUSY)
    sink = world.watch(ReferenceClient(BUSY))
    await world.settle()
    reads = 0

    async def read(turns: int) -> None:
        nonlocal reads
        # Not all in step, so that at any moment some read.
        for _ in range(turns):
            await asyncio.sleep(0)
        while True:
            await world.hub.fetch(sync_pb2.FetchConfigRequest(tenant_id=BUSY))
            reads += 1
            await asyncio.sleep(0)

    readers = [asyncio.create_task(read(number)) for number in range(READERS)]
    await world.clock.settle()
    newest = await world.update(BUSY, "Here.")
    before = reads
    while sink.client.number(BUSY) < newest and reads - before < READS_MAX:  # noqa: ASYNC110 - turns count
        await asyncio.sleep(0)
    number = sink.client.number(BUSY)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    await world.close()
    assert number == newest


async def test_etcd_15402_reads_do_not_starve_watches() -> None:
    """Watches go on among reads; a hub that lets reads go first is found out."""
    await check_that_reads_do_not_starve_watches()
    assert await _fails(lambda: check_that_reads_do_not_starve_watches(ReadsFirst))


# Kubernetes 123448: an idle watcher with an unbounded buffer.


async def check_that_an_idle_watcher_costs_nothing() -> None:
    """For a watcher that does not read no more is kept, however much changes,
    and when it reads again it gets the newest at once."""
    world = World()
    await world.create(BUSY)
    sink = world.watch(ReferenceClient(BUSY))
    await world.settle()
    sink.reading.clear()
    newest = 0
    for number in range(COMMITS):
        newest = await world.update(BUSY, f"Number {number}.")
        await world.clock.settle()
    gc.collect()
    states = sum(isinstance(one, TenantState) and one.tenant_id == BUSY for one in gc.get_objects())
    before = len(sink.messages)
    sink.reading.set()
    await world.settle()
    messages, number = len(sink.messages) - before, sink.client.number(BUSY)
    await world.close()
    assert states <= STATES_MAX
    assert messages <= 2
    assert number == newest


async def test_kubernetes_123448_an_idle_watcher_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams are level-triggered; one that keeps a buffer is found out."""
    await check_that_an_idle_watcher_costs_nothing()
    monkeypatch.setattr("control_plane.watch.hub.Stream", Buffers)
    assert await _fails(check_that_an_idle_watcher_costs_nothing)


# Kubernetes 86430: after a restart everybody lists everything, together.


async def check_that_a_restart_is_no_relist() -> None:
    """Clients that come back to a server that was started again are sent next
    to nothing."""
    world = World()
    await world.create(BUSY)
    await world.update(BUSY, "x" * 10_000)
    clients = [ReferenceClient(BUSY) for _ in range(STREAMS)]
    for client in clients:
        world.watch(client)
    await world.settle()
    await world.close()
    again = World(store=world.store)
    sinks = [again.watch(client) for client in clients]
    await again.settle()
    sent = [sum(map(len, sink.messages)) for sink in sinks]
    await again.close()
    assert all(client.number(BUSY) == 2 for client in clients)
    assert max(sent) < BYTES_PER_RESUME_MAX


def _node(protocol: type[WatchProtocol], jitter: Callable[[], float] = lambda: 0.5) -> WatchProtocol:
    return protocol(node=sync_pb2.NodeInfo(node_id="n"), jitter=jitter, now=0.0, tenant_id=BUSY)


async def _synced_node(protocol: type[WatchProtocol]) -> WatchProtocol:
    """A node that has had a transfer and a heartbeat of 30 s."""
    world = World()
    await world.create(BUSY)
    sink = world.watch(ReferenceClient(BUSY))
    await world.settle()
    node = _node(protocol)
    node.receive(Begin(0.0))
    message = sync_pb2.WatchConfigResponse.FromString(sink.messages[0])
    node.receive(Received(message, 0.0))
    beat = sync_pb2.WatchConfigResponse(stream_id=message.stream_id, nonce="2")
    beat.heartbeat.interval.FromSeconds(30)
    node.receive(Received(beat, 0.0))
    await world.close()
    assert node.stale(0.0) is None
    return node


async def check_that_a_node_resumes(protocol: type[WatchProtocol] = WatchProtocol) -> None:
    """A node whose stream has ended declares all that it has."""
    node = await _synced_node(protocol)
    node.receive(Ended("the server was started again", 1.0))
    (subscribe,) = node.receive(Begin(2.0))
    assert isinstance(subscribe, Subscribe)
    request = subscribe.request
    assert request.start_revisions[BUSY].number == 1
    assert request.known
    assert request.known_contents


async def check_that_nodes_come_back_apart(jitter: Callable[[], float]) -> None:
    """Nodes that have lost a server at one moment do not come back at one."""
    waits: list[float] = []
    for _ in range(STREAMS):
        node = _node(WatchProtocol, jitter)
        node.receive(Begin(0.0))
        for action in node.receive(Ended("the server is gone", 1.0)):
            assert isinstance(action, BackOff)
            waits.append(action.seconds)
    waits.sort()
    assert waits[STREAMS * 3 // 4] - waits[STREAMS // 4] > 0.05


async def test_kubernetes_86430_a_restart_is_no_relist(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume brings the difference; a server that ignores what was declared, a
    node that declares nothing, and nodes without jitter are found out."""
    await check_that_a_restart_is_no_relist()
    await check_that_a_node_resumes()
    await check_that_nodes_come_back_apart(random.Random(1).random)
    assert await _fails(lambda: check_that_a_node_resumes(RelistingNode))
    assert await _fails(lambda: check_that_nodes_come_back_apart(lambda: 1.0))
    monkeypatch.setattr("control_plane.watch.hub.Planner", Relists)
    assert await _fails(check_that_a_restart_is_no_relist)


# go-control-plane 570: watches leak on reconnect.


async def check_that_reconnects_leave_nothing(hub: type[Hub] = Hub) -> None:
    """Of streams that have come and gone nothing is left, and their tenant
    leaves memory."""
    world = World(hub)
    await world.create(BUSY)
    for _ in range(STREAMS):
        world.watch(ReferenceClient(BUSY))
        await world.clock.settle()
        world.sinks.pop().task.cancel()
        await world.clock.settle()
    await world.clock.advance(3_600)
    gc.collect()
    left = sum(isinstance(one, Stream) and one.tenant_id == BUSY for one in gc.get_objects())
    resident, streams = world.tenants.peek(BUSY), world.hub.streams
    await world.close()
    assert (left, streams, resident) == (0, 0, None)


async def test_go_control_plane_570_reconnects_leave_nothing() -> None:
    """A hub lets go of what is over; one that leaks is found out."""
    await check_that_reconnects_leave_nothing()
    assert await _fails(lambda: check_that_reconnects_leave_nothing(Leaks))


# go-control-plane 503: send under a lock.


async def check_that_nobody_waits_for_a_slow_reader(hub: type[Hub] = Hub) -> None:
    """With one stream stuck in a write others get every change, new streams are
    served, and commits are answered."""
    world = World(hub)
    await world.create(BUSY)
    sinks = [world.watch(ReferenceClient(BUSY)) for _ in range(3)]
    await world.settle()
    sinks[0].reading.clear()
    newest = 0
    for number in range(3):
        newest = await world.update(BUSY, f"Number {number}.")
        await world.settle()
    late = world.watch(ReferenceClient(BUSY))
    await world.settle()
    numbers = [sink.client.number(BUSY) for sink in (*sinks[1:], late)]
    sinks[0].reading.set()
    await world.close()
    assert numbers == [newest] * 3


async def test_go_control_plane_503_nobody_waits_for_a_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams share no lock; those that do, or that wake one another, are found
    out."""
    await check_that_nobody_waits_for_a_slow_reader()
    assert await _fails(lambda: check_that_nobody_waits_for_a_slow_reader(NotifiesUnderLock))
    monkeypatch.setattr("control_plane.watch.hub.Stream", SendsUnderLock)
    assert await _fails(check_that_nobody_waits_for_a_slow_reader)


# nats.rs 1596: a watch hangs for ever after a restart.


async def check_that_a_silent_stream_is_left(protocol: type[WatchProtocol] = WatchProtocol) -> None:
    """A node whose server was replaced without a word leaves the stream, calls
    itself stale, and opens another."""
    node = await _synced_node(protocol)
    actions: list[NodeAction] = []
    now = 0.0
    while now < SILENT_SECONDS_MAX and not actions:
        now += 1.0
        actions = node.receive(Tick(now))
    assert [type(action) for action in actions] == [Close]
    assert node.stale(now) is not None
    assert isinstance(node.receive(Ended("silent", now))[0], BackOff)
    assert isinstance(node.receive(Begin(now))[0], Subscribe)


async def check_that_a_shorter_history_is_told() -> None:
    """A client that comes back to a server whose history is another, and
    shorter, is sent what there is."""
    world = World()
    await world.create(BUSY)
    for number in range(5):
        await world.update(BUSY, f"Number {number}.")
    client = ReferenceClient(BUSY)
    world.watch(client)
    await world.settle()
    await world.close()
    restored = World()
    await restored.create(BUSY)
    restored.watch(client)
    await restored.settle()
    await restored.close()
    assert client.number(BUSY) == 1


async def test_nats_1596_no_watch_hangs_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence ends a stream, and a history that went back is told; a node that
    waits for ever and a server that waits for a revision are found out."""
    await check_that_a_silent_stream_is_left()
    await check_that_a_shorter_history_is_told()
    assert await _fails(lambda: check_that_a_silent_stream_is_left(WaitsForEver))
    monkeypatch.setattr("control_plane.watch.serving.StreamState", WaitsForItsRevision)
    assert await _fails(check_that_a_shorter_history_is_told)
