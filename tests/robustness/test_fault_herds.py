"""Many clients at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.robustness.faults.herd import herd
from tests.robustness.faults.serving import Serving, serving
from tests.robustness.watcher import connect
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

HERD = 1_000
HERD_LONG = 5_000
RETURNS = 3
SECONDS_MAX = 30.0
CALL_SECONDS_MAX = 5.0
TENANT = "red"
UNAVAILABLE = 14


@pytest.fixture
async def server(tmp_path: Path, transport: str) -> AsyncGenerator[Serving]:
    """A server with one agent."""
    drains = {"VOXPLANE_DRAIN_SECONDS": "10"}
    async with serving(tmp_path / "data", tmp_path / "log", drains, transport=transport) as made:
        async with connect(made.address) as channel:
            request = agents_pb2.CreateAgentRequest(tenant_id=TENANT, agent_id="a")
            request.config.llm_config.provider = "offline"
            await agents_grpc.AgentServiceStub(channel).CreateAgent(request, wait_for_ready=True)
        yield made


async def _publish(server: Serving, marker: bytes) -> float:
    """Commit a config with the marker; returns the seconds that it took."""
    request = agents_pb2.UpdateAgentConfigRequest(tenant_id=TENANT, agent_id="a")
    request.config.prompt_config.instructions = marker.decode() + "x" * 2_000
    request.update_mask.paths.append("prompt_config.instructions")
    async with connect(server.address) as channel:
        began = time.monotonic()
        await agents_grpc.AgentServiceStub(channel).UpdateAgentConfig(request, timeout=CALL_SECONDS_MAX)
        return time.monotonic() - began


def _watch(number: int) -> sync_pb2.WatchConfigRequest:
    return sync_pb2.WatchConfigRequest(tenant_id=TENANT, node=sync_pb2.NodeInfo(node_id=f"n{number}"))


async def test_a_herd_that_comes_at_once_is_served_and_so_is_a_writer(server: Serving) -> None:
    """1,000 nodes come at once, go, and come again, while a writer commits: all
    have the newest config each time, no stream is lost, and no commit waits for
    the herd."""
    async with AsyncExitStack() as stack:
        await _publish(server, b"<0>")
        nodes = await stack.enter_async_context(herd(server.watch_address, HERD, _watch))
        await nodes.until(b"<0>", SECONDS_MAX)
        for number in range(1, RETURNS):
            marker = b"<%d>" % number
            nodes.go()
            coming = asyncio.create_task(nodes.come())
            assert await _publish(server, marker) < CALL_SECONDS_MAX
            await coming
            await nodes.until(marker, SECONDS_MAX)
            assert nodes.lost == 0
        marker = b"<last>"
        await _publish(server, marker)
        await nodes.until(marker, SECONDS_MAX)


async def test_a_herd_leaves_a_draining_server_apart(server: Serving) -> None:
    """A server that is told to end sends its 1,000 nodes away over two seconds,
    not all at once, each with UNAVAILABLE, and ends in order."""
    async with herd(server.watch_address, HERD, _watch) as nodes:
        await _publish(server, b"<0>")
        await nodes.until(b"<0>", SECONDS_MAX)
        ends: list[float] = []

        async def note(ended: asyncio.Event) -> None:
            await ended.wait()
            ends.append(time.monotonic())

        noting = [asyncio.create_task(note(stream.ended)) for stream in nodes.streams]
        assert await server.terminate() == 0
        await asyncio.gather(*noting)
        assert {stream.status for stream in nodes.streams} == {UNAVAILABLE}
        ends.sort()
        assert ends[-1] - ends[0] > 1.0
        assert ends[HERD * 3 // 4] - ends[HERD // 4] > 0.5


@pytest.mark.timeout(300)
async def test_5000_streams_arrive_at_once_and_none_is_lost(long_only: None, server: Serving) -> None:
    """5,000 streams that arrive in one moment are all served."""
    await _publish(server, b"<0>")
    async with herd(server.watch_address, HERD_LONG, _watch) as nodes:
        await nodes.until(b"<0>", SECONDS_MAX)
        assert nodes.lost == 0
        await _publish(server, b"<1>")
        await nodes.until(b"<1>", SECONDS_MAX)
        nodes.go()
        await nodes.come()
        await nodes.until(b"<1>", SECONDS_MAX)
        assert nodes.lost == 0
