"""A hub over real tenants, without a transport, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from control_plane.fleet import Fleet
from control_plane.services import decisions
from control_plane.state import Tenants
from control_plane.store import LogStore
from control_plane.store.memory import MemoryStore
from control_plane.watch import Hub, WatchSettings
from control_plane.watch.serving import Pieces
from tests.unit.services.agent_requests import AGENT, create, update
from tests.unit.watch.reference_client import ReferenceClient
from tests.virtual_clock import VirtualClock
from voxplane.names import TenantId
from voxplane.v1 import agent_service_pb2 as agents_pb2

NO_DEBOUNCE = WatchSettings(quiet_seconds=0, longest_seconds=0)


class World:
    """A hub over real tenants, in virtual time."""

    def __init__(self, hub: type[Hub] = Hub, store: LogStore | None = None) -> None:
        self.clock = VirtualClock()
        self.store = store or MemoryStore()
        self.tenants = Tenants(self.store, self.clock)
        self.hub = hub(self.tenants, Fleet(self.clock), self.clock, NO_DEBOUNCE, random.Random(1).random)
        self.sinks: list[Sink] = []

    def watch(self, client: ReferenceClient) -> Sink:
        """Open a stream."""
        sink = Sink(self, client)
        self.sinks.append(sink)
        return sink

    async def create(self, tenant_id: TenantId) -> None:
        """Make the tenant's agent."""
        request = create()
        request.tenant_id = tenant_id
        await self.tenants.commit(
            tenant_id,
            lambda state, act: decisions.create_agent(state, request, act),
            request,
            method="/test",
            principal="tester",
            answer=agents_pb2.CreateAgentResponse,
        )

    async def update(self, tenant_id: TenantId, text: str) -> int:
        """Change the agent; returns the revision."""
        request = update(text, AGENT)
        request.tenant_id = tenant_id
        answer = await self.tenants.commit(
            tenant_id,
            lambda state, act: decisions.update_agent_config(state, request, act),
            request,
            method="/test",
            principal="tester",
            answer=agents_pb2.UpdateAgentConfigResponse,
        )
        return answer.revision.number

    async def settle(self) -> None:
        """Let all run until none can."""
        for _ in range(20):
            await self.clock.settle()

    async def close(self) -> None:
        """End everything."""
        for sink in self.sinks:
            sink.task.cancel()
        await asyncio.gather(*(sink.task for sink in self.sinks), return_exceptions=True)
        await self.hub.close()


class Sink:
    """A stream whose messages go to a client, which may stop reading."""

    def __init__(self, world: World, client: ReferenceClient) -> None:
        self.client = client
        self.reading = asyncio.Event()
        self.reading.set()
        self.messages: list[bytes] = []
        self.after_write: Callable[[], Awaitable[object]] | None = None
        self._hub = world.hub
        self._request = client.request()
        self.task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        stream = await self._hub.open(self._request)
        try:
            await stream.serve(self._write)
        finally:
            self._hub.close_stream(stream)

    async def _write(self, pieces: Pieces) -> None:
        data = b"".join(pieces)
        await self.reading.wait()
        self.messages.append(data)
        self.client.receive(data)
        if self.after_write is not None:
            await self.after_write()
