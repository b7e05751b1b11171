"""WatchConfig and the reports on it, over both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from structlog.testing import capture_logs

from tests.unit.server.in_process import Refusal, refusal
from tests.unit.watch.reference_client import ReferenceClient
from tests.unit.watch.watch_server import TRANSPORTS, Watcher, WatchServer, report, watch_server
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import node_service_pb2

WATCHERS = 200


@pytest.fixture(params=TRANSPORTS)
async def server(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[WatchServer]:
    """A control plane in virtual time."""
    async with watch_server(tmp_path, request.param) as running:
        yield running


async def _ended(watcher: Watcher) -> Refusal:
    async def read_on() -> None:
        while await watcher.call.read() is not grpc.aio.EOF:
            pass

    return await refusal(read_on())  # type: ignore[arg-type]


async def test_a_change_reaches_a_watcher(server: WatchServer) -> None:
    """A watcher gets the present state, then each change, and its digest is
    the server's after each."""
    await server.create("sales")
    async with server.watch(ReferenceClient("acme")) as watcher:
        await watcher.until("acme", 1)
        (change,) = await watcher.until("acme", await server.update("sales", "Sell."))
        assert change.transfer.contents[0].config.prompt_config.instructions == "Sell."
    assert watcher.client.intents == ["FULL", "DELTA"]


async def test_the_generated_stub_reads_the_stream(server: WatchServer) -> None:
    """The ready-made bytes are messages to a client that knows nothing of it."""
    await server.create("sales")
    call = server.sync.WatchConfig(sync_pb2.WatchConfigRequest(tenant_id="acme"))
    message = await call.read()
    assert isinstance(message, sync_pb2.WatchConfigResponse)
    assert (message.nonce, message.transfer.synced.bundle_count) == ("1", 1)
    call.cancel()


async def test_a_client_resumes_where_it_was(server: WatchServer) -> None:
    """A client that comes back gets NONE if nothing has changed, and then
    only the difference."""
    await server.create("sales")
    await server.create("support")
    client = ReferenceClient("acme")
    async with server.watch(client) as watcher:
        await watcher.until("acme", 2)
    async with server.watch(client) as watcher:
        await watcher.next()
    await server.update("sales", "Sell.")
    async with server.watch(client) as watcher:
        message = await watcher.next()
    assert client.intents == ["FULL", "NONE", "DELTA"]
    assert len(message.transfer.bundles) == len(message.transfer.contents) == 1


async def test_200_watchers_share_one_encoded_message(server: WatchServer) -> None:
    """One change goes to 200 watchers, and is encoded once."""
    await server.create("sales")
    encoder = server.control_plane.hub.encoder
    async with AsyncExitStack() as stack:
        watchers = [
            await stack.enter_async_context(server.watch(ReferenceClient("acme"), f"node-{number}"))
            for number in range(WATCHERS)
        ]
        await asyncio.gather(*(watcher.until("acme", 1) for watcher in watchers))
        assert encoder.encoded_parts == 1
        revision = await server.update("sales", "Sell.")
        await asyncio.gather(*(watcher.until("acme", revision) for watcher in watchers))
        assert encoder.encoded_parts == 2


async def test_a_reader_that_stops_costs_nobody_anything(server: WatchServer) -> None:
    """A client that does not read holds up neither writers nor other
    watchers; when it reads again it gets the newest state over a gap."""
    await server.create("sales")
    slow = ReferenceClient("acme")
    async with (
        server.watch(slow, small_window=True) as stopped,
        server.watch(ReferenceClient("acme"), small_window=True) as reader,
    ):
        await stopped.next()
        await reader.next()
        revision = 0
        for number in range(60):
            revision = await server.update("sales", f"{number} " + "x" * 20_000)
            await reader.until("acme", revision)
        messages = await stopped.until("acme", revision)
    assert len(messages) < 30
    gaps = [m.transfer.revision.number - m.transfer.start.from_revision for m in messages]
    assert max(gaps) > 1


async def test_heartbeats_tell_the_revision(server: WatchServer) -> None:
    """A commit that changes no bundle is told by the next heartbeat, within
    the interval; then heartbeats go on, with nothing to tell."""
    await server.create("sales")
    async with server.watch(ReferenceClient("acme")) as watcher:
        await watcher.next()
        revision = await server.draft("sales")
        await server.clock.advance(31)
        (message,) = await watcher.until("acme", revision)
        assert message.heartbeat.interval.ToSeconds() == 30
        await server.clock.advance(31)
        assert not (await watcher.next()).heartbeat.revisions


