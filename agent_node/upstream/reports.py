"""The node's reports: coalesced, one at a time, on one client stream.

The pure part keeps these rules:

- A report holds the newest status of each bundle that has changed since the
  last report; without a change there is no report.
- A nonce is acknowledged when what it brought, and what came before it, is on
  disk.
- After a reconnect the first report tells all statuses.
- Reports are numbered from 1 on each stream, without a gap, so that the server
  notices one that it did not get.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import grpc
import structlog

from voxplane.clock import Clock
from voxplane.names import TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc

STATUSES_PER_REPORT_MAX = 1_000
OUTSTANDING_NONCES_MAX = 10_000
REOPEN_SECONDS_MAX = 5.0

ReportCall = grpc.aio.StreamUnaryCall[sync_pb2.StreamConfigStatusRequest, sync_pb2.StreamConfigStatusResponse]
Outstanding = tuple[str, TenantId, int]

_log = structlog.stdlib.get_logger(__name__)


class ReportState:
    """What the server has still to be told; pure."""

    def __init__(self) -> None:
        self._stream_id = ""
        self._statuses: dict[str, sync_pb2.BundleStatus] = {}
        self._dirty: dict[str, None] = {}
        self._outstanding: list[Outstanding] = []
        self._persisted: dict[TenantId, int] = {}
        self._nonce = ""
        self._told_nonce = ""
        self._sequence = 0

    @property
    def stream_id(self) -> str:
        """The stream that reports go to; empty while there is none."""
        return self._stream_id

    def opened(self, stream_id: str) -> None:
        """A stream began; nonces of the one before mean nothing any more."""
        self._stream_id = stream_id
        self._outstanding.clear()
        self._nonce = self._told_nonce = ""
        self._sequence = 0
        self.tell_all()

    def closed(self) -> None:
        """The stream is over."""
        self._stream_id = ""

    def tell_all(self) -> None:
        """Tell all statuses again, and the last nonce."""
        self._dirty = dict.fromkeys(self._statuses)
        self._told_nonce = ""

    def status(self, status: sync_pb2.BundleStatus) -> None:
        """A bundle came further."""
        self._statuses[status.name] = status
        self._dirty[status.name] = None

    def removed(self, name: str) -> None:
        """A bundle is gone."""
        self._statuses.pop(name, None)
        self._dirty.pop(name, None)

    def delivered(self, nonce: str, tenant_id: TenantId, serial: int) -> None:
        """A message was taken; it counts once its serial is on disk."""
        self._outstanding.append((nonce, tenant_id, serial))
        if len(self._outstanding) > OUTSTANDING_NONCES_MAX:
            self._merge_outstanding()
        self._settle()

    def _merge_outstanding(self) -> None:
        """Only the newest nonce is acknowledged then, when all is on disk."""
        newest = {tenant_id: serial for _, tenant_id, serial in self._outstanding}
        nonce, tenant_id, serial = self._outstanding[-1]
        del newest[tenant_id]
        self._outstanding = [(self._nonce, *entry) for entry in newest.items()]
        self._outstanding.append((nonce, tenant_id, serial))

    def persisted(self, tenant_id: TenantId, serial: int) -> None:
        """A tenant's snapshot of that serial is on disk."""
        self._persisted[tenant_id] = max(serial, self._persisted.get(tenant_id, 0))
        self._settle()

    def _settle(self) -> None:
        done = 0
        for nonce, tenant_id, serial in self._outstanding:
            if serial > self._persisted.get(tenant_id, 0):
                break
            self._nonce = nonce
            done += 1
        del self._outstanding[:done]

    def next(self) -> sync_pb2.ReportConfigStatusRequest | None:
        """The next report, which then counts as told; None if there is
        nothing to tell."""
        if not self._stream_id or not (self._dirty or self._nonce != self._told_nonce):
            return None
        names = list(self._dirty)[:STATUSES_PER_REPORT_MAX]
        for name in names:
            del self._dirty[name]
        self._told_nonce = self._nonce
        self._sequence += 1
        return sync_pb2.ReportConfigStatusRequest(
            stream_id=self._stream_id,
            nonce=self._nonce,
            statuses=[self._statuses[name] for name in names],
            sequence=self._sequence,
        )


class Reporter:
    """Sends what the state has to tell, for as long as `run` runs."""

    def __init__(
        self, stub: sync_grpc.ConfigSyncServiceAsyncStub, clock: Clock, jitter: Callable[[], float]
    ) -> None:
        self._stub = stub
        self._clock = clock
        self._jitter = jitter
        self._state = ReportState()
        self._wake = asyncio.Event()

    def opened(self, stream_id: str, stub: sync_grpc.ConfigSyncServiceAsyncStub | None = None) -> None:
        """Report to this stream from now on, by the way that it took."""
        self._stub = stub or self._stub
        self._state.opened(stream_id)
        self._wake.set()

    def closed(self) -> None:
        """Report nothing until the next stream."""
        self._state.closed()
        self._wake.set()

    def status(self, status: sync_pb2.BundleStatus) -> None:
        """Tell what became of a bundle."""
        self._state.status(status)
        self._wake.set()

    def removed(self, name: str) -> None:
        """Tell nothing more of a bundle."""
        self._state.removed(name)

    def delivered(self, nonce: str, tenant_id: TenantId, serial: int) -> None:
        """Acknowledge a message as soon as its serial is on disk."""
        self._state.delivered(nonce, tenant_id, serial)
        self._wake.set()

    def tell_all(self) -> None:
        """Tell everything again, as the server lacks a report."""
        self._state.tell_all()
        self._wake.set()

    def persisted(self, tenant_id: TenantId, serial: int) -> None:
        """A serial is on disk."""
        self._state.persisted(tenant_id, serial)
        self._wake.set()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            while not self._state.stream_id:
                await self._woken()
            stream_id = self._state.stream_id
            try:
                await self._report(stream_id)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else "the stream is over"
                if stream_id == self._state.stream_id:
                    _log.warning("reports interrupted", stream_id=stream_id, reason=reason)
                    await self._clock.sleep(self._jitter() * REOPEN_SECONDS_MAX)
                    self._state.tell_all()

    async def _woken(self) -> None:
        await self._wake.wait()
        self._wake.clear()
        await asyncio.sleep(0)  # what else happens in this turn goes into the same report

    async def _report(self, stream_id: str) -> None:
        call: ReportCall = self._stub.StreamConfigStatus()
        call.add_done_callback(lambda _: self._wake.set())
        try:
            while self._state.stream_id == stream_id:
                if call.done():
                    await call
                    raise asyncio.InvalidStateError
                report = self._state.next()
                if report is None:
                    await self._woken()
                else:
                    await call.write(sync_pb2.StreamConfigStatusRequest(report=report))
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.done_writing()
        finally:
            call.cancel()
