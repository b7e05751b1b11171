"""The LiveKit worker against the /agent endpoint of a server."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent_node.job.voice import WorkerSettings, run_worker
from tests.vendors.livekit import AgentEndpoint
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc

SETTINGS = WorkerSettings(drain_seconds=5, close_seconds=10, load_threshold=float("inf"), idle_processes=0)


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The relay's socket: one for all tests here, as the fork server that the
    jobs come from keeps the environment of the first."""
    return tmp_path_factory.mktemp("relay") / "r.sock"


@pytest.fixture
async def endpoint(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[AgentEndpoint]:
    """The endpoint, with the environment that leads to it."""
    monkeypatch.setenv("VOXPLANE_RELAY_SOCKET", "")  # so that what the worker sets is undone
    async with AgentEndpoint(rooms_hang=getattr(request, "param", False)) as server:
        monkeypatch.setenv("LIVEKIT_URL", server.url)
        monkeypatch.setenv("LIVEKIT_API_KEY", "devkey")
        monkeypatch.setenv("LIVEKIT_API_SECRET", "s" * 40)
        yield server


class RecordingRelay(relay_grpc.RelayServiceServicer):
    """A relay that keeps who attaches, and gives nothing."""

    def __init__(self) -> None:
        self.attached: asyncio.Queue[relay_pb2.JobHello] = asyncio.Queue()
        self.detached = asyncio.Event()

    async def Attach(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
        """Hold the stream until the job ends it."""
        try:
            async for request in request_iterator:
                await self.attached.put(request.hello)
        finally:
            self.detached.set()


@pytest.fixture
async def relay(socket: Path) -> AsyncIterator[RecordingRelay]:
    """The relay, on its socket."""
    servicer = RecordingRelay()
    server = grpc.aio.server()
    relay_grpc.add_RelayServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    yield servicer
    await server.stop(0)


async def test_a_job_attaches_to_the_relay_in_a_process_of_its_own(
    endpoint: AgentEndpoint, relay: RecordingRelay, socket: Path
) -> None:
    """The caller of the job's metadata comes to the relay; a job without a room ends by itself."""
    stop = asyncio.Event()
    worker = asyncio.create_task(run_worker(relay_socket=socket, stop=stop, settings=SETTINGS))
    await asyncio.wait_for(endpoint.registrations.get(), 30)
    metadata = {"tenant": "acme", "agent": "interview", "user": "ann", "variables": {"name": "Ann"}}
    answer = await asyncio.wait_for(endpoint.offer(json.dumps(metadata), "job-7"), 10)
    assert answer.available

    hello = await asyncio.wait_for(relay.attached.get(), 30)
    assert hello.pid != os.getpid()
    assert hello.caller == relay_pb2.CallerContext(
        session_id="job-7",
        tenant_id="acme",
        agent_id="interview",
        user_id="ann",
        variables={"name": "Ann"},
    )
    stop.set()
    await asyncio.wait_for(worker, 30)
    await asyncio.wait_for(relay.detached.wait(), 5)


async def test_the_worker_registers_refuses_bad_metadata_and_stops(
    endpoint: AgentEndpoint, socket: Path
) -> None:
    """It registers under the one generic name, ends a job without a caller, and stops when told."""
    stop = asyncio.Event()
    worker = asyncio.create_task(run_worker(relay_socket=socket, stop=stop, settings=SETTINGS))
    registration = await asyncio.wait_for(endpoint.registrations.get(), 30)
    assert registration.agent_name == "voxplane"

    answer = await asyncio.wait_for(endpoint.offer('{"tenant": "acme"}'), 10)
    assert not answer.available
    assert answer.terminate

    stop.set()
    await asyncio.wait_for(worker, 20)


@pytest.mark.parametrize("endpoint", [True], indirect=True)
async def test_a_worker_that_does_not_close_is_closed_by_force(
    endpoint: AgentEndpoint, relay: RecordingRelay, socket: Path
) -> None:
    """After the drain and the close have had their time the worker's jobs are killed."""
    stop = asyncio.Event()
    hasty = replace(SETTINGS, drain_seconds=0.1, close_seconds=0.1)
    worker = asyncio.create_task(run_worker(relay_socket=socket, stop=stop, settings=hasty))
    await asyncio.wait_for(endpoint.registrations.get(), 30)
    await asyncio.wait_for(endpoint.offer('{"tenant": "acme", "agent": "interview"}'), 10)
    await asyncio.wait_for(relay.attached.get(), 30)
    assert not relay.detached.is_set()

    stop.set()
    await asyncio.wait_for(worker, 20)
    await asyncio.wait_for(relay.detached.wait(), 5)
