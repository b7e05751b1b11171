"""The watch's shell over a real gRPC connection, with time held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from grpc_status import rpc_status

from agent_node.upstream import CacheWriter, DiskCache, Reporter, Snapshot, Upstream, WatchProtocol
from tests.unit.node.samples import snapshot
from tests.virtual_clock import VirtualClock
from voxplane.errors import VoxplaneError, to_status
from voxplane.names import TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc
from voxplane.v1 import error_reason_pb2 as reason_pb2

NOTHING = snapshot(1)
Script = list[sync_pb2.WatchConfigResponse | VoxplaneError]
"""What a stream brings; it stays open after the last message."""


def transfer(given: Snapshot, stream_id: str, nonce: str = "1") -> sync_pb2.WatchConfigResponse:
    """A full transfer."""
    return sync_pb2.WatchConfigResponse(transfer=given.transfer(), stream_id=stream_id, nonce=nonce)


class Server(sync_grpc.ConfigSyncServiceServicer):
    """Plays one script per stream, and keeps what it is told."""

    def __init__(self, scripts: list[Script]) -> None:
        self.scripts = scripts
        self.requests: asyncio.Queue[sync_pb2.WatchConfigRequest] = asyncio.Queue()
        self.reports: asyncio.Queue[sync_pb2.ReportConfigStatusRequest] = asyncio.Queue()
        self.report_faults = 0
        self.may_fail = asyncio.Event()

    async def WatchConfig(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        """Play the next script."""
        self.requests.put_nowait(request)
        for step in self.scripts.pop(0) if self.scripts else []:
            if isinstance(step, VoxplaneError):
                # gRPC may drop what was sent just before an error
                await self.may_fail.wait()
                await context.abort_with_status(rpc_status.to_status(to_status(step)))
            await context.write(step)
        await asyncio.Event().wait()

    async def StreamConfigStatus(self, requests, context):  # type: ignore[no-untyped-def]  # noqa: N802
        """Take reports."""
        async for request in requests:
            if self.report_faults:
                self.report_faults -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "try again")
            self.reports.put_nowait(request.report)
        return sync_pb2.StreamConfigStatusResponse()

    async def FetchConfig(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        """Not used."""

    async def ReportConfigStatus(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        """Not used."""


@dataclass
class Client:
    """A node's upstream side, and what it has applied."""

    server: Server
    clock: VirtualClock
    upstream: Upstream
    reporter: Reporter
    got: asyncio.Queue[Snapshot] = field(default_factory=asyncio.Queue)
    gone: asyncio.Queue[TenantId] = field(default_factory=asyncio.Queue)

    def applied(self, snapshot: Snapshot) -> None:
        """Note a snapshot, and report it as the board would."""
        self.got.put_nowait(snapshot)
        for bundle in snapshot.bundles.values():
            self.reporter.status(
                sync_pb2.BundleStatus(name=bundle.name, etag=bundle.etag, phase=sync_pb2.CONFIG_PHASE_APPLIED)
            )

    def forgotten(self, tenant_id: TenantId) -> None:
        """Note a tenant that is gone."""
        self.gone.put_nowait(tenant_id)

    async def after_back_off(self) -> sync_pb2.WatchConfigRequest:
        """The request of the next stream, once the wait is over."""
        while self.server.requests.empty():
            await self.clock.until_sleeping()
            await self.clock.advance(1.0)
        return await self.server.requests.get()


@pytest.fixture
async def client(tmp_path: Path, scripts: list[Script]) -> AsyncIterator[Client]:
    """A client whose server plays `scripts`."""
    server, clock = Server(scripts), VirtualClock()
    listener = grpc.aio.server()
    sync_grpc.add_ConfigSyncServiceServicer_to_server(server, listener)
    listener.add_insecure_port(f"unix:{tmp_path}/server.sock")
    await listener.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/server.sock") as channel:
        stub = sync_grpc.ConfigSyncServiceStub(channel)
        reporter = Reporter(stub, clock, lambda: 0.1)
        writer = CacheWriter(
            DiskCache(tmp_path / "cache"),
            clock,
            held=lambda s: NOTHING,
            written=[lambda s, serial: reporter.persisted(s.tenant_id, serial)],
        )
        protocol = WatchProtocol(node=sync_pb2.NodeInfo(node_id="n1"), jitter=lambda: 1.0, now=0.0)
        made = Client(server, clock, None, reporter)  # type: ignore[arg-type]
        made.upstream = Upstream(stub, protocol, listener=made, reporter=reporter, writer=writer, clock=clock)
        tasks = [asyncio.create_task(run()) for run in (made.upstream.run, reporter.run, writer.run)]
        yield made
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
    await listener.stop(0)


FIRST = snapshot(1, a="one")
BUSY = VoxplaneError(reason_pb2.ERROR_REASON_SHUTTING_DOWN, "busy", retry_after=7.0)


@pytest.mark.parametrize("scripts", [[[transfer(FIRST, "s1")]]])
async def test_a_transfer_is_applied_and_reported(client: Client) -> None:
    """What the stream brings is applied, written, acknowledged and reported, in one report or two."""
    assert await asyncio.wait_for(client.got.get(), 10) == FIRST
    names: set[str] = set()
    while True:
        report = await asyncio.wait_for(client.server.reports.get(), 10)
        assert report.stream_id == "s1"
        names |= {status.name for status in report.statuses}
        if report.nonce == "1":
            break
    assert names == set(FIRST.bundles)


@pytest.mark.parametrize("scripts", [[[transfer(FIRST, "s1"), BUSY], [transfer(FIRST, "s2")]]])
async def test_the_server_sets_the_wait(client: Client) -> None:
    """After an error with RetryInfo the node waits so long, resumes, and tells everything again."""
    await asyncio.wait_for(client.server.requests.get(), 10)
    await asyncio.wait_for(client.got.get(), 10)
    client.server.may_fail.set()
    request = await asyncio.wait_for(client.after_back_off(), 10)
    assert client.clock.monotonic() >= 7.0
    assert request.start_revisions["acme"].number == 1
    while True:
        report = await asyncio.wait_for(client.server.reports.get(), 10)
        if report.stream_id == "s2" and report.statuses:
            break


@pytest.mark.parametrize("scripts", [[[transfer(FIRST, "s1")], [transfer(FIRST, "s2")]]])
async def test_a_silent_stream_is_opened_again(client: Client) -> None:
    """A stream that brings neither changes nor heartbeats is given up."""
    await asyncio.wait_for(client.got.get(), 10)
    await asyncio.wait_for(client.server.requests.get(), 10)
    await client.clock.advance(59.0)
    assert client.server.requests.empty()
    await client.clock.advance(1.0)
    await asyncio.wait_for(client.after_back_off(), 10)
    stale = client.upstream.protocol.stale(client.clock.monotonic())
    assert stale is None or "nothing was heard" in stale.reason


@pytest.mark.parametrize("scripts", [[[transfer(FIRST, "s1")]]])
async def test_reports_that_break_are_told_again(client: Client) -> None:
    """When the report stream breaks alone it is opened again, with all statuses."""
    client.server.report_faults = 1
    await asyncio.wait_for(client.got.get(), 10)
    while client.server.reports.empty():
        await client.clock.advance(0.5)
    report = await client.server.reports.get()
    assert {status.name for status in report.statuses} == set(FIRST.bundles)
