"""The hub under bursts, drains, stopped readers and rights that end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from control_plane.fleet import Fleet
from control_plane.services import decisions
from control_plane.state import Tenants
from control_plane.store.memory import MemoryStore
from control_plane.watch import EVERY_AGENT, NOTHING, Hub, Permit, WatchSettings
from control_plane.watch.debounce import Debounce
from control_plane.watch.serving import Pieces
from tests.unit.services.agent_requests import AGENT, TENANT, create, update
from tests.unit.watch.reference_client import ReferenceClient
from tests.virtual_clock import VirtualClock
from voxplane.errors import VoxplaneError
from voxplane.names import TenantId
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

QUIET, LONGEST = 0.5, 2.0


class Granted:
    """control_plane.watch.Rights that tests change by hand."""

    def __init__(self) -> None:
        self.permits: dict[str, Permit] = {}
        self.ends: dict[str, float] = {}
        self._changed: Callable[[], None] = lambda: None

    def permit(self, principal: str, tenant_id: str) -> Permit:
        """What was set, or everything."""
        return self.permits.get(tenant_id, EVERY_AGENT)

    def expires(self, principal: str) -> float | None:
        """What was set, or never."""
        return self.ends.get(principal)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Keep who wants to know."""
        self._changed = listener

    def set(self, tenant_id: str, permit: Permit) -> None:
        """Change a right."""
        self.permits[tenant_id] = permit
        self._changed()


class Sink:
    """A stream that is served in a task, to a client that reads while `reads`
    is set."""

    def __init__(self, world: World, request: sync_pb2.WatchConfigRequest, client: ReferenceClient) -> None:
        self.client = client
        self.error: VoxplaneError | None = None
        self.drains: list[tuple[float, sync_pb2.Drain]] = []
        self.times: list[float] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self._world = world
        self._request = request
        self.task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        hub = self._world.hub
        try:
            stream = await hub.open(self._request, "someone")
            try:
                await stream.serve(self._write)
            finally:
                hub.close_stream(stream)
        except VoxplaneError as error:
            self.error = error
            self.ended = self._world.clock.monotonic()

    async def _write(self, pieces: Pieces) -> None:
        await self.reads.wait()
        message = self.client.receive(b"".join(pieces))
        now = self._world.clock.monotonic()
        if message.HasField("drain"):
            self.drains.append((now, message.drain))
        if message.HasField("transfer"):
            self.times.append(now)


class World:
    """A hub over real tenants, in virtual time."""

    def __init__(self, **settings: float) -> None:
        self.clock = VirtualClock()
        self.rights = Granted()
        self.tenants = Tenants(MemoryStore(), self.clock)
        watch = WatchSettings(**{"quiet_seconds": 0.0, **settings})  # type: ignore[arg-type]
        self.hub = Hub(
            self.tenants, Fleet(self.clock), self.clock, watch, random.Random(1).random, self.rights
        )

    async def watch(self, tenant: str = TENANT, node: str = "") -> Sink:
        """Open a stream, and let it get what there is."""
        client = ReferenceClient(tenant)
        sink = Sink(self, client.request(node), client)
        await self.clock.settle()
        return sink

    async def create(self) -> None:
        """Make the agent."""
        request = create()
        await self.tenants.commit(
            TENANT,
            lambda state, act: decisions.create_agent(state, request, act),
            request,
            method="/test",
            principal="tester",
            answer=agents_pb2.CreateAgentResponse,
        )

    async def update(self, text: str) -> None:
        """Change the agent."""
        request = update(text)
        await self.tenants.commit(
            TENANT,
            lambda state, act: decisions.update_agent_config(state, request, act),
            request,
            method="/test",
            principal="tester",
            answer=agents_pb2.UpdateAgentConfigResponse,
        )
        await self.clock.settle()

    async def roll_back(self) -> None:
        """Point `live` where it was before."""
        request = agents_pb2.RollbackAliasRequest(tenant_id=TENANT, agent_id=AGENT)
        await self.tenants.commit(
            TENANT,
            lambda state, act: decisions.rollback_alias(state, request, act),
            request,
            method="/test",
            principal="tester",
            answer=agents_pb2.RollbackAliasResponse,
        )
        await self.clock.settle()

    async def close(self, *sinks: Sink) -> None:
        """End what is open."""
        for sink in sinks:
            sink.reads.set()
            sink.task.cancel()
        await asyncio.gather(*(sink.task for sink in sinks), return_exceptions=True)
        await self.hub.close()
        assert self.hub.streams == 0


