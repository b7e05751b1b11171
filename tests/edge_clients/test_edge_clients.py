"""The fast edge is gRPC to everybody: four libraries and grpcurl, each in a
process of its own, play one script against a real server.

They watch, report by a call and by a stream, are refused with a reason, get a
change, and see a deadline through.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2

from bench.processes import free_port, server
from tests.edge_clients import clients
from tests.unit.watch.tenant_log import config
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc
from voxplane.v1 import node_service_pb2 as nodes_pb2
from voxplane.v1 import node_service_pb2_grpc as nodes_grpc

STEP_SECONDS_MAX = 60.0
BUILD_SECONDS_MAX = 600

pytestmark = pytest.mark.timeout(BUILD_SECONDS_MAX)


@dataclass(frozen=True, slots=True)
class Place:
    """A control plane in a process of its own, and its fast edge."""

    edge: str
    channel: grpc.aio.Channel

    async def create(self) -> None:
        """Make the agent that is watched."""
        request = agents_pb2.CreateAgentRequest(tenant_id="acme", agent_id="sales", config=config("Sell."))
        request.config.llm_config.provider = "offline"
        await agents_grpc.AgentServiceStub(self.channel).CreateAgent(request)

    async def update(self) -> int:
        """Change the agent; returns the revision."""
        request = agents_pb2.UpdateAgentConfigRequest(tenant_id="acme", agent_id="sales")
        request.config.prompt_config.instructions = "Be brief. " * 5_000
        request.update_mask.paths.append("prompt_config.instructions")
        return (await agents_grpc.AgentServiceStub(self.channel).UpdateAgentConfig(request)).revision.number

    async def nodes(self) -> list[str]:
        """Nodes that have a stream."""
        stub = nodes_grpc.NodeServiceStub(self.channel)
        found = await stub.ListNodes(nodes_pb2.ListNodesRequest())
        return [node.node_id for node in found.nodes if node.connected]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """A control plane with one agent."""
    edge = f"127.0.0.1:{free_port()}"
    async with (
        server(tmp_path, "--edge-listen", edge) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        made = Place(edge, channel)
        await made.create()
        yield made


class Player:
    """A client's process, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def step(self, name: str) -> dict[str, Any]:
        """The next step, which has to be this one."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), STEP_SECONDS_MAX)
        if not line:
            assert self._process.stderr is not None
            pytest.fail(f"before {name}: {(await self._process.stderr.read()).decode()}")
        said = json.loads(line)
        assert said.pop("step") == name
        return said

    async def ends(self) -> None:
        """It ends by itself, and well."""
        _, why = await asyncio.wait_for(self._process.communicate(), STEP_SECONDS_MAX)
        assert self._process.returncode == 0, why.decode()


@asynccontextmanager
async def playing(words: list[str]) -> AsyncIterator[Player]:
    """A client at work; killed with the block."""
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield Player(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("client", [clients.go_client, clients.java_client, clients.node_client])
async def test_a_library_of_another_language(place: Place, client: Callable[[], list[str]]) -> None:
    """grpc-go, grpc-java and @grpc/grpc-js hold a stream of the edge, report on
    it both ways, and read its errors."""
    words = await asyncio.to_thread(client)
    protoset = await asyncio.to_thread(clients.contract)
    async with playing([*words, place.edge, str(protoset), "n1"]) as player:
        first = await player.step("watch")
        assert (int(first["revision"]), first["nonce"]) == (1, "1")
        await player.step("unary")
        assert int((await player.step("stream"))["reports"]) == 3
        refused = await player.step("error")
        assert (refused["code"], refused["reason"]) == (code_pb2.NOT_FOUND, "STREAM_NOT_FOUND")
        await player.step("ready")
        assert await place.nodes() == ["n1"]
        revision = await place.update()
        assert int((await player.step("change"))["revision"]) == revision
        assert (await player.step("deadline"))["code"] == code_pb2.DEADLINE_EXCEEDED
        await player.ends()


async def _grpcurl(
    place: Place, method: str, *requests: dict[str, Any], seconds: float = 0
) -> tuple[int, str, str]:
    protoset = await asyncio.to_thread(clients.contract)
    words = (*clients.grpcurl_client(), "-plaintext", "-protoset", str(protoset), "-d", "@")
    more = ("-max-time", str(seconds)) if seconds else ()
    process = await asyncio.create_subprocess_exec(
        *(*words, *more, place.edge, f"voxplane.v1.ConfigSyncService.{method}"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    text = "\n".join(map(json.dumps, requests)).encode()
    out, error = await asyncio.wait_for(process.communicate(text), STEP_SECONDS_MAX)
    return process.returncode or 0, out.decode(), error.decode()


async def test_grpcurl(place: Place) -> None:
    """grpcurl holds a stream, sends reports both ways, and shows the reasons of
    what is refused."""
    clients.grpcurl_client()
    watching = asyncio.create_task(_grpcurl(place, "WatchConfig", {"tenantId": "acme"}, seconds=4))
    report = {"streamId": "none", "sequence": 1}
    code, _, error = await _grpcurl(place, "ReportConfigStatus", report)
    assert code == 64 + code_pb2.NOT_FOUND
    assert "no stream none" in error
    assert "google.rpc.ErrorInfo" in error
    code, _, error = await _grpcurl(place, "StreamConfigStatus", {"report": report}, {"report": report})
    assert code == 64 + code_pb2.NOT_FOUND
    code, out, _ = await _grpcurl(place, "StreamConfigStatus")
    assert (code, json.loads(out)) == (0, {})
    code, out, _ = await _grpcurl(place, "FetchConfig", {"tenantId": "acme"})
    assert json.loads(out)["transfer"]["synced"]["bundleCount"] == "1"
    code, out, _ = await watching
    assert code == 64 + code_pb2.DEADLINE_EXCEEDED
    assert '"bundleCount": "1"' in out
