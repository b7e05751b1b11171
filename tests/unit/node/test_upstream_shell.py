"""The watch's shell: what it does on disk and on the wire, and what it survives."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from agent_node.upstream import Cached, DiskCache
from agent_node.upstream.writer import WRITE_RETRY_SECONDS
from tests.unit.node.samples import snapshot
from tests.unit.node.test_upstream_moves import drain
from tests.unit.node.test_upstream_tenants import removal
from tests.unit.node.upstream_client import HOLD, Client, RawError, running_client, transfer, until
from voxplane.errors import VoxplaneError
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

SECONDS_MAX = 10
FIRST = snapshot(1, a="one")


class HeldDisk(DiskCache):
    """A disk whose writes fail until it is mended, and wait until they may."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.broken = True
        self.tried = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def write(self, cached: Cached) -> None:
        """Write, or fail as a full disk does."""
        self._loop.call_soon_threadsafe(self.tried.set)
        if self.broken:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(cached)


async def next_report(client: Client) -> sync_pb2.ReportConfigStatusRequest:
    """What the server is told next."""
    return await asyncio.wait_for(client.server.reports.get(), SECONDS_MAX)


async def got(client: Client) -> None:
    """A snapshot was applied."""
    await asyncio.wait_for(client.got.get(), SECONDS_MAX)


async def test_nothing_is_acknowledged_before_it_is_on_disk(tmp_path: Path) -> None:
    """While the disk is full no nonce is acknowledged, however long; once the file is there it is."""
    disk = HeldDisk(tmp_path / "cache")
    async with running_client(tmp_path, [[transfer(FIRST, "s1")]], disk) as client:
        await got(client)
        for left in (2, 1, 0):
            await asyncio.wait_for(disk.tried.wait(), SECONDS_MAX)
            disk.tried.clear()
            await until(lambda: due_within(client, WRITE_RETRY_SECONDS))
            disk.broken = left > 0
            await client.clock.advance(WRITE_RETRY_SECONDS)
            while disk.broken and not client.server.reports.empty():
                assert client.server.reports.get_nowait().nonce == ""
        while (await next_report(client)).nonce != "1":
            pass
        assert DiskCache(tmp_path / "cache").load()[0].snapshot == FIRST


def due_within(client: Client, seconds: float) -> bool:
    """Whether somebody waits for so much time to pass, at most."""
    return client.clock.due is not None and client.clock.due <= client.clock.monotonic() + seconds


async def test_a_removed_tenant_leaves_the_disk(tmp_path: Path) -> None:
    """Its file is deleted, the node's inner side is told, and then the removal is acknowledged."""
    gone = removal("acme")
    async with running_client(tmp_path, [[transfer(FIRST, "s1"), gone]]) as client:
        assert await asyncio.wait_for(client.gone.get(), SECONDS_MAX) == "acme"
        while (await next_report(client)).nonce != gone.nonce:
            pass
        assert DiskCache(tmp_path / "cache").load() == []


async def test_a_drain_without_delay_moves_at_once(tmp_path: Path) -> None:
    """A stream that is drained now is left now, not when the node would look at its clock next."""
    scripts = [[transfer(FIRST, "s1"), drain(2.0)], [transfer(FIRST, "s2")]]
    async with running_client(tmp_path, scripts) as client:
        await got(client)
        await until(lambda: client.upstream.protocol.due <= 2.0)
        await client.clock.advance(2.0)
        again = await asyncio.wait_for(client.after_back_off(), SECONDS_MAX)
        assert again.start_revisions["acme"].number == 1
        assert client.clock.monotonic() == 2.0
        assert client.upstream.figures.moves == 1
        assert client.upstream.figures.back_offs == 0


async def test_a_report_request_is_answered_in_full(tmp_path: Path) -> None:
    """A server that lacks a report gets all statuses again, under the next number."""
    asked = sync_pb2.WatchConfigResponse(stream_id="s1", nonce="2")
    asked.report_request.missing_sequence = 1
    async with running_client(tmp_path, [[transfer(FIRST, "s1"), HOLD, asked]]) as client:
        numbers: list[int] = []
        told = 0
        while told < 2:
            report = await next_report(client)
            numbers.append(report.sequence)
            told += bool(report.statuses)
            if told and report.nonce == "1":
                client.server.may_go.set()
        assert numbers == list(range(1, len(numbers) + 1))