def test_a_lone_change_waits_for_nothing_and_a_burst_is_bounded() -> None:
    """The first change goes out at once; those that follow within the quiet
    time wait for quiet, and never longer than the bound; urgent ones do not."""
    acme = TenantId("acme")
    debounce = Debounce(QUIET, LONGEST)
    assert debounce.changed(acme, 0.0)
    assert debounce.due(acme) is None
    assert not debounce.changed(acme, 0.1)
    assert debounce.due(acme) == 0.1 + QUIET
    for tenths in range(2, 21):
        assert not debounce.changed(acme, tenths / 10)
    assert debounce.due(acme) == 0.1 + LONGEST
    assert debounce.changed(TenantId("other"), 2.0), "tenants do not hold up each other"
    assert debounce.changed(acme, 2.05, urgent=True)
    assert debounce.due(acme) is None


async def test_a_burst_of_commits_is_a_few_messages() -> None:
    """Commits that come one after the other are sent together: the first at
    once, the rest when it is quiet or after the longest wait."""
    world = World(quiet_seconds=QUIET, longest_seconds=LONGEST)
    await world.create()
    sink = await world.watch()
    await world.clock.advance(10)
    sink.times.clear()
    for number in range(40):
        await world.update(f"Change {number}.")
        await world.clock.advance(0.1)
    await world.clock.advance(1)
    assert sink.client.number(TENANT) == 41
    assert sink.times[0] == 10
    assert len(sink.times) <= 4
    gaps = [b - a for a, b in zip(sink.times, sink.times[1:], strict=False)]
    assert max(gaps) <= LONGEST + 0.2
    await world.close(sink)


async def test_a_rollback_is_not_held_back() -> None:
    """A rollback that comes right after a change goes out at once."""
    world = World(quiet_seconds=QUIET, longest_seconds=LONGEST)
    await world.create()
    sink = await world.watch()
    await world.clock.advance(10)
    await world.update("One.")
    await world.roll_back()
    assert sink.client.number(TENANT) == 3
    assert sink.times[-1] == 10
    await world.close(sink)


async def test_a_drain_is_spread_and_lets_changes_through() -> None:
    """Every stream is told when to come back, each at another time within the
    spread; until then it gets changes, and it is ended soon after. New streams
    are refused."""
    world = World()
    await world.create()
    sinks = [await world.watch() for _ in range(100)]
    draining = asyncio.create_task(world.hub.drain(10))
    await world.clock.settle()
    waits = sorted(sink.drains[0][1].reconnect_after.ToNanoseconds() / 1e9 for sink in sinks)
    assert 0 <= waits[0] < waits[-1] <= 100 / 500
    assert len(set(waits)) == 100
    assert (await world.watch()).error is not None
    await world.update("Still here.")
    assert all(sink.client.number(TENANT) == 2 for sink in sinks)
    await world.clock.advance(1)
    assert draining.done()
    for sink in sinks:
        assert sink.error is not None
        assert sink.error.reason == reason_pb2.ERROR_REASON_SHUTTING_DOWN
        told = sink.drains[0][1].reconnect_after.ToNanoseconds() / 1e9
        assert told < sink.ended <= told + 1
    await world.close()


async def test_a_drain_is_over_when_nobody_is_left() -> None:
    """A server without streams does not wait, nor for clients that have gone."""
    world = World()
    await world.hub.drain(10)
    assert world.clock.monotonic() == 0
    await world.close()


async def test_a_reader_that_does_not_read_is_given_up_past_a_bound() -> None:
    """A stream that hangs in a write is kept while little has changed, and is
    ended with RESOURCE_EXHAUSTED when more than the bound has been committed
    for it; others notice nothing."""
    world = World(stall_seconds=5.0, pending_bytes_max=50_000)
    await world.create()
    stopped, reader = await world.watch(), await world.watch()
    stopped.reads.clear()
    await world.update("x" * 10_000)
    assert world.hub.stalled == 0
    await world.clock.advance(7)
    assert world.hub.stalled == 1
    await world.update("y" * 20_000)
    assert stopped.error is None
    await world.update("z" * 30_000)
    assert stopped.error is not None
    assert stopped.error.reason == reason_pb2.ERROR_REASON_READER_TOO_SLOW
    assert (world.hub.streams, world.hub.stalled) == (1, 0)
    assert reader.client.number(TENANT) == 4
    await world.close(reader)


