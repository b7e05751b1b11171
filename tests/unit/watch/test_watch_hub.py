"""The hub: waking, pacing and letting go, without a transport."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest

from control_plane.fleet import Fleet
from control_plane.services import decisions
from control_plane.state import Tenants
from control_plane.store.memory import MemoryStore
from control_plane.watch import Hub, WatchSettings
from control_plane.watch.serving import Pieces
from tests.unit.services.agent_requests import TENANT, create, update
from tests.unit.watch.reference_client import ReferenceClient
from tests.virtual_clock import VirtualClock
from voxplane.errors import VoxplaneError
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

INTERVAL = 30.0


class Sink:
    """A stream that is served in a task; what it writes goes to a client."""

    def __init__(
        self, hub: Hub, client: ReferenceClient, clock: VirtualClock, push: Callable[[], bool] | None = None
    ) -> None:
        self.client = client
        self.pushed = 0
        self._takes = push
        self.times: list[float] = []
        self.error: VoxplaneError | None = None
        self._hub = hub
        self._clock = clock
        self._request = client.request()
        self.task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        try:
            self.stream = await self._hub.open(self._request)
            try:
                await self.stream.serve(self._write, self._push if self._takes else None)
            finally:
                self._hub.close_stream(self.stream)
        except VoxplaneError as error:
            self.error = error

    def _push(self, *pieces: bytes) -> bool:
        if self._takes is None or not self._takes():
            return False
        self.pushed += 1
        self.client.receive(b"".join(pieces))
        return True

    async def _write(self, pieces: Pieces) -> None:
        self.times.append(self._clock.monotonic())
        self.client.receive(b"".join(pieces))


class World:
    """A hub over real tenants, in virtual time."""

    def __init__(self, settings: WatchSettings | None = None) -> None:
        self.clock = VirtualClock()
        self.tenants = Tenants(MemoryStore(), self.clock)
        self.fleet = Fleet(self.clock)
        self.hub = Hub(self.tenants, self.fleet, self.clock, settings, random.Random(1).random)
        self.sinks: list[Sink] = []

    def watch(self, tenant: str = TENANT, push: Callable[[], bool] | None = None) -> Sink:
        """Open a stream, to a transport that takes messages at once if `push`
        says so."""
        self.sinks.append(Sink(self.hub, ReferenceClient(tenant), self.clock, push))
        return self.sinks[-1]

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

    async def update(self, text: str) -> int:
        """Change the agent."""
        request = update(text)
        answer = await self.tenants.commit(
            TENANT,
            lambda state, act: decisions.update_agent_config(state, request, act),
            request,
            method="/test",
            principal="tester",
            answer=agents_pb2.UpdateAgentConfigResponse,
        )
        return answer.revision.number

    async def settle(self) -> None:
        """Let all streams run until none can."""
        for _ in range(10):
            await self.clock.settle()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A hub; its streams are ended with the test."""
    made = World()
    yield made
    for sink in made.sinks:
        sink.task.cancel()
    await asyncio.gather(*(sink.task for sink in made.sinks), return_exceptions=True)
    await made.hub.close()
    assert made.hub.streams == 0


async def test_commits_of_one_moment_are_one_message(world: World) -> None:
    """Commits that come faster than streams are woken are one transfer."""
    await world.create()
    sinks = [world.watch() for _ in range(3)]
    await world.settle()
    await asyncio.gather(*(world.update(f"Change {number}.") for number in range(50)))
    await world.settle()
    for sink in sinks:
        assert sink.client.number(TENANT) == 51
        assert len(sink.times) < 10


