"""A node with a call that stops, in whichever way: no process of it stays behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest

from bench.processes import READY_SECONDS_MAX, command, free_port
from tests.vendors.livekit import AgentEndpoint
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc

POLL_SECONDS = 0.05
STOP_SECONDS_MAX = 30.0
CALL = json.dumps({"tenant": "acme", "agent": "sales"})


@dataclass(frozen=True, slots=True)
class Node:
    """A node in a session of its own, whose call hangs as it enters its room."""

    process: asyncio.subprocess.Process
    endpoint: AgentEndpoint
    log: Path
    job: psutil.Process

    def left(self) -> list[psutil.Process]:
        """The processes of the node that live."""
        return alive(self.process.pid)

    async def gone(self) -> None:
        """Wait until the node is gone with all that it has started."""
        await asyncio.wait_for(self.process.wait(), STOP_SECONDS_MAX)
        async with asyncio.timeout(STOP_SECONDS_MAX):
            while self.left():  # noqa: ASYNC110 - other processes end
                await asyncio.sleep(POLL_SECONDS)


def alive(session: int) -> list[psutil.Process]:
    """All processes of a session that live."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def lines_of(log: Path) -> list[dict[str, object]]:
    """What the node has logged."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


async def logged(log: Path, event: str) -> dict[str, object]:
    """The node's first line of an event, once it is there."""
    async with asyncio.timeout(READY_SECONDS_MAX):
        while True:
            for line in lines_of(log):
                if line["event"] == event:
                    return line
            await asyncio.sleep(POLL_SECONDS)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """The node, with a control plane that has an agent, and a call."""
    server, log = f"127.0.0.1:{free_port()}", tmp_path / "node.log"
    serve = ("serve", "--grpc-listen", server, "--data-dir", str(tmp_path))
    async with AgentEndpoint(rooms_hang=True) as endpoint, command(*serve, log=tmp_path / "server.log"):
        async with grpc.aio.insecure_channel(server) as channel:
            await asyncio.wait_for(channel.channel_ready(), READY_SECONDS_MAX)
            request = agents_pb2.CreateAgentRequest(tenant_id="acme", agent_id="sales")
            request.config.llm_config.provider = "offline"
            request.config.prompt_config.instructions = "Be brief."
            await agents_grpc.AgentServiceStub(channel).CreateAgent(request)
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "voxplane", "node", "--server", server, "--node-id", "n-1"),
                *("--data-dir", str(tmp_path / "n"), "--max-text-sessions", "0", "--max-cpu-load", "100"),
                stderr=out,
                start_new_session=True,
                env=os.environ
                | {"LIVEKIT_URL": endpoint.url, "LIVEKIT_API_KEY": "devkey", "LIVEKIT_API_SECRET": "s" * 40},
            )
        try:
            await asyncio.wait_for(endpoint.registrations.get(), READY_SECONDS_MAX)
            answer = await endpoint.offer(CALL)
            assert answer.available, log.read_text()
            attached = await logged(log, "session attached")
            yield Node(process, endpoint, log, psutil.Process(int(str(attached["pid"]))))
        finally:
            for left in alive(process.pid):
                left.kill()
            await process.wait()


async def test_a_stop_in_a_hurry_leaves_nothing_even_of_a_job_that_hangs(node: Node) -> None:
    """A job that does not answer any more is killed, and so is all that has started it."""
    node.job.suspend()
    assert len(node.left()) > 3
    node.process.terminate()
    await logged(node.log, "draining worker")
    node.process.terminate()
    await node.gone()
    assert node.process.returncode == 0


async def test_a_signal_to_all_processes_of_the_node_lets_the_call_go_on(node: Node) -> None:
    """As of a service manager that ends a service: the call drains, and a second signal ends it."""
    os.killpg(node.process.pid, signal.SIGTERM)
    await logged(node.log, "draining worker")
    refused = await node.endpoint.offer(CALL, "job-2")
    assert not refused.available
    assert (await logged(node.log, "call refused"))["reason"] == "DRAINING"
    assert node.job.is_running()
    assert node.process.returncode is None
    os.killpg(node.process.pid, signal.SIGTERM)
    await node.gone()


async def test_a_node_that_is_killed_takes_its_jobs_along(node: Node) -> None:
    """Also one that hangs, which could not see by itself that the node is gone."""
    node.job.suspend()
    node.process.kill()
    await node.gone()