async def test_without_tenants_there_is_a_sign_of_life(server: WatchServer) -> None:
    """A watcher of all tenants hears at once that there are none, and then of
    each as it appears."""
    async with server.watch(ReferenceClient("-")) as watcher:
        assert (await watcher.next()).HasField("heartbeat")
        await server.create("sales", tenant="acme")
        await watcher.until("acme", 1)
        await server.create("sales", tenant="globex")
        await watcher.until("globex", 1)


async def test_a_filter_holds_on_the_wire(server: WatchServer) -> None:
    """A watcher of one agent does not see another."""
    await server.create("sales")
    await server.create("support")
    async with server.watch(ReferenceClient("acme", ["sales"])) as watcher:
        await watcher.next()
        await server.update("support", "Help.")
        (message,) = await watcher.until("acme", await server.update("sales", "Sell."))
        assert [bundle.name for bundle in message.transfer.bundles] == ["tenants/acme/agents/sales"]


async def test_a_revision_from_the_future_is_out_of_range(server: WatchServer) -> None:
    """A start revision that was not made is refused with its reason."""
    client = ReferenceClient("acme")
    client.revisions["acme"] = sync_pb2.ConfigTransfer().revision
    client.revisions["acme"].number = 7
    async with server.watch(client) as watcher:
        refused = await _ended(watcher)
    assert (refused.code, refused.reason) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_IN_FUTURE")


async def test_a_filter_over_all_tenants_is_refused(server: WatchServer) -> None:
    """The violation names the field."""
    async with server.watch(ReferenceClient("-", ["sales"])) as watcher:
        refused = await _ended(watcher)
    assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(refused.fields) == ["agent_ids"]


async def test_fetch_brings_what_a_full_transfer_would(server: WatchServer) -> None:
    """FetchConfig is one FULL transfer, filtered if asked."""
    await server.create("sales")
    await server.create("support", "Help.")
    whole = await server.sync.FetchConfig(sync_pb2.FetchConfigRequest(tenant_id="acme"))
    assert whole.transfer.start.intent == sync_pb2.TRANSFER_INTENT_FULL
    assert (len(whole.transfer.bundles), whole.transfer.synced.bundle_count) == (2, 2)
    request = sync_pb2.FetchConfigRequest(tenant_id="acme", agent_ids=["sales"])
    part = await server.sync.FetchConfig(request)
    assert [bundle.name for bundle in part.transfer.bundles] == ["tenants/acme/agents/sales"]


async def test_the_newest_stream_of_a_node_wins(server: WatchServer) -> None:
    """A second stream with the node's id ends the first with that reason, and
    the first one's reports are refused."""
    await server.create("sales")
    async with server.watch(ReferenceClient("acme"), "n1") as first:
        message = await first.next()
        async with server.watch(ReferenceClient("acme"), "n1") as second:
            await second.next()
            refused = await _ended(first)
            assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "NODE_REPLACED")
            late = await refusal(server.sync.ReportConfigStatus(report(message)))
            assert (late.code, late.reason) == (grpc.StatusCode.NOT_FOUND, "STREAM_NOT_FOUND")
            node = await server.nodes.GetNode(node_service_pb2.GetNodeRequest(node_id="n1"))
            assert node.node.connected


async def test_reports_count_alike_by_both_calls(server: WatchServer) -> None:
    """A report by the unary call and one by the stream show in GetNode."""
    await server.create("sales")
    async with server.watch(ReferenceClient("acme"), "n1") as watcher:
        message = await watcher.next()
        received = report(message, phase=sync_pb2.CONFIG_PHASE_RECEIVED)
        await server.sync.ReportConfigStatus(received)
        request = node_service_pb2.GetNodeRequest(node_id="n1")
        (tenant,) = (await server.nodes.GetNode(request)).node.tenants
        assert tenant.acked_revision.number == 1
        assert tenant.bundles[0].status.phase == sync_pb2.CONFIG_PHASE_RECEIVED
        call = server.sync.StreamConfigStatus()
        for _ in range(3):
            await call.write(sync_pb2.StreamConfigStatusRequest(report=report(message)))
        await call.done_writing()
        assert (await call).reports == 3
        (tenant,) = (await server.nodes.GetNode(request)).node.tenants
        assert tenant.bundles[0].effective_etag == message.transfer.bundles[0].etag


