"""A real node through the end and return of a real control plane."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from bench.processes import READY_SECONDS_MAX, Running, command, free_port
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc
from voxplane.v1 import node_pb2
from voxplane.v1 import node_service_pb2 as nodes_pb2
from voxplane.v1 import node_service_pb2_grpc as nodes_grpc

TENANT = "resume"
LOG_SECONDS_MAX = 60.0
LOG_POLL_SECONDS = 0.05

ChatCall = grpc.aio.StreamStreamCall[relay_pb2.ChatRequest, relay_pb2.ChatResponse]


class Site:
    """A server and a node that can be started and killed again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self.node_log = folder / "node.log"
        self.socket = folder / "node" / "relay.sock"
        self.server_options = ("serve", "--grpc-listen", self.address, "--data-dir", str(folder))
        self.node_options = ("node", "--server", self.address, "--node-id", "n1", "--data-dir", str(folder))

    @asynccontextmanager
    async def server(self) -> AsyncIterator[Running]:
        """A control plane that answers."""
        async with command(*self.server_options, log=self.folder / "server.log") as running:
            async with grpc.aio.insecure_channel(self.address) as channel:
                await asyncio.wait_for(channel.channel_ready(), READY_SECONDS_MAX)
            yield running

    def node(self) -> Any:
        """A node, perhaps without a control plane."""
        return command(*self.node_options, log=self.node_log)

    def events(self, event: str) -> list[dict[str, Any]]:
        """The node's log entries of one kind."""
        lines = self.node_log.read_text().splitlines() if self.node_log.exists() else []
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in found if entry["event"] == event]

    async def logged(self, event: str, count: int) -> list[dict[str, Any]]:
        """The entries of a kind, once there are so many."""
        async with asyncio.timeout(LOG_SECONDS_MAX):
            while len(found := self.events(event)) < count:  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(LOG_POLL_SECONDS)
        return found

    async def create(self, *agents: str) -> None:
        """New agents."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            for agent in agents:
                request = agents_pb2.CreateAgentRequest(tenant_id=TENANT, agent_id=agent)
                request.config.llm_config.provider = "offline"
                request.config.prompt_config.instructions = "Be brief."
                await agents_grpc.AgentServiceStub(channel).CreateAgent(request)

    async def update(self, agent: str, instructions: str) -> int:
        """A change of instructions, and the revision that it made."""
        request = agents_pb2.UpdateAgentConfigRequest(tenant_id=TENANT, agent_id=agent)
        request.config.prompt_config.instructions = instructions
        request.update_mask.paths.append("prompt_config.instructions")
        async with grpc.aio.insecure_channel(self.address) as channel:
            return (await agents_grpc.AgentServiceStub(channel).UpdateAgentConfig(request)).revision.number

    async def converge(self, revision: int = 0) -> nodes_pb2.WaitForConvergenceResponse:
        """What WaitForConvergence says."""
        request = nodes_pb2.WaitForConvergenceRequest(tenant_id=TENANT, revision=revision, min_nodes=1)
        request.timeout.FromSeconds(30)
        async with grpc.aio.insecure_channel(self.address) as channel:
            return await nodes_grpc.NodeServiceStub(channel).WaitForConvergence(request)

    @asynccontextmanager
    async def chat(self, agent: str) -> AsyncIterator[tuple[ChatCall, relay_pb2.ChatOpened]]:
        """A text session on the node."""
        async with grpc.aio.insecure_channel(f"unix:{self.socket}") as channel:
            call = relay_grpc.RelayServiceStub(channel).Chat(wait_for_ready=True)
            caller = relay_pb2.CallerContext(tenant_id=TENANT, agent_id=agent)
            await call.write(relay_pb2.ChatRequest(open=caller))
            opened = await _read(call)
            assert opened.HasField("opened"), opened
            yield call, opened.opened
            call.cancel()


async def _read(call: ChatCall) -> relay_pb2.ChatResponse:
    message = await asyncio.wait_for(call.read(), READY_SECONDS_MAX)
    assert isinstance(message, relay_pb2.ChatResponse), "the session ended"
    return message


async def _turn(call: ChatCall, text: str) -> relay_pb2.ChatTurn:
    await call.write(relay_pb2.ChatRequest(input=relay_pb2.ChatInput(text=text)))
    while not (message := await _read(call)).HasField("turn"):
        pass
    return message.turn


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Nothing runs yet."""
    return Site(tmp_path)


