"""A control plane on a Unix socket, in virtual time, and watchers of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from control_plane.server import ControlPlane, build
from control_plane.settings import Settings
from control_plane.store.memory import MemoryStore
from tests.unit.watch.reference_client import ReferenceClient
from tests.unit.watch.tenant_log import config
from tests.virtual_clock import VirtualClock
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc
from voxplane.v1 import node_service_pb2_grpc as nodes_grpc

GRPC, EDGE = "grpc", "edge"
TRANSPORTS = (GRPC, EDGE)
WATCH = "/voxplane.v1.ConfigSyncService/WatchConfig"
_SMALL_WINDOW = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 65_536),
]


@dataclass(frozen=True, slots=True)
class WatchServer:
    """A running control plane and clients of its services."""

    control_plane: ControlPlane
    clock: VirtualClock
    address: str
    channel: grpc.aio.Channel
    sync_address: str
    sync_channel: grpc.aio.Channel
    agents: agents_grpc.AgentServiceAsyncStub
    sync: sync_grpc.ConfigSyncServiceAsyncStub
    nodes: nodes_grpc.NodeServiceAsyncStub

    async def create(self, agent: str, text: str = "Be kind.", tenant: str = "acme") -> int:
        """Make an agent; returns the revision."""
        request = agents_pb2.CreateAgentRequest(tenant_id=tenant, agent_id=agent, config=config(text))
        request.config.llm_config.provider = "offline"
        return (await self.agents.CreateAgent(request)).revision.number

    async def update(self, agent: str, text: str, tenant: str = "acme") -> int:
        """Give an agent other instructions; returns the revision."""
        request = agents_pb2.UpdateAgentConfigRequest(tenant_id=tenant, agent_id=agent, config=config(text))
        request.update_mask.paths.append("prompt_config.instructions")
        return (await self.agents.UpdateAgentConfig(request)).revision.number

    async def draft(self, agent: str) -> int:
        """A commit that no bundle shows; returns the revision."""
        request = agents_pb2.UpdateAgentConfigRequest(
            tenant_id="acme", agent_id=agent, config=config("A draft."), draft=True
        )
        request.update_mask.paths.append("prompt_config.instructions")
        return (await self.agents.UpdateAgentConfig(request)).revision.number

    @asynccontextmanager
    async def watch(
        self, client: ReferenceClient, node: str = "", *, small_window: bool = False
    ) -> AsyncIterator[Watcher]:
        """A stream of the client's, cancelled at the end of the block; if asked
        on a connection of its own, which takes little that is not read."""
        channel = self.sync_channel
        if small_window:
            channel = grpc.aio.insecure_channel(self.sync_address, options=_SMALL_WINDOW)
        call = channel.unary_stream(WATCH, request_serializer=sync_pb2.WatchConfigRequest.SerializeToString)(
            client.request(node)
        )
        try:
            yield Watcher(client, call)
        finally:
            call.cancel()
            if small_window:
                await channel.close()


class Watcher:
    """One stream, and the client that checks what comes."""

    def __init__(self, client: ReferenceClient, call: grpc.aio.UnaryStreamCall[Any, bytes]) -> None:
        self.client = client
        self.call = call

    async def next(self) -> sync_pb2.WatchConfigResponse:
        """The next message, checked."""
        data = await self.call.read()
        assert isinstance(data, bytes), "the stream has ended"
        return self.client.receive(data)

    async def until(self, tenant: str, revision: int) -> list[sync_pb2.WatchConfigResponse]:
        """The messages until the client has the revision."""
        messages: list[sync_pb2.WatchConfigResponse] = []
        while self.client.number(tenant) < revision:
            messages.append(await self.next())
        return messages


def report(
    last: sync_pb2.WatchConfigResponse,
    statuses: Iterable[sync_pb2.BundleStatus] = (),
    phase: sync_pb2.ConfigPhase = sync_pb2.CONFIG_PHASE_APPLIED,
) -> sync_pb2.ReportConfigStatusRequest:
    """An answer to a message: its bundles have come to a phase."""
    made = list(statuses) or [
        sync_pb2.BundleStatus(name=bundle.name, etag=bundle.etag, revision=bundle.revision, phase=phase)
        for bundle in last.transfer.bundles
    ]
    return sync_pb2.ReportConfigStatusRequest(stream_id=last.stream_id, nonce=last.nonce, statuses=made)


@asynccontextmanager
async def watch_server(folder: Path, transport: str = GRPC, **more: Any) -> AsyncIterator[WatchServer]:
    """Serve for as long as the block runs, with more settings; ConfigSyncService
    is called over the transport."""
    clock = VirtualClock()
    given = {"grpc_listen": f"unix:{folder}/s.sock", "drain_seconds": 1, "watch_quiet_seconds": 0, **more}
    if transport == EDGE:
        given["edge_listen"] = f"unix:{folder}/e.sock"
    settings = Settings(**given)
    control_plane = build(settings, MemoryStore(), clock)
    address = await control_plane.start()
    try:
        sync_address = control_plane.edge_address or address
        async with (
            grpc.aio.insecure_channel(address) as channel,
            grpc.aio.insecure_channel(sync_address) as sync_channel,
        ):
            yield WatchServer(
                control_plane,
                clock,
                address,
                channel,
                sync_address,
                sync_channel,
                agents_grpc.AgentServiceStub(channel),
                sync_grpc.ConfigSyncServiceStub(sync_channel),
                nodes_grpc.NodeServiceStub(channel),
            )
    finally:
        await clock.finish(control_plane.stop())
