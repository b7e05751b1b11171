"""Clients of SessionService, over gRPC in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from control_plane.server import ControlPlane, build
from control_plane.settings import Settings
from control_plane.store import MemoryStore, Store
from tests.virtual_clock import VirtualClock
from voxplane.clock import Clock, SystemClock
from voxplane.v1 import agent_config_pb2, agent_service_pb2
from voxplane.v1 import agent_service_pb2_grpc as agent_grpc
from voxplane.v1 import session_service_pb2 as pb2
from voxplane.v1 import session_service_pb2_grpc as session_grpc

READ_SECONDS_MAX = 20.0


class NodeClient:
    """A node's stream."""

    def __init__(self, service: session_grpc.SessionServiceAsyncStub, node_id: str = "n1") -> None:
        self.node_id = node_id
        self.call: grpc.aio.StreamStreamCall[Any, Any] = service.ReportSessions()
        self._sequence = 0

    async def hello(self, *running: str) -> None:
        """Say which sessions of acme run."""
        hello = pb2.SessionReporter(node_id=self.node_id)
        for session_id in running:
            hello.running.add(tenant_id="acme", session_id=session_id)
        await self.call.write(pb2.ReportSessionsRequest(hello=hello))

    async def report(self, *reports: pb2.SessionReport) -> None:
        """Report, and wait until it is acknowledged."""
        self._sequence += 1
        batch = pb2.SessionBatch(sequence=self._sequence, reports=reports)
        await self.call.write(pb2.ReportSessionsRequest(batch=batch))
        while (await self.read()).stored_sequence != self._sequence:
            pass

    async def read(self) -> pb2.ReportSessionsResponse:
        """The next message."""
        message = await asyncio.wait_for(self.call.read(), READ_SECONDS_MAX)
        assert isinstance(message, pb2.ReportSessionsResponse), await self.call.details()
        return message

    async def serve(self) -> pb2.SessionCommand:
        """Take the next command, and say that it is done."""
        command = (await self.read()).command
        await self.answer(command)
        return command

    async def answer(self, command: pb2.SessionCommand, result: Any = None) -> None:
        """Answer a command."""
        result = pb2.SessionCommandResult(command_id=command.command_id, status=result)
        await self.call.write(pb2.ReportSessionsRequest(result=result))


@dataclass(frozen=True, slots=True)
class SessionServer:
    """A running control plane, and a client of it."""

    control_plane: ControlPlane
    address: str
    channel: grpc.aio.Channel
    service: session_grpc.SessionServiceAsyncStub

    async def node(self, node_id: str = "n1", *running: str) -> NodeClient:
        """A node that has said hello."""
        node = NodeClient(self.service, node_id)
        await node.hello(*running)
        return node

    async def versions(self, count: int) -> None:
        """The agent sales of acme, which says "v1" in its first version, and so on."""
        agents = agent_grpc.AgentServiceStub(self.channel)
        for number in range(1, count + 1):
            config = agent_config_pb2.AgentConfig()
            config.llm_config.provider = "offline"
            config.prompt_config.instructions = f"v{number}"
            named = {"tenant_id": "acme", "agent_id": "sales", "config": config}
            if number == 1:
                await agents.CreateAgent(agent_service_pb2.CreateAgentRequest(**named))
            else:
                await agents.UpdateAgentConfig(agent_service_pb2.UpdateAgentConfigRequest(**named))

    def watch(self, **fields: Any) -> grpc.aio.UnaryStreamCall[Any, Any]:
        """A watcher of acme."""
        return self.service.WatchSessions(pb2.WatchSessionsRequest(**({"tenant_id": "acme"} | fields)))


@asynccontextmanager
async def session_server(
    folder: Path, store: Store | None = None, clock: Clock | None = None, **more: Any
) -> AsyncIterator[SessionServer]:
    """Serve for as long as the block runs, with more settings."""
    clock = clock or SystemClock()
    settings = Settings(**({"grpc_listen": f"unix:{folder}/s.sock", "drain_seconds": 1} | more))
    control_plane = build(settings, store or MemoryStore(), clock)
    address = await control_plane.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield SessionServer(control_plane, address, channel, session_grpc.SessionServiceStub(channel))
    finally:
        stopping = control_plane.stop()
        await (clock.finish(stopping) if isinstance(clock, VirtualClock) else stopping)