async def test_a_transport_that_takes_messages_at_once_needs_no_task(world: World) -> None:
    """Streams are served by who wakes them; heartbeats and the end by the task,
    and every message comes in its place."""
    await world.create()
    fast, slow, moody = (world.watch(push=push) for push in (lambda: True, lambda: False, None))
    chance = random.Random(7)
    fickle = world.watch("-", push=lambda: chance.random() < 0.5)
    await world.settle()
    for number in range(60):
        revision = await world.update(f"Change {number}.")
        await world.clock.advance(0.1)
        for sink in world.sinks:
            assert sink.client.number(TENANT) == revision
    assert (fast.pushed, slow.pushed, moody.pushed) == (60, 0, 0)
    assert 10 < fickle.pushed < 50
    assert [len(sink.times) for sink in (fast, slow, moody)] == [1, 61, 61]
    assert len(fickle.times) + fickle.pushed == 61
    await world.clock.advance(2 * INTERVAL)
    assert len(fast.times) > 1
    fast.stream.end(VoxplaneError(reason_pb2.ERROR_REASON_SHUTTING_DOWN, "over"))
    await world.settle()
    assert fast.error is not None


async def test_a_writer_is_answered_before_all_streams_are_woken(world: World) -> None:
    """A commit's answer does not wait until its watchers have been served."""
    await world.create()
    sinks = [world.watch() for _ in range(1_000)]
    await world.settle()
    assert await world.update("Change.") == 2
    served = sum(sink.client.number(TENANT) == 2 for sink in sinks)
    assert served < 500
    await world.settle()
    assert all(sink.client.number(TENANT) == 2 for sink in sinks)


async def test_a_wake_that_comes_late_is_harmless(world: World) -> None:
    """Streams that have looked by themselves, because a heartbeat was due, are
    not put out when their turn to be woken comes."""
    await world.create()
    sinks = [world.watch() for _ in range(500)]
    await world.settle()
    for number in range(10):
        change = asyncio.create_task(world.update(f"Change {number}."))
        await world.clock.advance(5)
        await change
    for sink in sinks:
        sink.stream.wake()
    await world.settle()
    assert [sink.error for sink in sinks if sink.task.done()] == []
    assert all(sink.client.number(TENANT) == 11 for sink in sinks)


async def test_heartbeats_keep_the_interval_and_part(world: World) -> None:
    """Each stream has a heartbeat at least every interval, and streams that
    came together do not beat together."""
    await world.create()
    sinks = [world.watch() for _ in range(50)]
    for _ in range(40):
        await world.clock.advance(5)
    for sink in sinks:
        gaps = [later - earlier for earlier, later in zip(sink.times, sink.times[1:], strict=False)]
        assert len(gaps) >= 6
        assert max(gaps) <= INTERVAL
    firsts = {sink.times[1] for sink in sinks}
    assert len(firsts) > 20


async def test_a_watched_tenant_stays_in_memory(world: World) -> None:
    """A tenant is kept while it is watched, and leaves some time after."""
    await world.create()
    sink = world.watch()
    await world.settle()
    await world.clock.advance(1_200)
    assert world.tenants.peek(TENANT) is not None
    sink.task.cancel()
    await world.settle()
    assert world.hub.streams == 0
    await world.clock.advance(1_200)
    assert world.tenants.peek(TENANT) is None


async def test_a_tenant_that_appears_is_watched_too(world: World) -> None:
    """A stream of all tenants keeps the tenants that came later in memory."""
    sink = world.watch("-")
    await world.settle()
    await world.create()
    await world.settle()
    assert sink.client.number(TENANT) == 1
    await world.clock.advance(1_200)
    assert world.tenants.peek(TENANT) is not None


async def test_streams_are_bounded() -> None:
    """Above the limit a stream is refused with RESOURCE_EXHAUSTED."""
    world = World(WatchSettings(streams_max=1))
    first, second = world.watch(), world.watch()
    await world.settle()
    assert second.error is not None
    assert second.error.reason == reason_pb2.ERROR_REASON_LIMIT_REACHED
    await world.hub.close()
    await world.settle()
    assert first.error is not None
    assert first.error.reason == reason_pb2.ERROR_REASON_SHUTTING_DOWN
    assert world.hub.streams == 0