async def test_a_node_serves_from_its_cache_and_resumes_by_delta(site: Site) -> None:
    """A node goes on when the control plane is killed, starts again without it, serves calls from
    disk, and takes only the differences when it is back."""
    async with site.server() as server:
        await site.create("a", "b", "c")
        async with site.node():
            assert (await site.converge()).converged
            assert site.events("transfer applied")[0]["intent"] == "FULL"
            server.process.kill()
            await server.process.wait()
            async with site.chat("a") as (call, opened):
                assert opened.version == 1
                assert (await _turn(call, "hello")).version == 1
    before = len(site.events("transfer applied"))
    async with site.node():
        (_, ready) = await site.logged("node ready", 2)
        assert ready["cached_tenants"] == 1
        async with site.chat("a") as (call, opened):
            assert opened.version == 1
            async with site.server():
                revision = await site.update("a", "Be kind.")
                assert (await site.converge(revision)).converged
                assert (await _turn(call, "hello")).version == 2
                transfers = site.events("transfer applied")[before:]
                assert transfers
                assert {entry["intent"] for entry in transfers} <= {"DELTA", "NONE"}
                assert sum(entry["changed"] for entry in transfers) == 1


async def test_what_happened_meanwhile_comes_as_a_delta(site: Site) -> None:
    """Changes that were made while the node was away are all that it is sent."""
    async with site.server():
        await site.create("a", "b", "c")
        async with site.node():
            assert (await site.converge()).converged
        revision = await site.update("b", "Be kind.")
        before = len(site.events("transfer applied"))
        async with site.node():
            assert (await site.converge(revision)).converged
            (transfer,) = site.events("transfer applied")[before:]
            assert (transfer["intent"], transfer["changed"]) == ("DELTA", 1)


async def test_a_config_that_cannot_be_built_is_refused_with_its_path(site: Site) -> None:
    """The node reports FAILED with the field, and sessions go on with what was before."""
    async with site.server(), site.node():
        await site.create("a")
        assert (await site.converge()).converged
        async with site.chat("a") as (call, _):
            request = agents_pb2.UpdateAgentConfigRequest(tenant_id=TENANT, agent_id="a")
            request.config.llm_config.provider = "nowhere"
            request.update_mask.paths.append("llm_config.provider")
            async with grpc.aio.insecure_channel(site.address) as channel:
                await agents_grpc.AgentServiceStub(channel).UpdateAgentConfig(request)
            answer = await site.converge()
            assert not answer.converged
            assert answer.nodes[0].state == node_pb2.CONVERGENCE_STATE_FAILED
            assert b"config.llm_config.provider" in answer.nodes[0].lagging[0].error.SerializeToString()
            assert (await _turn(call, "hello")).version == 1


async def test_a_node_ends_in_order_and_leaves_nothing(site: Site) -> None:
    """After SIGTERM the node exits 0 soon, without a traceback, a socket or a process."""
    async with site.node() as node:
        await site.logged("node ready", 1)
        jobs = psutil.Process(node.process.pid).children()
        began = time.monotonic()
        node.process.terminate()
        assert await asyncio.wait_for(node.process.wait(), 20) == 0
        assert time.monotonic() - began < 10
    assert "Traceback" not in site.node_log.read_text()
    assert not site.socket.exists()
    assert not psutil.wait_procs(jobs, 5)[1]


async def test_a_killed_node_leaves_no_process(site: Site) -> None:
    """After kill -9 of the node its jobs end by themselves, and the next node starts."""
    async with site.server(), site.node() as node:
        await site.create("a")
        assert (await site.converge()).converged
        async with site.chat("a"):
            jobs = psutil.Process(node.process.pid).children()
            node.process.kill()
            await node.process.wait()
            gone, alive = await asyncio.to_thread(psutil.wait_procs, jobs, 20)
            assert gone
            assert not alive
        assert site.socket.exists()
        async with site.node():
            await site.logged("node ready", 2)
            async with site.chat("a") as (_, opened):
                assert opened.version == 1
