"""A real node that loses its control plane: what it says, what it serves, and
what it makes of another one in the old one's place."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from agent_node.upstream.last_word import RECORD_FILE
from bench.processes import Running, command, free_port
from tests.e2e.test_node_resume import TENANT, Site
from voxplane.errors import reason_of
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc

WAIT_SECONDS_MAX = 60.0
POLL_SECONDS = 0.1
STALE_SECONDS_MAX = 2


class StaleSite(Site):
    """A site whose node serves metrics."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.metrics = f"127.0.0.1:{free_port()}"

    @asynccontextmanager
    async def ready_node(self) -> AsyncIterator[Running]:
        """A node that answers on its socket."""
        before = len(self.events("node ready"))
        options = (*self.node_options, "--metrics-listen", self.metrics)
        async with command(*options, log=self.node_log) as running:
            await self.logged("node ready", before + 1)
            yield running

    async def create_strict(self, agent: str) -> None:
        """An agent that refuses calls on a node without word for STALE_SECONDS_MAX."""
        request = agents_pb2.CreateAgentRequest(tenant_id=TENANT, agent_id=agent)
        request.config.llm_config.provider = "offline"
        request.config.prompt_config.instructions = "Be brief."
        request.config.limits_config.stale_action = "refuse"
        request.config.limits_config.max_stale.FromSeconds(STALE_SECONDS_MAX)
        async with grpc.aio.insecure_channel(self.address) as channel:
            await agents_grpc.AgentServiceStub(channel).CreateAgent(request)

    async def local(self) -> dict[str, Any]:
        """What `voxplane nodes local` says."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "voxplane", "nodes", "local", "--json", "--data-dir", str(self.folder)),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        return json.loads(out)

    async def gauge(self, name: str) -> float:
        """A metric without labels."""
        with await asyncio.to_thread(
            urllib.request.urlopen, f"http://{self.metrics}/metrics", timeout=10
        ) as answer:
            lines = answer.read().decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"voxplane_node_{name} "))

    async def outcome(self, agent: str) -> str:
        """`opened`, or the reason for which a new text call is refused."""
        async with grpc.aio.insecure_channel(f"unix:{self.socket}") as channel:
            call = relay_grpc.RelayServiceStub(channel).Chat(wait_for_ready=True)
            caller = relay_pb2.CallerContext(tenant_id=TENANT, agent_id=agent)
            try:
                await call.write(relay_pb2.ChatRequest(open=caller))
                first = await asyncio.wait_for(call.read(), WAIT_SECONDS_MAX)
            except grpc.aio.AioRpcError as error:
                status = rpc_status.from_call(error)
                return reason_of(status) if status is not None else error.code().name
            finally:
                call.cancel()
            assert isinstance(first, relay_pb2.ChatResponse)
            return reason_of(first.error) if first.HasField("error") else "opened"

    async def recorded(self) -> None:
        """Until the node has written down its last word, which it does within a second or so."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while not (self.folder / "node" / "cache" / RECORD_FILE).exists():  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)

    async def until(self, agent: str, wanted: str) -> None:
        """Until new calls end so."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while await self.outcome(agent) != wanted:  # noqa: ASYNC110 - other processes decide
                await asyncio.sleep(POLL_SECONDS)


@pytest.fixture
def site(tmp_path: Path) -> StaleSite:
    """Nothing runs yet."""
    return StaleSite(tmp_path)


async def test_a_policy_holds_through_a_restart_of_the_node(site: StaleSite) -> None:
    """Without a control plane a strict agent takes no new calls once its time is over, also after the
    node was started again, while its neighbour does; status and metrics say why; and all is well when
    it is back."""
    async with site.server() as server:
        await site.create("plain")
        await site.create_strict("strict")
        async with site.ready_node():
            assert (await site.converge()).converged
            assert await site.outcome("strict") == "opened"
            assert await site.gauge("stale") == 0.0
            assert "stale" not in await site.local()
            await site.recorded()
            server.process.kill()
            await server.process.wait()
            await site.until("strict", "CONFIG_STALE")
            assert await site.outcome("plain") == "opened"
            status = await site.local()
            assert "UNAVAILABLE" in status["stale"]["reason"]
            assert float(status["stale"]["age"].rstrip("s")) >= STALE_SECONDS_MAX
            assert status["tenants"][0]["revision"]["number"] == "2"
            assert await site.gauge("stale") == 1.0
            assert await site.gauge("stale_seconds") >= STALE_SECONDS_MAX
    async with site.ready_node():
        assert await site.outcome("strict") == "CONFIG_STALE"
        assert await site.outcome("plain") == "opened"
        assert float((await site.local())["stale"]["age"].rstrip("s")) >= STALE_SECONDS_MAX
        async with site.server():
            await site.until("strict", "opened")
            assert await site.gauge("stale") == 0.0


async def test_a_stopped_control_plane_goes_on_where_it_was(site: StaleSite) -> None:
    """While the server's process stands still calls are served; when it goes on the next change
    arrives as a difference, on the same stream or, if it stood for long, on the next one."""
    async with site.server() as server, site.ready_node():
        await site.create("a")
        assert (await site.converge()).converged
        before = len(site.events("transfer applied"))
        server.process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(3):
                assert await site.outcome("a") == "opened"
        finally:
            server.process.send_signal(signal.SIGCONT)
        revision = await site.update("a", "Be kind.")
        assert (await site.converge(revision)).converged
        after = site.events("transfer applied")[before:]
        assert {entry["intent"] for entry in after} <= {"DELTA", "NONE"}
        assert sum(entry["changed"] for entry in after) == 1


async def test_an_empty_store_in_the_old_ones_place(site: StaleSite) -> None:
    """A control plane that knows nothing of the node's tenant, in another epoch, takes it off the node;
    what is made there then arrives in full."""
    async with site.server():
        await site.create("a", "b")
        async with site.ready_node():
            assert (await site.converge()).converged
    shutil.rmtree(site.folder / "control_plane")
    async with site.ready_node():
        assert await site.outcome("a") == "opened"
        async with site.server():
            await site.until("a", "AGENT_NOT_FOUND")
            assert not list((site.folder / "node" / "cache").glob("*.cache"))
            await site.create("c")
            await site.until("c", "opened")
            assert site.events("transfer applied")[-1]["intent"] == "FULL"


async def test_two_nodes_of_one_id_do_not_fight(site: StaleSite, tmp_path: Path) -> None:
    """The node that was replaced says so loudly, in its log and its status, and stays away."""
    async with site.server(), site.ready_node():
        await site.create("a")
        assert (await site.converge()).converged
        other = tmp_path / "other"
        other.mkdir()
        options = ("node", "--server", site.address, "--node-id", "n1", "--data-dir", str(other))
        async with command(*options, log=other / "node.log"):
            (said,) = await site.logged("another node has this node's id; give each its own by --node-id", 1)
            assert said["level"] == "error"
            assert said["retry_seconds"] >= 60
            status = await site.local()
            assert status["replaced"] == 1
            assert "another node has the id n1" in status["stale"]["reason"]
            assert await site.outcome("a") == "opened"
