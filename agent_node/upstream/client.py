"""Carries out what the watch protocol decides, over grpc.aio."""

from __future__ import annotations

import asyncio
from typing import Protocol

import grpc
import structlog

from agent_node.upstream.edge_way import EdgeWay
from agent_node.upstream.events import (
    Ack,
    Action,
    Apply,
    BackOff,
    Begin,
    Close,
    Ended,
    Forget,
    Moving,
    Opened,
    Persist,
    Received,
    Subscribe,
    TellAll,
    Tick,
)
from agent_node.upstream.figures import Figures
from agent_node.upstream.protocol import WatchProtocol
from agent_node.upstream.refusal import ended_by
from agent_node.upstream.reports import Reporter
from agent_node.upstream.snapshot import Snapshot
from agent_node.upstream.writer import CacheWriter
from voxplane.channel import RenewedChannel
from voxplane.clock import Clock
from voxplane.names import TenantId
from voxplane.tls import ClientTls, TlsError
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
KEEPALIVE_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
CONNECT_BACK_OFF_MS_MIN = 100
CONNECT_BACK_OFF_MS_MAX = 1_000
ALARM_SECONDS_MIN = 0.01

WatchCall = grpc.aio.UnaryStreamCall[sync_pb2.WatchConfigRequest, sync_pb2.WatchConfigResponse]

_log = structlog.stdlib.get_logger(__name__)


class Listener(Protocol):
    """Who is told of new snapshots."""

    def applied(self, snapshot: Snapshot) -> None:
        """A tenant's snapshot was replaced, whole."""
        ...

    def forgotten(self, tenant_id: TenantId) -> None:
        """A tenant is gone."""
        ...


