"""Text jobs as processes, at a relay that the test holds."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent_node.job.outgoing import REPORTS_MAX
from agent_node.job.relay_client import Attachment, RelayClosedError, relay_channel
from tests.unit.job.job_world import caller, delivery, offline_config
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

SECONDS_MAX = 30.0


@dataclass
class Relay(relay_grpc.RelayServiceServicer):
    """Gives out what the test puts in, and keeps what jobs say."""

    deliveries: asyncio.Queue[relay_pb2.BundleDelivery | None] = field(default_factory=asyncio.Queue)
    inputs: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)
    chat: asyncio.Queue[relay_pb2.ChatResponse | None] = field(default_factory=asyncio.Queue)
    reports: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def Attach(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
        """Deliver, until None."""
        await anext(request_iterator)

        async def read() -> None:
            async for request in request_iterator:
                if request.HasField("status"):
                    self.reports.append((request.status.revision, request.status.phase))
                    self.news.set()

            await self.deliveries.put(None)

        reading = asyncio.create_task(read())
        try:
            while (made := await self.deliveries.get()) is not None:
                await context.write(relay_pb2.AttachResponse(bundle=made))
        finally:
            reading.cancel()

    async def ServeText(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
        """One session, until None."""
        await anext(request_iterator)
        self.ready.set()
        await context.write(relay_pb2.ServeTextResponse(open=caller()))

        async def read() -> None:
            async for request in request_iterator:
                await self.chat.put(request.chat)
            await self.chat.put(None)

        reading = asyncio.create_task(read())
        try:
            while (text := await self.inputs.get()) is not None:
                await context.write(relay_pb2.ServeTextResponse(input=relay_pb2.ChatInput(text=text)))
        finally:
            reading.cancel()

    async def until(self, event: str) -> relay_pb2.ChatResponse:
        """The next message of a kind."""
        async with asyncio.timeout(SECONDS_MAX):
            while (message := await self.chat.get()) is not None:
                if message.WhichOneof("event") == event:
                    return message
        raise AssertionError(f"the job ended without {event}")


@asynccontextmanager
async def relay_at(socket: Path) -> AsyncIterator[Relay]:
    """A relay on a socket."""
    relay, server = Relay(), grpc.aio.server()
    relay_grpc.add_RelayServiceServicer_to_server(relay, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield relay
    finally:
        await server.stop(0)


@asynccontextmanager
async def job_at(socket: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A text job."""
    job = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent_node.job.text"),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "VOXPLANE_RELAY_SOCKET": str(socket), "VOXPLANE_NODE_ID": "n1"},
    )
    try:
        yield job
    finally:
        if job.returncode is None:
            job.kill()
        await job.communicate()


async def test_a_job_serves_one_session(tmp_path: Path) -> None:
    """A job opens the session, takes a change, survives Ctrl-C, reports upward,
    logs who it is, and ends in good order when the relay ends the session."""
    socket = tmp_path / "r.sock"
    async with relay_at(socket) as relay, job_at(socket) as job:
        await relay.deliveries.put(delivery(1, offline_config("mark-1")))
        opened = (await relay.until("opened")).opened
        assert (opened.session_id, opened.version) == ("acme-1", 1)
        job.send_signal(signal.SIGINT)
        await relay.inputs.put("a very private word")
        assert "mark-1" in (await relay.until("turn")).turn.text
        await relay.deliveries.put(delivery(2, offline_config("mark-2")))
        assert (await relay.until("swap")).swap.revision == 2
        await relay.inputs.put("and now?")
        assert "mark-2" in (await relay.until("turn")).turn.text
        assert relay.reports[-1] == (2, sync_pb2.CONFIG_PHASE_APPLIED)
        await relay.inputs.put(None)
        _, logs = await asyncio.wait_for(job.communicate(), SECONDS_MAX)
        assert job.returncode == 0
        for word in (
            b'"tenant_id": "acme"',
            b'"agent": "support"',
            b'"session_id": "acme-1"',
            b'"revision": 2',
        ):
            assert word in logs
        assert b"private" not in logs
        assert b"Traceback" not in logs


async def test_a_job_ends_with_its_node(tmp_path: Path) -> None:
    """When its standard input ends, the job ends, in the middle of a session too."""
    socket = tmp_path / "r.sock"
    async with relay_at(socket) as relay, job_at(socket) as job:
        await relay.deliveries.put(delivery(1, offline_config("mark-1")))
        await relay.until("opened")
        assert job.stdin is not None
        job.stdin.close()
        assert await asyncio.wait_for(job.wait(), SECONDS_MAX) == 0


async def test_a_session_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The chat gets the error with its details, and the job ends in good order."""
    socket = tmp_path / "r.sock"
    async with relay_at(socket) as relay, job_at(socket) as job:
        await relay.deliveries.put(delivery(1, offline_config(llm_config={"provider": "nobody"})))
        error = (await relay.until("error")).error
        assert "nobody" in error.message
        assert error.details
        await relay.inputs.put(None)
        assert await asyncio.wait_for(job.wait(), SECONDS_MAX) == 0
        assert relay.reports == [(1, sync_pb2.CONFIG_PHASE_FAILED)]


async def test_only_the_latest_delivery_counts(tmp_path: Path) -> None:
    """A job that is busy skips deliveries; reports that cannot be sent yet are
    bounded, and sent in order; the end of the relay is an error."""
    socket = tmp_path / "r.sock"
    async with (
        relay_at(socket) as relay,
        relay_channel(str(socket)) as channel,
        Attachment(channel, relay_pb2.JobHello(caller=caller())) as attachment,
    ):
        deliveries = aiter(attachment)
        await relay.deliveries.put(delivery(1, offline_config()))
        assert (await anext(deliveries)).bundle.revision == 1
        for revision in range(REPORTS_MAX + 20):
            attachment.report(sync_pb2.BundleStatus(revision=revision))
        async with asyncio.timeout(SECONDS_MAX):
            while len(relay.reports) < REPORTS_MAX:
                relay.news.clear()
                await relay.news.wait()
        assert [revision for revision, _ in relay.reports] == list(range(20, REPORTS_MAX + 20))
        for revision in range(2, 10):
            await relay.deliveries.put(delivery(revision, offline_config()))
        await relay.deliveries.put(None)
        seen: list[int] = []

        async def fetch_all() -> None:
            async for made in deliveries:
                seen.append(made.bundle.revision)

        with pytest.raises(RelayClosedError):
            await asyncio.wait_for(fetch_all(), SECONDS_MAX)
        assert seen[-1] == 9
        assert seen == sorted(seen)
