"""The LiveKit worker against the /agent endpoint of a server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from livekit.protocol import agent

from agent_node.calls import CallSettings, CallWorker
from agent_node.calls.server import CallServer
from agent_node.daemon import Stop
from agent_node.logs import LIBRARY_FIELDS
from tests.unit.voice.call_world import FakeDesk, FakePermission, metadata
from tests.vendors.livekit import AgentEndpoint
from tests.virtual_clock import VirtualClock
from voxplane.clock import Clock, SystemClock
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc

SETTINGS = CallSettings(cpu_max=1.0, idle=0, drain_seconds=5, goodbye_seconds=1, close_seconds=10)
STEP_SECONDS_MAX = 40


class NoCpu:
    """livekit.agents.utils.hw.CPUMonitor of a machine that does nothing else."""

    def cpu_count(self) -> float:
        """Many."""
        return 64.0

    def cpu_percent(self, interval: float = 0.5) -> float:
        """Nothing, after the time of a measurement."""
        time.sleep(interval)
        return 0.0


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


class Running:
    """A worker that runs, with what is around it."""

    def __init__(
        self,
        settings: CallSettings,
        socket: Path,
        clock: Clock | None = None,
        make_server: type[CallServer] = CallServer,
    ) -> None:
        self.stop = Stop()
        self.desk = FakeDesk()
        self.permission = FakePermission()
        self.worker = CallWorker(
            settings,
            node_id="n-1",
            relay_socket=socket,
            permission=self.permission,
            desk=self.desk,
            clock=clock or SystemClock(),
            jitter=lambda: 1.0,
            monitor=NoCpu(),  # pyright: ignore[reportArgumentType]
            make_server=make_server,
        )


@asynccontextmanager
async def running(
    endpoint: AgentEndpoint, socket: Path, settings: CallSettings = SETTINGS
) -> AsyncIterator[Running]:
    """A worker that is registered; at the end it is asked to stop, and has to."""
    made = Running(settings, socket)
    task = asyncio.create_task(made.worker.run(made.stop))
    try:
        registration = await asyncio.wait_for(endpoint.registrations.get(), STEP_SECONDS_MAX)
        assert registration.agent_name == "voxplane"
        yield made
    finally:
        if not made.stop.asked.is_set():
            made.stop.ask()
        await asyncio.wait_for(task, STEP_SECONDS_MAX)


async def until(done: Callable[[], bool]) -> None:
    """Wait for what real processes do."""
    async with asyncio.timeout(STEP_SECONDS_MAX):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def offered(answer: Awaitable[agent.AvailabilityResponse]) -> agent.AvailabilityResponse:
    """What the worker says to an offer."""
    return await asyncio.wait_for(answer, STEP_SECONDS_MAX)


async def test_a_job_attaches_to_the_relay_in_a_process_of_its_own(
    endpoint: AgentEndpoint, relay: RecordingRelay, socket: Path
) -> None:
    """The caller of the job's metadata comes to the relay; a job without a room ends by itself, and its
    slot is free again."""
    async with running(endpoint, socket) as made:
        wanted = {"tenant": "acme", "agent": "interview", "user": "ann", "variables": {"name": "Ann"}}
        answer = await offered(endpoint.offer(json.dumps(wanted), "job-7"))
        assert answer.available
        assert answer.participant_identity == "agent-job-7"
        assert answer.participant_attributes["voxplane.session_id"] == "job-7"

        hello = await asyncio.wait_for(relay.attached.get(), STEP_SECONDS_MAX)
        assert hello.pid != os.getpid()
        assert hello.caller == relay_pb2.CallerContext(
            session_id="job-7",
            tenant_id="acme",
            agent_id="interview",
            user_id="ann",
            variables={"name": "Ann"},
        )
        assert made.worker.registered
        assert len(made.worker.slots) == 1
    await asyncio.wait_for(relay.detached.wait(), STEP_SECONDS_MAX)
    assert len(made.worker.slots) == 0
    assert not made.worker.registered


async def test_a_refusal_reaches_livekit(endpoint: AgentEndpoint, socket: Path) -> None:
    """A job without a caller is ended; one that others may take is only refused."""
    async with running(endpoint, socket, replace(SETTINGS, sessions_max=1)) as made:
        answer = await offered(endpoint.offer('{"tenant": "acme"}'))
        assert (answer.available, answer.terminate) == (False, True)
        made.permission.waits = True
        answer = await offered(endpoint.offer(metadata()))
        assert (answer.available, answer.terminate) == (False, False)
        assert made.worker.gate.refusals == {"INVALID_REQUEST": 1, "NOT_READY": 1}


@pytest.mark.parametrize("endpoint", [True], indirect=True)
async def test_livekit_hears_at_once_that_the_node_is_full(
    endpoint: AgentEndpoint, relay: RecordingRelay, socket: Path
) -> None:
    """And a job that dies makes room, is known by its exit, and is healed by the worker if the relay
    never knew of it."""
    async with running(endpoint, socket, replace(SETTINGS, sessions_max=1)) as made:
        await offered(endpoint.offer(metadata(), "job-1"))
        hello = await asyncio.wait_for(relay.attached.get(), STEP_SECONDS_MAX)
        assert await asyncio.wait_for(endpoint.full(), STEP_SECONDS_MAX)
        refused = await offered(endpoint.offer(metadata(), "job-2"))
        assert (refused.available, refused.terminate) == (False, False)

        made.desk.known.add("job-1")
        os.kill(hello.pid, signal.SIGKILL)
        await until(lambda: not len(made.worker.slots))
        assert made.worker.ends == {"died": 1}
        assert not await asyncio.wait_for(endpoint.full(), STEP_SECONDS_MAX)
        assert made.worker.healer is not None
        assert not made.worker.healer.outcomes


@pytest.mark.parametrize("endpoint", [True], indirect=True)
async def test_nobody_takes_the_place_of_a_call_that_is_to_be_healed(
    endpoint: AgentEndpoint, relay: RecordingRelay, socket: Path
) -> None:
    """Not even before it is known whether the relay has the call: the node would hold more than it may."""
    async with running(endpoint, socket, replace(SETTINGS, sessions_max=1)) as made:
        await offered(endpoint.offer(metadata(session="s-1"), "job-1"))
        hello = await asyncio.wait_for(relay.attached.get(), STEP_SECONDS_MAX)
        os.kill(hello.pid, signal.SIGKILL)
        await until(lambda: bool(made.worker.ends))
        assert not (await offered(endpoint.offer(metadata(), "job-2"))).available
        assert (await offered(endpoint.offer(metadata(session="s-1"), "job-3"))).available
        assert made.worker.gate.refusals == {"NODE_FULL": 1}
        assert (len(made.worker.slots), made.worker.slots.kept) == (1, 0)


@pytest.mark.parametrize("endpoint", [True], indirect=True)
async def test_a_worker_that_does_not_close_is_closed_by_force(
    endpoint: AgentEndpoint, relay: RecordingRelay, socket: Path
) -> None:
    """After the drain calls are told to end; when that and the close have had their time jobs are killed."""
    hasty = replace(SETTINGS, drain_seconds=0.1, goodbye_seconds=0.1, close_seconds=0.1)
    async with running(endpoint, socket, hasty) as made:
        await offered(endpoint.offer(metadata()))
        await asyncio.wait_for(relay.attached.get(), STEP_SECONDS_MAX)
        assert not relay.detached.is_set()
    assert made.desk.ends == ["the node is stopping"]
    await asyncio.wait_for(relay.detached.wait(), STEP_SECONDS_MAX)


@pytest.mark.parametrize("endpoint", [True], indirect=True)
async def test_a_hurry_does_not_wait_for_calls(
    endpoint: AgentEndpoint, relay: RecordingRelay, socket: Path
) -> None:
    """Asked twice the worker ends its jobs, though they might have gone on."""
    patient = replace(SETTINGS, drain_seconds=3600, goodbye_seconds=3600, close_seconds=3600)
    async with running(endpoint, socket, patient) as made:
        await offered(endpoint.offer(metadata()))
        await asyncio.wait_for(relay.attached.get(), STEP_SECONDS_MAX)
        made.stop.ask()
        refused = await offered(endpoint.offer(metadata(), "job-2"))
        assert not refused.available
        assert made.worker.gate.refusals == {"DRAINING": 1}
        assert not relay.detached.is_set()
        made.stop.ask()
    await asyncio.wait_for(relay.detached.wait(), STEP_SECONDS_MAX)


async def test_a_server_that_goes_is_waited_for(
    endpoint: AgentEndpoint, socket: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker knows that it is not registered, its log says why, and it registers again by itself."""
    async with running(endpoint, socket) as made:
        await endpoint.go_away()
        await until(lambda: not made.worker.registered)
        endpoint.come_back()
        await asyncio.wait_for(endpoint.registrations.get(), STEP_SECONDS_MAX)
        await until(lambda: made.worker.registered)
        assert made.worker.restarts == 0
    said = {getattr(record, "connection_error", "") for record in caplog.records}
    assert "WSServerHandshakeError 503" in said
    assert "connection_error" in LIBRARY_FIELDS


class BreakingServer(CallServer):
    """A worker that breaks as soon as it runs."""

    async def run(self, *, devmode: bool = False, unregistered: bool = False) -> None:
        """See AgentServer."""
        raise RuntimeError("nothing works")


async def test_a_worker_that_breaks_is_started_again_ever_more_rarely(
    endpoint: AgentEndpoint, socket: Path
) -> None:
    """The node goes on without calls, says how often that was, and stops when it is asked to."""
    clock = VirtualClock()
    made = Running(SETTINGS, socket, clock, BreakingServer)
    task = asyncio.create_task(made.worker.run(made.stop))
    await until(lambda: made.worker.restarts == 1)
    times: list[float] = []
    while len(times) < 8:
        await clock.until_sleeping()
        before = made.worker.restarts
        while made.worker.restarts == before:
            await clock.advance(0.5)
        times.append(clock.monotonic())
    pauses = [round(later - earlier) for earlier, later in pairwise(times)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (2, 60)
    assert not task.done()
    made.stop.ask()
    await asyncio.wait_for(task, STEP_SECONDS_MAX)