def connect(
    server: str,
    keepalive_ms: int = KEEPALIVE_MS,
    keepalive_timeout_ms: int = KEEPALIVE_TIMEOUT_MS,
    tls: ClientTls | None = None,
) -> grpc.aio.Channel:
    """A channel to the control plane. The waits between streams are the
    protocol's, so the channel's own are short; the files of `tls` are looked at for each
    stream. Raises TlsError if a file of
    `tls` cannot be used."""
    options = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", keepalive_timeout_ms),
        # without it a ping is waited for for a minute, whatever the timeout of keepalive is
        ("grpc.http2.ping_timeout_ms", keepalive_timeout_ms),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.initial_reconnect_backoff_ms", CONNECT_BACK_OFF_MS_MIN),
        ("grpc.min_reconnect_backoff_ms", CONNECT_BACK_OFF_MS_MIN),
        ("grpc.max_reconnect_backoff_ms", CONNECT_BACK_OFF_MS_MAX),
    ]
    if tls is not None:
        return RenewedChannel(
            tls, lambda credentials: grpc.aio.secure_channel(server, credentials, options), _log_renewal
        )
    return grpc.aio.insecure_channel(server, options)


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
        edge: EdgeWay | None = None,
    ) -> None:
        self._first = self._stub = stub
        self._edge = edge
        self._protocol = protocol
        self._listener = listener
        self._reporter = reporter
        self._writer = writer
        self._clock = clock
        self._call: WatchCall | None = None
        self._closing = ""
        self._next_at = 0.0
        self.figures = Figures()

    @property
    def protocol(self) -> WatchProtocol:
        """The state of the watch."""
        return self._protocol

    @property
    def next_at(self) -> float:
        """When the next stream is opened, by the monotonic clock, while there
        is none."""
        return self._next_at

    async def run(self) -> None:
        """Hold the stream until cancelled."""
        while True:
            ended = await self._stream()
            self._reporter.closed()
            actions = self._protocol.receive(ended)
            planned = any(isinstance(action, BackOff) and action.planned for action in actions)
            if self._edge is not None and self._edge.routes.ended(ended.now, planned=planned):
                self.figures.edge_failures += 1
                _log.warning("the edge fails; back to the first address", reason=ended.reason)
            for action in actions:
                if isinstance(action, BackOff):
                    await self._wait(action, ended)

    async def _wait(self, wait: BackOff, ended: Ended) -> None:
        seconds = round(wait.seconds, 3)
        if ended.replaced:
            self.figures.replaced += 1
            _log.error(
                "another node has this node's id; give each its own by --node-id",
                reason=ended.reason,
                times=self._protocol.replaced,
                retry_seconds=seconds,
            )
        elif wait.planned:
            self.figures.moves += 1
            _log.info("stream moves", reason=ended.reason, retry_seconds=seconds)
        else:
            self.figures.back_offs += 1
            _log.warning("stream ended", reason=ended.reason, retry_seconds=seconds)
        self._next_at = self._clock.monotonic() + wait.seconds
        await self._clock.sleep(wait.seconds)

    async def _stream(self) -> Ended:
        self._closing = ""
        self.figures.opens += 1
        self._stub = self._first
        if self._edge is not None and (by_edge := await self._edge.begin(self._give_up)) is not None:
            self._stub = by_edge
            self.figures.edge_opens += 1
        self._carry_out(self._protocol.receive(Begin(self._clock.monotonic())))
        call = self._call
        assert call is not None
        alarm_at = self._protocol.due
        alarm = asyncio.create_task(self._alarm(alarm_at))
        try:
            async for message in call:
                self.figures.messages[message.WhichOneof("event") or "other"] += 1
                self._carry_out(self._protocol.receive(Received(message, self._clock.monotonic())))
                if self._edge is not None:
                    self._edge.heard(message, self._move, in_step=self._protocol.freshness.in_step)
                if self._protocol.due < alarm_at:
                    alarm.cancel()
                    alarm_at = self._protocol.due
                    alarm = asyncio.create_task(self._alarm(alarm_at))
            return self._ended("the server ended the stream")
        except grpc.aio.AioRpcError as error:
            return ended_by(error, self._closing, self._clock.monotonic())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._closing or (task is not None and task.cancelling()):
                raise
            return self._ended(self._closing)
        except Exception as error:
            # what a message does to the node must not end it, and the calls that it serves
            _log.exception("a message could not be taken")
            return self._ended(f"a message could not be taken: {type(error).__name__}")
        finally:
            alarm.cancel()
            call.cancel()
            if self._edge is not None:
                self._edge.end()

    def _move(self) -> None:
        self._carry_out(self._protocol.receive(Moving(self._clock.monotonic())))

    def _give_up(self, reason: str) -> None:
        self._carry_out([Close(reason)])

    def _ended(self, reason: str) -> Ended:
        return Ended(self._closing or reason, self._clock.monotonic())

    async def _alarm(self, at: float) -> None:
        while not self._closing:
            await self._clock.sleep(max(at - self._clock.monotonic(), ALARM_SECONDS_MIN))
            self._carry_out(self._protocol.receive(Tick(self._clock.monotonic())))
            at = self._protocol.due

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Subscribe(request):
                    self._call = self._stub.WatchConfig(request)
                case Close(reason):
                    self._closing = reason
                    if self._call is not None:
                        self._call.cancel()
                case Apply():
                    self.figures.transfers[action.intent] += 1
                    _log_transfer(action)
                    self._listener.applied(action.snapshot)
                case Persist(snapshot, serial):
                    self._writer.put(snapshot, serial)
                case Forget(tenant_id, serial, reason):
                    _log.warning("tenant removed", tenant_id=tenant_id, reason=reason)
                    self._listener.forgotten(tenant_id)
                    self._writer.remove(tenant_id, serial)
                case _:
                    self._tell_server(action)

    def _tell_server(self, action: Action) -> None:
        match action:
            case Opened(stream_id):
                _log.info("stream opened", stream_id=stream_id)
                self._reporter.opened(stream_id, self._stub)
            case TellAll():
                _log.info("the server lacks reports")
                self._reporter.tell_all()
            case Ack(nonce, tenant_id, serial):
                self._reporter.delivered(nonce, tenant_id, serial)
            case _:
                pass


def _log_renewal(error: TlsError | None) -> None:
    if error is None:
        _log.info("new TLS files taken")
    else:
        _log.error("new TLS files cannot be used; the old ones stay", reason=str(error))


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