def _details(*values: bytes) -> bytes:
    status = status_pb2.Status(code=14, message="x")
    for value in values:
        status.details.append(any_pb2.Any(type_url="type.googleapis.com/google.rpc.RetryInfo", value=value))
    return status.SerializeToString()


def _absurd_delay() -> bytes:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.seconds = -(2**62)
    return retry.SerializeToString()


@pytest.mark.parametrize("details", [b"\xff\xff", _details(b"\xff\xff"), _details(_absurd_delay()), b""])
async def test_broken_error_details_do_not_end_the_node(tmp_path: Path, details: bytes) -> None:
    """An error whose details cannot be read is an error without details."""
    error: RawError = (grpc.StatusCode.UNAVAILABLE, "down", details)
    async with running_client(tmp_path, [[error], [transfer(FIRST, "s2")]]) as client:
        client.server.may_fail.set()
        await asyncio.wait_for(client.after_back_off(), SECONDS_MAX)
        await got(client)


async def test_a_fault_of_our_own_ends_the_stream_and_not_the_node(tmp_path: Path) -> None:
    """If a message cannot be taken the node backs off, and the next stream brings it again."""
    async with running_client(tmp_path, [[transfer(FIRST, "s1")], [transfer(FIRST, "s2")]]) as client:
        client.faults = 1
        await asyncio.wait_for(client.after_back_off(), SECONDS_MAX)
        await got(client)
        assert client.upstream.figures.back_offs == 1


async def test_a_refused_request_is_not_repeated(tmp_path: Path) -> None:
    """After INVALID_ARGUMENT the next request declares nothing."""
    wrong = VoxplaneError(reason_pb2.ERROR_REASON_INVALID_REQUEST, "no")
    scripts = [[transfer(FIRST, "s1"), wrong], [transfer(FIRST, "s2")]]
    async with running_client(tmp_path, scripts) as client:
        await got(client)
        client.server.may_fail.set()
        request = await asyncio.wait_for(client.after_back_off(), SECONDS_MAX)
        assert not request.known


async def test_a_node_whose_id_is_taken_waits_long_and_says_so(tmp_path: Path) -> None:
    """NODE_REPLACED is counted, and the next stream does not come within a minute."""
    replaced = VoxplaneError(reason_pb2.ERROR_REASON_NODE_REPLACED, "a newer stream has node_id n1")
    async with running_client(tmp_path, [[transfer(FIRST, "s1"), replaced], []]) as client:
        await got(client)
        client.server.may_fail.set()
        await asyncio.wait_for(client.ended(), SECONDS_MAX)
        assert client.upstream.figures.replaced == 1
        await client.clock.advance(59.0)
        assert len(client.server.asked) == 1
        stale = client.upstream.protocol.stale(client.clock.monotonic())
        assert stale is not None
        assert "another node has the id n1" in stale.reason
        await asyncio.wait_for(client.after_back_off(), SECONDS_MAX)


class Garbage(grpc.GenericRpcHandler):
    """Answers every call with bytes that are no message."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Part of grpc's interface."""

        async def answer(request: bytes, context: object):  # type: ignore[no-untyped-def]
            for _ in range(3):
                yield b"\xff\xff\xff\xff not a message"

        return grpc.unary_stream_rpc_method_handler(answer)  # type: ignore[arg-type]


async def test_bytes_that_are_no_message_are_a_failed_stream(tmp_path: Path) -> None:
    """A peer that does not speak the protocol is backed off from, ever longer."""
    async with running_client(tmp_path, [], handler=Garbage()) as client:
        for count in range(1, 5):
            client.streams = count
            await asyncio.wait_for(client.ended(), SECONDS_MAX)
            assert client.upstream.figures.back_offs == count
            await client.clock.advance(client.upstream.next_at - client.clock.monotonic())
        assert client.upstream.protocol.stale(client.clock.monotonic()) is not None
        assert not client.upstream.protocol.snapshots
