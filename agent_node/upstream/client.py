"""Carries out what the watch protocol decides, over grpc.aio."""

from __future__ import annotations

import asyncio
from typing import Protocol

import grpc
import structlog
from google.rpc import error_details_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs]

from agent_node.upstream.cache import CacheWriter
from agent_node.upstream.events import (
    NO_TENANT,
    Ack,
    Action,
    Apply,
    BackOff,
    Begin,
    Close,
    Ended,
    Opened,
    Persist,
    Received,
    Subscribe,
    Tick,
)
from agent_node.upstream.protocol import WatchProtocol
from agent_node.upstream.reports import Reporter
from agent_node.upstream.snapshot import Snapshot
from voxplane.clock import Clock
from voxplane.names import TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
TENANT_METADATA = "tenant"
KEEPALIVE_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
STATUS_DETAILS = "grpc-status-details-bin"
CONNECT_BACK_OFF_MS_MIN = 100
CONNECT_BACK_OFF_MS_MAX = 1_000

WatchCall = grpc.aio.UnaryStreamCall[sync_pb2.WatchConfigRequest, sync_pb2.WatchConfigResponse]

_log = structlog.stdlib.get_logger(__name__)


class Listener(Protocol):
    """Who is told of new snapshots."""

    def applied(self, snapshot: Snapshot) -> None:
        """A tenant's snapshot was replaced, whole."""
        ...


def connect(server: str) -> grpc.aio.Channel:
    """A channel to the control plane. The waits between streams are the
    protocol's, so the channel's own are short."""
    return grpc.aio.insecure_channel(
        server,
        options=[
            ("grpc.enable_http_proxy", 0),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ("grpc.keepalive_permit_without_calls", 0),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
            ("grpc.initial_reconnect_backoff_ms", CONNECT_BACK_OFF_MS_MIN),
            ("grpc.min_reconnect_backoff_ms", CONNECT_BACK_OFF_MS_MIN),
            ("grpc.max_reconnect_backoff_ms", CONNECT_BACK_OFF_MS_MAX),
        ],
    )


class Upstream:
    """The node's one stream to the control plane."""

    def __init__(
        self,
        stub: sync_grpc.ConfigSyncServiceAsyncStub,
        protocol: WatchProtocol,
        *,
        listener: Listener,
        reporter: Reporter,
        writer: CacheWriter,
        clock: Clock,
    ) -> None:
        self._stub = stub
        self._protocol = protocol
        self._listener = listener
        self._reporter = reporter
        self._writer = writer
        self._clock = clock
        self._call: WatchCall | None = None
        self._closing = ""

    @property
    def protocol(self) -> WatchProtocol:
        """The state of the watch."""
        return self._protocol

    async def run(self) -> None:
        """Hold the stream until cancelled."""
        while True:
            ended = await self._stream()
            self._reporter.closed()
            actions = self._protocol.receive(ended)
            for action in actions:
                if isinstance(action, BackOff):
                    _log.warning("stream ended", reason=ended.reason, retry_seconds=round(action.seconds, 3))
                    await self._clock.sleep(action.seconds)

    async def _stream(self) -> Ended:
        self._closing = ""
        self._carry_out(self._protocol.receive(Begin(self._clock.monotonic())))
        call = self._call
        assert call is not None
        watchdog = asyncio.create_task(self._watch_silence())
        try:
            async for message in call:
                self._carry_out(self._protocol.receive(Received(message, self._clock.monotonic())))
            return self._ended("the server ended the stream")
        except grpc.aio.AioRpcError as error:
            code = error.code()
            reason = self._closing or f"{code.name}: {error.details()}"
            return Ended(reason, self._clock.monotonic(), *_asked(error))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._closing or (task is not None and task.cancelling()):
                raise
            return self._ended(self._closing)
        finally:
            watchdog.cancel()
            call.cancel()

    def _ended(self, reason: str) -> Ended:
        return Ended(self._closing or reason, self._clock.monotonic())

    async def _watch_silence(self) -> None:
        while not self._closing:
            now = self._clock.monotonic()
            await self._clock.sleep(max(self._protocol.silence_ends - now, 0.01))
            self._carry_out(self._protocol.receive(Tick(self._clock.monotonic())))

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Subscribe(request):
                    self._call = self._stub.WatchConfig(request)
                case Opened(stream_id):
                    _log.info("stream opened", stream_id=stream_id)
                    self._reporter.opened(stream_id)
                case Apply():
                    _log_transfer(action)
                    self._listener.applied(action.snapshot)
                case Persist(snapshot, serial):
                    self._writer.put(snapshot, serial)
                case Ack(nonce, tenant_id, serial):
                    self._reporter.delivered(nonce, tenant_id, serial)
                case Close(reason):
                    self._closing = reason
                    if self._call is not None:
                        self._call.cancel()
                case BackOff():
                    pass


def _log_transfer(apply: Apply) -> None:
    _log.info(
        "transfer applied",
        tenant_id=apply.snapshot.tenant_id,
        revision=apply.snapshot.revision.number,
        intent=apply.intent,
        reason=apply.reason,
        changed=len(apply.changed),
        removed=len(apply.removed),
    )


def _asked(error: grpc.aio.AioRpcError) -> tuple[float | None, TenantId]:
    """The delay that the server asks for, and the tenant that it is ahead of."""
    delay: float | None = None
    refused = NO_TENANT
    for key, value in error.trailing_metadata():
        if key != STATUS_DETAILS or not isinstance(value, bytes):
            continue
        for detail in status_pb2.Status.FromString(value).details:
            retry, info = error_details_pb2.RetryInfo(), error_details_pb2.ErrorInfo()
            if detail.Unpack(retry):
                delay = retry.retry_delay.ToNanoseconds() / 1e9
            elif detail.Unpack(info) and error.code() is grpc.StatusCode.OUT_OF_RANGE:
                refused = TenantId(info.metadata.get(TENANT_METADATA, ""))
    return delay, refused
