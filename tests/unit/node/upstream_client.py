"""A node's upstream side over a real gRPC connection to a server that plays a
script, with time held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_status import rpc_status

from agent_node.upstream import CacheWriter, DiskCache, Reporter, Snapshot, Upstream, WatchProtocol
from tests.unit.node.samples import snapshot
from tests.virtual_clock import VirtualClock
from voxplane.errors import VoxplaneError, to_status
from voxplane.names import TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc

NOTHING = snapshot(1)
RawError = tuple[grpc.StatusCode, str, bytes]
"""A status code, its text, and the bytes of its details."""
HOLD = "hold"
"""The script goes on when the test sets `may_go`."""
Script = list[sync_pb2.WatchConfigResponse | VoxplaneError | RawError | str]
"""What a stream brings; it stays open after the last message."""


def transfer(given: Snapshot, stream_id: str, nonce: str = "1") -> sync_pb2.WatchConfigResponse:
    """A full transfer."""
    return sync_pb2.WatchConfigResponse(transfer=given.transfer(), stream_id=stream_id, nonce=nonce)


class Server(sync_grpc.ConfigSyncServiceServicer):
    """Plays one script per stream, and keeps what it is told."""

    def __init__(self, scripts: list[Script]) -> None:
        self.scripts = scripts
        self.asked: list[sync_pb2.WatchConfigRequest] = []
        self.reports: asyncio.Queue[sync_pb2.ReportConfigStatusRequest] = asyncio.Queue()
        self.report_faults = 0
        self.may_fail = asyncio.Event()
        self.may_go = asyncio.Event()

    async def WatchConfig(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        """Play the next script."""
        self.asked.append(request)
        for step in self.scripts.pop(0) if self.scripts else []:
            if isinstance(step, VoxplaneError):
                # gRPC may drop what was sent just before an error
                await self.may_fail.wait()
                await context.abort_with_status(rpc_status.to_status(to_status(step)))
            if isinstance(step, tuple):
                await self.may_fail.wait()
                context.set_trailing_metadata((("grpc-status-details-bin", step[2]),))
                await context.abort(step[0], step[1])
            if step == HOLD:
                await self.may_go.wait()
                continue
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
    faults: int = 0
    streams: int = 1

    def applied(self, snapshot: Snapshot) -> None:
        """Note a snapshot, and report it as the board would."""
        if self.faults:
            self.faults -= 1
            raise RuntimeError("a fault of ours")
        self.got.put_nowait(snapshot)
        for bundle in snapshot.bundles.values():
            self.reporter.status(
                sync_pb2.BundleStatus(name=bundle.name, etag=bundle.etag, phase=sync_pb2.CONFIG_PHASE_APPLIED)
            )

    def forgotten(self, tenant_id: TenantId) -> None:
        """Note a tenant that is gone."""
        self.gone.put_nowait(tenant_id)

    async def ended(self) -> None:
        """Until the last stream that was waited for has ended; no time passes."""
        figures = self.upstream.figures
        await until(lambda: figures.back_offs + figures.moves + figures.replaced >= self.streams)

    async def after_back_off(self) -> sync_pb2.WatchConfigRequest:
        """The request of the next stream, once this one has ended and the wait is over."""
        await self.ended()
        await self.clock.advance(max(self.upstream.next_at - self.clock.monotonic(), 0.0))
        self.streams += 1
        await until(lambda: len(self.server.asked) >= self.streams)
        return self.server.asked[self.streams - 1]


async def until(true: Callable[[], bool]) -> None:
    """Wait for what other tasks do."""
    while not true():  # noqa: ASYNC110 - there is no event for every state
        await asyncio.sleep(0)


@asynccontextmanager
async def listening(
    address: str, server: Server, handler: grpc.GenericRpcHandler | None = None
) -> AsyncIterator[int]:
    """The server at an address, or a handler in its place, for the block; gives the port."""
    listener = grpc.aio.server()
    if handler is not None:
        listener.add_generic_rpc_handlers((handler,))
    else:
        sync_grpc.add_ConfigSyncServiceServicer_to_server(server, listener)
    port = listener.add_insecure_port(address)
    await listener.start()
    try:
        yield port
    finally:
        await listener.stop(0)


@asynccontextmanager
async def client_over(channel: grpc.aio.Channel, server: Server, cache: DiskCache) -> AsyncIterator[Client]:
    """A client over a channel, for the block."""
    clock = VirtualClock()
    stub = sync_grpc.ConfigSyncServiceStub(channel)
    reporter = Reporter(stub, clock, lambda: 0.1)
    writer = CacheWriter(
        cache,
        clock,
        held=lambda s: NOTHING,
        written=[lambda s, serial: reporter.persisted(s.tenant_id, serial)],
        removed=[reporter.persisted],
    )
    protocol = WatchProtocol(node=sync_pb2.NodeInfo(node_id="n1"), jitter=lambda: 1.0, now=0.0)
    made = Client(server, clock, None, reporter)  # type: ignore[arg-type]
    made.upstream = Upstream(stub, protocol, listener=made, reporter=reporter, writer=writer, clock=clock)
    tasks = [asyncio.create_task(run()) for run in (made.upstream.run, reporter.run, writer.run)]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)


@asynccontextmanager
async def running_client(
    folder: Path,
    scripts: list[Script],
    cache: DiskCache | None = None,
    handler: grpc.GenericRpcHandler | None = None,
) -> AsyncIterator[Client]:
    """A client whose server plays `scripts`, for the block."""
    server, address = Server(scripts), f"unix:{folder}/server.sock"
    async with (
        listening(address, server, handler),
        grpc.aio.insecure_channel(address) as channel,
        client_over(channel, server, cache or DiskCache(folder / "cache")) as client,
    ):
        yield client
