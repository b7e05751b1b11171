"""A worker with an entrypoint of its own, a share of whose calls goes to Voxplane."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status

from tests.vendors.livekit import AgentEndpoint
from voxplane.buckets import takes_part
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 60.0
OWN_AGENT = "the hard-coded agent takes the call"
CALLERS = [f"caller-{number}" for number in range(100)]


class RefusingRelay(relay_grpc.RelayServiceServicer):
    """A relay that keeps who attaches, and knows no agent."""

    def __init__(self) -> None:
        self.attached: asyncio.Queue[relay_pb2.JobHello] = asyncio.Queue()

    async def Attach(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
        """Refuse the job."""
        await self.attached.put((await anext(request_iterator)).hello)
        status = status_pb2.Status(code=code_pb2.NOT_FOUND, message="there is no such agent")
        await context.abort_with_status(rpc_status.to_status(status))


class Worker:
    """The example's process, registered with a LiveKit endpoint."""

    def __init__(self, process: asyncio.subprocess.Process, endpoint: AgentEndpoint) -> None:
        self._process = process
        self._endpoint = endpoint
        self.text = ""

    async def call(self, caller: str) -> None:
        """Give it a call."""
        answer = await asyncio.wait_for(self._endpoint.offer(caller, f"job-{caller}"), SECONDS_MAX)
        assert answer.available

    async def says(self, words: str) -> str:
        """All it has said, once these words are among it."""
        assert self._process.stdout is not None
        async with asyncio.timeout(SECONDS_MAX):
            while words not in self.text:
                line = await self._process.stdout.readline()
                assert line, self.text
                self.text += line.decode()
        return self.text


@asynccontextmanager
async def worker(percent: float, socket: Path | str) -> AsyncIterator[Worker]:
    """The example at work."""
    async with AgentEndpoint() as endpoint:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "examples/dynamic_entrypoint.py", "start"),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=os.environ
            | {
                "LIVEKIT_URL": endpoint.url,
                "LIVEKIT_API_KEY": "devkey",
                "LIVEKIT_API_SECRET": "s" * 40,
                "OPENAI_API_KEY": "o" * 20,
                "DEEPGRAM_API_KEY": "d" * 20,
                "VOXPLANE_PERCENT": str(percent),
                "VOXPLANE_RELAY_SOCKET": str(socket),
            },
        )
        running = Worker(process, endpoint)
        try:
            await running.says("registered worker")
            yield running
        finally:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                for each in psutil.Process(process.pid).children(recursive=True):
                    each.kill()
                process.kill()
            await process.wait()


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[RefusingRelay]:
    """The relay, on r.sock of the test's folder."""
    servicer = RefusingRelay()
    server = grpc.aio.server()
    relay_grpc.add_RelayServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{tmp_path}/r.sock")
    await server.start()
    yield servicer
    await server.stop(0)


async def test_a_share_of_the_callers_goes_to_the_node(relay: RefusingRelay, tmp_path: Path) -> None:
    """Who is among the share comes to the node's relay, in the worker's own job
    process; who is not gets the agent as it was, and so does one whom the node refuses."""
    chosen = next(each for each in CALLERS if takes_part(each, 10))
    other = next(each for each in CALLERS if not takes_part(each, 10))
    async with worker(10, tmp_path / "r.sock") as running:
        await running.call(other)
        await running.says(OWN_AGENT)
        assert relay.attached.empty()

        await running.call(chosen)
        hello = await asyncio.wait_for(relay.attached.get(), SECONDS_MAX)
        assert hello.caller == relay_pb2.CallerContext(
            session_id=f"job-{chosen}", tenant_id="demo", agent_id="pte-interview", user_id=chosen
        )
        said = await running.says("voxplane does not take the call")
        assert "there is no such agent" in said
        running.text = said.partition("voxplane does not take the call")[2]
        await running.says(OWN_AGENT)


async def test_without_a_node_nobody_waits(tmp_path: Path) -> None:
    """Where no node listens the call goes to the agent as it was, at once and with the reason in the log."""
    async with worker(100, tmp_path / "nobody.sock") as running:
        await running.call("ada")
        said = await running.says(OWN_AGENT)
    assert "no `voxplane node` listens on" in said