async def test_a_reader_that_reads_again_is_kept() -> None:
    """A reader that was slow and comes back in time gets the newest state."""
    world = World(stall_seconds=5.0, pending_bytes_max=50_000)
    await world.create()
    sink = await world.watch()
    sink.reads.clear()
    for number in range(4):
        await world.update(f"{number}" * 8_000)
        await world.clock.advance(7)
    sink.reads.set()
    await world.clock.settle()
    assert sink.client.number(TENANT) == 5
    for number in range(20):
        await world.update(f"{number}" * 8_000)
    await world.clock.advance(7)
    assert (sink.error, world.hub.stalled) == (None, 0)
    await world.close(sink)


async def test_a_replaced_node_that_does_not_read_is_ended_too() -> None:
    """The older of two streams of one node ends even while it hangs in a
    write."""
    world = World(stall_seconds=5.0)
    await world.create()
    older = await world.watch(node="n1")
    older.reads.clear()
    await world.update("More.")
    newer = await world.watch(node="n1")
    await world.clock.advance(7)
    assert older.error is not None
    assert older.error.reason == reason_pb2.ERROR_REASON_NODE_REPLACED
    assert newer.error is None
    await world.close(newer)


async def test_rights_are_looked_at_again_at_once() -> None:
    """A right that is lost on an open stream takes effect without a commit: a
    stream of all tenants goes on without the tenant, one of that tenant ends."""
    world = World()
    await world.create()
    one, every = await world.watch(), await world.watch("-")
    world.rights.set(TENANT, NOTHING)
    await world.clock.settle()
    assert (one.client.gone, every.client.gone) == ([TENANT], [TENANT])
    assert one.error is not None
    assert one.error.reason == reason_pb2.ERROR_REASON_PERMISSION_LOST
    assert every.error is None
    await world.update("Not for them.")
    assert every.client.bundles == {}
    world.rights.set(TENANT, EVERY_AGENT)
    await world.clock.settle()
    assert every.client.number(TENANT) == 2
    await world.close(every)


async def test_a_watch_without_the_right_is_refused() -> None:
    """A client that may see nothing and has nothing is refused; one that
    fetches too."""
    world = World()
    await world.create()
    world.rights.set(TENANT, NOTHING)
    sink = await world.watch()
    assert sink.error is not None
    assert sink.error.reason == reason_pb2.ERROR_REASON_PERMISSION_LOST
    world.rights.set("-", NOTHING)
    assert (await world.watch("-")).error is not None
    await world.close()


async def test_a_stream_of_all_that_may_see_nothing_hears_at_once() -> None:
    """A stream of all tenants to which none is open gets a sign of life."""
    world = World()
    await world.create()
    world.rights.set(TENANT, NOTHING)
    sink = await world.watch("-")
    assert (sink.error, sink.client.bundles) == (None, {})
    assert sink.client.request() is not None
    assert world.hub.streams == 1
    await world.close(sink)


async def test_a_credential_that_ends_warns_and_then_ends_the_stream() -> None:
    """A minute before, the stream says when to come back with a new credential;
    at the end it is ended with UNAUTHENTICATED."""
    world = World()
    await world.create()
    world.rights.ends["someone"] = world.clock.time() + 300
    sink = await world.watch()
    await world.clock.advance(230)
    assert not sink.drains
    await world.clock.advance(15)
    ((_, drain),) = sink.drains
    assert drain.reason == sync_pb2.DRAIN_REASON_CREDENTIAL
    assert drain.reconnect_after.ToSeconds() < 60
    assert sink.error is None
    await world.clock.advance(60)
    assert sink.error is not None
    assert sink.error.reason == reason_pb2.ERROR_REASON_CREDENTIAL_EXPIRED
    await world.close()


async def test_a_credential_that_was_renewed_keeps_the_stream() -> None:
    """If the credential has got another end meanwhile, the stream goes on."""
    world = World()
    await world.create()
    world.rights.ends["someone"] = world.clock.time() + 100
    sink = await world.watch()
    await world.clock.advance(50)
    world.rights.ends["someone"] = world.clock.time() + 1_000
    await world.clock.advance(100)
    assert sink.error is None
    await world.close(sink)


async def test_streams_part_at_their_age() -> None:
    """Streams that came together end at different times, all within the jitter
    of their greatest age and one heartbeat."""
    world = World(age_seconds_max=600.0)
    await world.create()
    sinks = [await world.watch() for _ in range(30)]
    await world.clock.advance(700)
    ends = [sink.ended for sink in sinks]
    assert min(ends) >= 540
    assert max(ends) <= 660 + 30
    assert len({round(end) for end in ends}) > 10
    assert all(s.drains[0][1].reason == sync_pb2.DRAIN_REASON_MAX_AGE for s in sinks)
    await world.close()
