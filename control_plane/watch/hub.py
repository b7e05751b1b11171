"""Wakes streams, and carries out what their state decides.

The rules that it keeps:

- A writer never waits for a watcher: a commit marks its tenant and asks for one
  turn of the loop, however many commits come in it. From that turn on the
  streams of the marked tenants are woken, WAKES_PER_TURN at a time, so that
  answers to writers and reports of nodes go out between them. Each stream
  looks at the newest state when it can send.
- What waits for a slow reader is a set of tenants to look at and the one
  transfer that is being sent, never a queue of changes.
- The bytes of a message are made when it is its turn, and shared.
- What a stream is about to send is told to the fleet first, so that no answer
  can come before the note of what it answers.
- A stream has no task and no lock of its own; one task paces all heartbeats.
- A tenant stays in memory while a stream watches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import NoReturn

from control_plane.fleet import Fleet
from control_plane.state import Tenants, TenantState
from control_plane.watch.encoder import ENCODED_BYTES_MAX, Encoder, Suffix, encode_part
from control_plane.watch.pace import Pace
from control_plane.watch.planner import PART_BYTES_MAX, Planner
from control_plane.watch.stream import (
    HEARTBEAT_SECONDS,
    Close,
    Ending,
    Event,
    HeartbeatAfter,
    HeartbeatDue,
    Moved,
    Send,
    SendHeartbeat,
    StateChanged,
    StreamState,
    Subscribed,
)
from control_plane.watch.transfer import Declared
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError
from voxplane.names import ALL_TENANTS, TenantId, agent_name
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

STREAMS_MAX = 20_000
STREAM_ID_BYTES = 8
RECONNECT_SECONDS = 1.0
WAKES_PER_TURN = 64

Write = Callable[[bytes], Awaitable[object]]
"""Hands one message to the transport; returns when it can take the next."""


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """Limits of all streams together, and the interval of heartbeats."""

    heartbeat_seconds: float = HEARTBEAT_SECONDS
    part_bytes_max: int = PART_BYTES_MAX
    encoded_bytes_max: int = ENCODED_BYTES_MAX
    streams_max: int = STREAMS_MAX


class Stream:
    """One open stream. `serve` carries out what its state decides."""

    __slots__ = (
        "_dirty",
        "_ending",
        "_heartbeat_due",
        "_hub",
        "_suffix",
        "_waiter",
        "is_node",
        "pins",
        "slot",
        "state",
        "stream_id",
        "tenant_id",
    )

    def __init__(
        self, hub: Hub, stream_id: str, request: sync_pb2.WatchConfigRequest, state: StreamState
    ) -> None:
        self.stream_id = stream_id
        self.tenant_id = request.tenant_id
        self.is_node = request.HasField("node")
        self.state = state
        self.pins: set[TenantId] = set()
        self.slot = -1
        self._hub = hub
        self._suffix = Suffix(stream_id)
        self._dirty: OrderedDict[TenantId, None] = OrderedDict()
        self._heartbeat_due = False
        self._ending: VoxplaneError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def mark(self, tenant_id: TenantId) -> None:
        """The tenant has changed; `wake` is to follow."""
        self._dirty[tenant_id] = None

    def heartbeat_due(self) -> None:
        """It is time for a heartbeat."""
        self._heartbeat_due = True
        self.wake()

    def end(self, error: VoxplaneError) -> None:
        """End the stream at the next message."""
        self._ending = self._ending or error
        self.wake()

    def wake(self) -> None:
        """There is something to send."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def serve(self, write: Write) -> NoReturn:
        """Send what there is to send, until the stream ends: with
        VoxplaneError, or with what `write` raises."""
        await self._begin()
        while True:
            while not (self._dirty or self._heartbeat_due or self._ending):
                await self._woken()
            for action in self.state.receive(await self._event()):
                match action:
                    case Send(part, nonce):
                        await write(self._hub.encoder.part(part) + self._suffix.bytes(nonce))
                    case Moved(tenant_id, level, removed, nonce):
                        if self.is_node:
                            self._hub.fleet.sent(self.stream_id, tenant_id, level, removed, nonce)
                    case SendHeartbeat(seconds, revisions, nonce):
                        shared = self._hub.encoder.heartbeat(seconds, revisions)
                        await write(shared + self._suffix.bytes(nonce))
                    case HeartbeatAfter(seconds):
                        self._hub.pace.schedule(self, seconds)
                    case Close(error):
                        raise error

    async def _begin(self) -> None:
        tenant_ids = set(self.state.declared)
        if self.tenant_id == ALL_TENANTS:
            tenant_ids.update(await self._hub.tenants.tenant_ids())
        else:
            tenant_ids.add(TenantId(self.tenant_id))
        for tenant_id in sorted(tenant_ids):
            self._dirty[tenant_id] = None
        # Of no tenants there is nothing to send; a sign of life tells the
        # client that it has all there is.
        if not tenant_ids:
            self._heartbeat_due = True

    async def _event(self) -> Event:
        if self._ending:
            return Ending(self._ending)
        if self._heartbeat_due:
            self._heartbeat_due = False
            return HeartbeatDue()
        tenant_id, _ = self._dirty.popitem(last=False)
        return StateChanged(self._hub.newest(self, tenant_id) or await self._hub.tenants.get(tenant_id))

    async def _woken(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Hub:
    """All open streams of the process. `jitter` returns 0 to 1."""

    def __init__(
        self,
        tenants: Tenants,
        fleet: Fleet,
        clock: Clock,
        settings: WatchSettings | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.tenants = tenants
        self.fleet = fleet
        self._settings = settings or WatchSettings()
        self._jitter = jitter
        self.encoder = Encoder(self._settings.encoded_bytes_max)
        self.pace = Pace(clock, self._settings.heartbeat_seconds)
        self._planner = Planner(self._settings.part_bytes_max)
        self._streams: dict[str, Stream] = {}
        self._watchers: dict[str, dict[Stream, None]] = {}
        self._pins: Counter[TenantId] = Counter()
        self._marked: dict[TenantId, None] = {}
        self._sleepers: OrderedDict[Stream, None] = OrderedDict()
        self._pacing: asyncio.Task[None] | None = None
        self._closed = False
        tenants.subscribe(self._changed)

    @property
    def streams(self) -> int:
        """Count of the open streams."""
        return len(self._streams)

    @contextlib.contextmanager
    def open(self, request: sync_pb2.WatchConfigRequest) -> Generator[Stream]:
        """Open a stream for a valid request. Raises VoxplaneError
        INVALID_REQUEST, LIMIT_REACHED, SHUTTING_DOWN."""
        stream = self._open(request)
        try:
            yield stream
        finally:
            self._release(stream)

    def report(self, report: sync_pb2.ReportConfigStatusRequest) -> None:
        """Take a valid report. Raises VoxplaneError STREAM_NOT_FOUND, and
        INVALID_REQUEST if it names a message that was not sent."""
        stream = self._streams.get(report.stream_id)
        if stream is None:
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_STREAM_NOT_FOUND,
                f"no stream {report.stream_id}; it has ended",
                metadata={"stream": report.stream_id},
            )
        stream.state.check_nonce(report.nonce)
        if stream.is_node:
            self.fleet.report(report)

    async def fetch(self, request: sync_pb2.FetchConfigRequest) -> bytes:
        """A serialised FetchConfigResponse. Raises VoxplaneError
        STORE_UNAVAILABLE."""
        state = await self.tenants.get(TenantId(request.tenant_id))
        scope = frozenset(agent_name(request.tenant_id, agent) for agent in request.agent_ids) or None
        transfer = Planner().transfer(Declared(), state, scope)
        return b"".join(encode_part(part) for part in transfer.parts)

    def newest(self, stream: Stream, tenant_id: TenantId) -> TenantState | None:
        """The tenant's newest state, which stays in memory while the stream
        is open; None if it has to be loaded first."""
        if tenant_id not in stream.pins:
            stream.pins.add(tenant_id)
            self._pins[tenant_id] += 1
            if self._pins[tenant_id] == 1:
                self.tenants.pin(tenant_id)
        return self.tenants.peek(tenant_id)

    async def close(self) -> None:
        """End all streams with SHUTTING_DOWN, and take no more."""
        self._closed = True
        for stream in self._streams.values():
            stream.end(_shutting_down())
        if self._pacing is not None:
            self._pacing.cancel()
            await asyncio.wait([self._pacing])

    def _open(self, request: sync_pb2.WatchConfigRequest) -> Stream:
        if self._closed:
            raise _shutting_down()
        if len(self._streams) >= self._settings.streams_max:
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_LIMIT_REACHED,
                f"{self._settings.streams_max} streams are open",
                retry_after=RECONNECT_SECONDS,
            )
        state = StreamState(self._planner, self._jitter, self._settings.heartbeat_seconds)
        stream = Stream(self, secrets.token_hex(STREAM_ID_BYTES), request, state)
        for action in state.receive(Subscribed(request)):
            match action:
                case Close(error):
                    raise error
                case HeartbeatAfter(seconds):
                    self.pace.schedule(stream, seconds)
                case _:
                    pass
        if stream.is_node:
            self._take_over(self.fleet.open(stream.stream_id, request), request.node.node_id)
        if self._pacing is None:
            self._pacing = asyncio.get_running_loop().create_task(self.pace.run())
        self._streams[stream.stream_id] = stream
        self._watchers.setdefault(request.tenant_id, {})[stream] = None
        return stream

    def _take_over(self, stream_id: str, node_id: str) -> None:
        replaced = self._streams.pop(stream_id, None)
        if replaced is not None:
            replaced.end(
                VoxplaneError(
                    reason_pb2.ERROR_REASON_NODE_REPLACED,
                    f"a newer stream has the node_id {node_id}",
                    metadata={"node": node_id},
                )
            )

    def _release(self, stream: Stream) -> None:
        self._streams.pop(stream.stream_id, None)
        self._sleepers.pop(stream, None)
        self.pace.forget(stream)
        watchers = self._watchers[stream.tenant_id]
        del watchers[stream]
        if not watchers:
            del self._watchers[stream.tenant_id]
        if stream.is_node:
            self.fleet.close(stream.stream_id)
        for tenant_id in stream.pins:
            self._pins[tenant_id] -= 1
            if not self._pins[tenant_id]:
                del self._pins[tenant_id]
                self.tenants.unpin(tenant_id)
                self._planner.forget(tenant_id)

    def _changed(self, state: TenantState) -> None:
        if state.tenant_id not in self._watchers and ALL_TENANTS not in self._watchers:
            return
        if not self._marked:
            asyncio.get_running_loop().call_soon(self._look)
        self._marked[state.tenant_id] = None

    def _look(self) -> None:
        marked, self._marked = self._marked, {}
        waking = bool(self._sleepers)
        for tenant_id in marked:
            for watched in (tenant_id, ALL_TENANTS):
                for stream in self._watchers.get(watched, ()):
                    stream.mark(tenant_id)
                    self._sleepers[stream] = None
        if not waking:
            self._wake_some()

    def _wake_some(self) -> None:
        for _ in range(min(WAKES_PER_TURN, len(self._sleepers))):
            self._sleepers.popitem(last=False)[0].wake()
        if self._sleepers:
            asyncio.get_running_loop().call_soon(self._wake_some)


def _shutting_down() -> VoxplaneError:
    return VoxplaneError(
        reason_pb2.ERROR_REASON_SHUTTING_DOWN,
        "the server is going away; connect again",
        retry_after=RECONNECT_SECONDS,
    )
