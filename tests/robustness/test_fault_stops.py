"""Processes that stand still, and readers that never read."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest

from tests.robustness.crowd import Crowd
from tests.robustness.faults.herd import herd
from tests.robustness.faults.raw_stream import RawStream
from tests.robustness.faults.scene import ENVIRONMENT, HEARTBEAT_SECONDS, require_nothing_found, scene
from tests.robustness.faults.serving import Serving, serving, stopped
from tests.robustness.history import Ended, Final
from tests.robustness.watcher import Spec, connect
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

STOP_SECONDS = 1.5
STOP_SECONDS_LONG = 60.0
DEAF_STREAMS = 20
PENDING_BYTES_MAX = 1_000_000
STALL_SECONDS = 0.5
PADDING_BYTES = 40_000
COMMITS = 60
RSS_GROWTH_BYTES_MAX = 40_000_000
WINDOW_BYTES = 1_024
RESOURCE_EXHAUSTED = 8
SOON_SECONDS = 20.0
END_SECONDS_MAX = 5.0
TENANT = "red"


@pytest.fixture
def stop_seconds(long_mode: bool) -> float:
    """How long a process stands still."""
    return STOP_SECONDS_LONG if long_mode else STOP_SECONDS


@pytest.fixture
async def server(tmp_path: Path, transport: str) -> AsyncGenerator[Serving]:
    """A server that gives deaf readers up soon."""
    environment = {
        **ENVIRONMENT,
        "VOXPLANE_WATCH_PENDING_BYTES_MAX": str(PENDING_BYTES_MAX),
        "VOXPLANE_WATCH_STALL_SECONDS": str(STALL_SECONDS),
    }
    async with serving(tmp_path / "data", tmp_path / "log", environment, transport=transport) as made:
        yield made


def _all_have(finals: list[Final], etags: dict[str, str]) -> bool:
    return all(TENANT in final.held and final.held[TENANT].etags == etags for final in finals)


@pytest.mark.timeout(300)
async def test_clients_that_stand_still_cost_the_others_nothing(
    tmp_path: Path, server: Serving, stop_seconds: float
) -> None:
    """A process of watchers and one of them as nodes is stopped while others
    write and watch: nobody else misses a heartbeat or waits, and when it goes on
    its watchers come level."""
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(scene(server, tmp_path, 6))
        crowd = Crowd(tmp_path, "stopped")
        stack.push_async_callback(crowd.close)
        await crowd.start(
            server.watch_address, 6, [Spec("still", "-"), Spec("still-node", TENANT, reports="stream")]
        )
        stage.watch([Spec("near", "-")])
        stage.write(3)
        await asyncio.sleep(1.0)
        async with stage.fault("SIGSTOP of watchers") as began:
            with stopped(crowd.process.pid):
                await asyncio.sleep(stop_seconds)
                until = stage.recorder.now()
        near = stage.received(began, until, "near")
        gaps = [late.time - early.time for early, late in itertools.pairwise(near)]
        assert max(gaps) < 4 * HEARTBEAT_SECONDS
        calls = [one for one in stage.operations(began) if one.end < until]
        assert {one.outcome for one in calls} <= {"ok", "refused"}
        assert max(one.end - one.start for one in calls) < 1.0
        await stage.settle()
        right = stage.watchers[0].final().held[TENANT].etags
        async with asyncio.timeout(SOON_SECONDS):
            while not _all_have(await crowd.finals(), right):  # noqa: ASYNC110 - a process is asked
                await asyncio.sleep(0.1)
        require_nothing_found(stage.judge())


async def test_a_server_that_stands_still_is_noticed_and_gone_back_to(
    tmp_path: Path, server: Serving, stop_seconds: float
) -> None:
    """When the server is stopped its watchers hear nothing, and notice; when it
    goes on they and the writers do, and nothing that was acknowledged is lost or
    doubled."""
    stop_seconds = max(stop_seconds, 3.5)  # watchers are patient for 3 s
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(scene(server, tmp_path, 7))
        stage.watch([Spec("all", "-"), Spec("node", TENANT, reports="unary")])
        stage.write(4)
        await asyncio.sleep(0.7)
        async with stage.fault("SIGSTOP of the server"):
            with stopped(server.pid):
                await asyncio.sleep(stop_seconds)
        ended = [one for one in stage.records() if isinstance(one, Ended)]
        assert "it was silent" in {one.reason for one in ended}
        assert "unknown" in {one.outcome for one in stage.operations()}
        require_nothing_found(await stage.finish())


def _update(number: int) -> agents_pb2.UpdateAgentConfigRequest:
    request = agents_pb2.UpdateAgentConfigRequest(tenant_id=TENANT, agent_id="a")
    request.config.prompt_config.instructions = f"mark-{number:04} " + "x" * PADDING_BYTES
    request.update_mask.paths.append("prompt_config.instructions")
    return request


async def _commit_all(server: Serving, numbers: range) -> list[float]:
    """Seconds that each commit took."""
    took: list[float] = []
    async with connect(server.address) as channel:
        stub = agents_grpc.AgentServiceStub(channel)
        if not numbers.start:
            create = agents_pb2.CreateAgentRequest(tenant_id=TENANT, agent_id="a")
            create.config.llm_config.provider = "offline"
            await stub.CreateAgent(create)
        for number in numbers:
            began = time.monotonic()
            await stub.UpdateAgentConfig(_update(number))
            took.append(time.monotonic() - began)
    return took


def _watch(_: int) -> sync_pb2.WatchConfigRequest:
    return sync_pb2.WatchConfigRequest(tenant_id=TENANT)


@pytest.mark.parametrize("read_first", [True, False], ids=["after a message", "from the start"])
async def test_readers_that_do_not_read_cost_the_others_nothing_and_are_given_up(
    server: Serving, read_first: bool
) -> None:
    """Streams with a small window, and streams on connections that nobody reads
    from, hold up neither writers nor other readers, and take no more memory
    however much is committed; past the bound they are ended with
    RESOURCE_EXHAUSTED, which is all that a reader hears who then wakes up."""
    await _commit_all(server, range(1))
    async with AsyncExitStack() as stack:
        near = await stack.enter_async_context(herd(server.watch_address, 5, _watch))
        await near.until(b"mark-0000", SOON_SECONDS)
        window = WINDOW_BYTES + PADDING_BYTES if read_first else WINDOW_BYTES
        deaf = [RawStream(_watch(0), window_bytes=window) for _ in range(DEAF_STREAMS)]
        for number, stream in enumerate(deaf):
            stack.callback(stream.close)
            await stream.open(server.watch_address, small_buffer=True)
            if read_first:
                await asyncio.wait_for(stream.until(b"mark-0000"), SOON_SECONDS)
            if number % 2:
                stream.deafen()
        await _commit_all(server, range(1, 2))
        await asyncio.sleep(STALL_SECONDS)
        before = psutil.Process(server.pid).memory_info().rss
        took = await _commit_all(server, range(2, COMMITS))
        await near.until(b"mark-%04d" % (COMMITS - 1), SOON_SECONDS)
        assert sorted(took)[len(took) // 2] < 0.2
        assert psutil.Process(server.pid).memory_info().rss - before < RSS_GROWTH_BYTES_MAX
        assert not near.lost
        for stream in deaf:
            stream.listen()
            await asyncio.wait_for(stream.ended.wait(), END_SECONDS_MAX)
        assert {stream.status for stream in deaf} == {RESOURCE_EXHAUSTED}
        assert max(stream.messages for stream in deaf) < COMMITS // 10
        async with herd(server.watch_address, DEAF_STREAMS, _watch) as back:
            await back.until(b"mark-%04d" % (COMMITS - 1), SOON_SECONDS)


async def test_a_reader_that_pauses_goes_on_with_the_newest(server: Serving) -> None:
    """A reader that stops for a while, with less committed than the bound, is
    not ended: it goes on with the newest state."""
    await _commit_all(server, range(1))
    async with AsyncExitStack() as stack:
        stream = RawStream(_watch(0), window_bytes=WINDOW_BYTES)
        stack.callback(stream.close)
        await stream.open(server.watch_address, small_buffer=True)
        stream.deafen()
        await asyncio.sleep(2 * STALL_SECONDS)
        await _commit_all(server, range(1, 8))
        stream.listen()
        await asyncio.wait_for(stream.until(b"mark-0007"), SOON_SECONDS)
        assert stream.messages <= 4
        assert not stream.ended.is_set()