async def test_a_report_that_cannot_be_right_is_refused(server: WatchServer) -> None:
    """A nonce that was not sent and a message that breaks the contract end
    the stream of reports with the field's path."""
    await server.create("sales")
    async with server.watch(ReferenceClient("acme"), "n1") as watcher:
        message = await watcher.next()
        wrong = report(message)
        wrong.nonce = "2"
        refused = await refusal(server.sync.ReportConfigStatus(wrong))
        assert list(refused.fields) == ["nonce"]
        broken = report(message)
        broken.statuses[0].etag = ""
        all_run = node_service_pb2.WaitForConvergenceRequest(tenant_id="acme", revision=1)
        all_run.timeout.FromSeconds(10)
        for bad, path in ((broken, "report.statuses[0].etag"), (wrong, "nonce")):
            call = server.sync.StreamConfigStatus()
            good = report(message)
            good.sequence = 1
            await call.write(sync_pb2.StreamConfigStatusRequest(report=good))
            await server.nodes.WaitForConvergence(all_run)
            await call.write(sync_pb2.StreamConfigStatusRequest(report=bad))
            refused = await refusal(call)
            assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
            assert list(refused.fields) == [path]


async def test_reports_of_a_watcher_that_is_no_node(server: WatchServer) -> None:
    """Who watches without NodeInfo may report, and is no part of the fleet."""
    await server.create("sales")
    async with server.watch(ReferenceClient("acme")) as watcher:
        await server.sync.ReportConfigStatus(report(await watcher.next()))
    assert not (await server.nodes.ListNodes(node_service_pb2.ListNodesRequest())).nodes


async def test_a_stream_that_is_gone_leaves_nothing(server: WatchServer) -> None:
    """When a client hangs up, its stream is let go of, and its node is shown
    as disconnected."""
    await server.create("sales")
    hub, fleet = server.control_plane.hub, server.control_plane.fleet
    async with server.watch(ReferenceClient("acme"), "n1") as watcher:
        await watcher.next()
        assert hub.streams == 1
        with fleet.follow() as changes:
            watcher.call.cancel()
            assert await changes.next() == {"n1"}
    assert hub.streams == 0
    assert not fleet.node("n1").stream_id


async def test_shutdown_ends_streams_with_a_reason(server: WatchServer) -> None:
    """A server that goes away says so, and when to come back."""
    await server.create("sales")
    async with server.watch(ReferenceClient("acme")) as watcher:
        await watcher.next()
        await server.control_plane.hub.close()
        refused = await _ended(watcher)
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        retry = error_details_pb2.RetryInfo()
        assert any(detail.Unpack(retry) for detail in refused.status.details)
    async with server.watch(ReferenceClient("acme")) as watcher:
        assert (await _ended(watcher)).reason == "SHUTTING_DOWN"


async def test_a_client_that_goes_in_the_middle_of_a_message_is_no_fault(server: WatchServer) -> None:
    """Clients that vanish while they are being sent something have cancelled,
    and the log speaks of no fault."""
    await server.create("sales")
    with capture_logs() as lines:
        for number in range(20):
            async with server.watch(ReferenceClient("acme"), small_window=True) as stopped:
                await stopped.next()
                for part in range(4):
                    await server.update("sales", f"{number}/{part} " + "x" * 30_000)
        while server.control_plane.hub.streams:
            await server.draft("sales")
    watches = [line for line in lines if line.get("method", "").endswith("WatchConfig")]
    assert [(line["event"], line.get("code")) for line in watches] == [("call", "CANCELLED")] * 20


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_client_that_never_reads_is_given_up(tmp_path: Path, transport: str) -> None:
    """Past the byte bound a stopped reader's stream is over on the server at
    once, and the client, when it reads at last, finds RESOURCE_EXHAUSTED."""
    settings = {"watch_stall_seconds": 5.0, "watch_pending_bytes_max": 200_000}
    async with watch_server(tmp_path, transport, **settings) as server:
        await server.create("sales")
        async with server.watch(ReferenceClient("acme"), small_window=True) as stopped:
            await stopped.next()
            hub = server.control_plane.hub
            for number in range(60):
                await server.update("sales", f"{number} " + "x" * 20_000)
                await server.clock.advance(2)
                if not hub.streams:
                    break
            assert hub.streams == 0
            assert (await _ended(stopped)).code == grpc.StatusCode.RESOURCE_EXHAUSTED
