"""Wakes streams, paces them, and ends them.

The rules that it keeps:

- A writer never waits for a watcher: a commit marks its tenant and asks for one
  turn of the loop, however many commits come in it. From that turn on the
  streams of the marked tenants are woken, WAKES_PER_TURN at a time, so that
  answers to writers and reports of nodes go out between them. Each stream
  looks at the newest state when it can send.
- A burst of a tenant's commits is held back for a moment (debounce.py); one
  that is urgent is not.
- What waits for a slow reader is a set of tenants to look at and the one
  transfer that is being sent, never a queue of changes. A reader that does not
  read at all is given up past a bound (stalls.py).
- The bytes of a message are made when it is its turn, and shared.
- What a stream sends is told to the fleet in the same turn of the loop, so that
  no answer can come before the note of what it answers.
- One task paces all heartbeats, and looks after stalled streams and
  credentials.
- A tenant stays in memory while a stream watches it.
- Before the server goes, every stream says when to come back, each at another
  time, and goes on until then.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from control_plane.fleet import Fleet
from control_plane.state import Change, Tenants
from control_plane.watch.admission import FULL_BYTES_BURST, FULL_BYTES_PER_SECOND, Admission
from control_plane.watch.credentials import Credentials
from control_plane.watch.debounce import LONGEST_SECONDS, QUIET_SECONDS, Debounce
from control_plane.watch.encoder import ENCODED_BYTES_MAX, Encoder, encode_part
from control_plane.watch.pace import Pace
from control_plane.watch.pins import Pins
from control_plane.watch.planner import PART_BYTES_MAX, Planner
from control_plane.watch.rights import EveryRight, Rights
from control_plane.watch.scope import Scope
from control_plane.watch.serving import Stream, Surroundings
from control_plane.watch.stalls import PENDING_BYTES_MAX, STALL_SECONDS, Stalls
from control_plane.watch.stream import (
    AGE_SECONDS_MAX,
    HEARTBEAT_SECONDS,
    StreamRules,
    expired,
    not_permitted,
    transfers_limited,
)
from control_plane.watch.subscription import Subscription, subscribe
from control_plane.watch.transfer import Declared
from control_plane.watch.wave import Wave
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError
from voxplane.names import ALL_TENANTS, TenantId, agent_name
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

STREAMS_MAX = 20_000
STREAM_ID_BYTES = 8
RECONNECT_SECONDS = 1.0
RECONNECTS_PER_SECOND = 500
"""Clients are spread over so much time that no more come in a second."""
DRAIN_GRACE_SECONDS = 0.25
"""A stream is ended so long after its client was to open the next one."""
WAKES_PER_TURN = 64


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """Limits of all streams together. Times are in seconds."""

    heartbeat_seconds: float = HEARTBEAT_SECONDS
    age_seconds_max: float = AGE_SECONDS_MAX
    quiet_seconds: float = QUIET_SECONDS
    longest_seconds: float = LONGEST_SECONDS
    part_bytes_max: int = PART_BYTES_MAX
    encoded_bytes_max: int = ENCODED_BYTES_MAX
    pending_bytes_max: int = PENDING_BYTES_MAX
    stall_seconds: float = STALL_SECONDS
    full_bytes_per_second: float = FULL_BYTES_PER_SECOND
    full_bytes_burst: float = FULL_BYTES_BURST
    streams_max: int = STREAMS_MAX


class Hub:
    """All open streams of the process. `jitter` returns 0 to 1."""

    def __init__(
        self,
        tenants: Tenants,
        fleet: Fleet,
        clock: Clock,
        settings: WatchSettings | None = None,
        jitter: Callable[[], float] = random.random,
        rights: Rights | None = None,
    ) -> None:
        self._settings = settings = settings or WatchSettings()
        self._jitter = jitter
        self._planner = Planner(settings.part_bytes_max)
        self._admission = Admission(
            clock.monotonic, settings.full_bytes_per_second, settings.full_bytes_burst
        )
        rights = rights or EveryRight()
        self._around = Surroundings(
            tenants,
            fleet,
            clock,
            rights,
            StreamRules(
                self._planner,
                jitter,
                self._admission.take,
                settings.heartbeat_seconds,
                settings.age_seconds_max,
            ),
            Encoder(settings.encoded_bytes_max),
            Pace(clock, settings.heartbeat_seconds, self._ticked),
            Pins(tenants, self._unwatched),
        )
        self._debounce = Debounce(settings.quiet_seconds, settings.longest_seconds)
        self._stalls = Stalls(settings.stall_seconds, settings.pending_bytes_max)
        self._credentials = Credentials(rights, jitter)
        self._streams: dict[str, Stream] = {}
        self._watchers: dict[str, dict[Stream, None]] = {}
        self._marked: dict[TenantId, None] = {}
        self._sleepers: deque[Stream] = deque()
        self._holding: dict[TenantId, asyncio.Task[None]] = {}
        self._pacing: asyncio.Task[None] | None = None
        self._closed = False
        tenants.subscribe(self._changed)
        rights.subscribe(self.rights_changed)

    @property
    def streams(self) -> int:
        """Count of the open streams."""
        return len(self._streams)

    @property
    def stalled(self) -> int:
        """Count of the streams whose client does not read."""
        return self._stalls.count

    @property
    def encoder(self) -> Encoder:
        """Makes the bytes of all messages."""
        return self._around.encoder

    async def open(
        self, request: sync_pb2.WatchConfigRequest, principal: str = "", greeting: bytes = b""
    ) -> Stream:
        """Open a stream for a valid request; `close` it in the end. The first
        message for a node ends with `greeting`. Raises VoxplaneError
        INVALID_REQUEST, LIMIT_REACHED, SHUTTING_DOWN, PERMISSION_LOST."""
        subscription = await subscribe(request, principal)
        self._check_open(subscription)
        greeting = greeting if subscription.node_id else b""
        stream_id = secrets.token_hex(STREAM_ID_BYTES)
        node_id = subscription.node_id
        replaced = self._around.fleet.open(stream_id, request) if node_id else ""
        stream = Stream(self._around, stream_id, subscription, greeting)
        self._take_over(replaced, node_id)
        if self._pacing is None:
            self._pacing = asyncio.get_running_loop().create_task(self._around.pace.run())
        self._credentials.open(stream)
        self._streams[stream.stream_id] = stream
        self._watchers.setdefault(stream.tenant_id, {})[stream] = None
        return stream

    def close_stream(self, stream: Stream) -> None:
        """A stream is over: let go of all that it had."""
        self._streams.pop(stream.stream_id, None)
        self._stalls.forget(stream)
        self._credentials.close(stream)
        self._around.pace.forget(stream)
        watchers = self._watchers[stream.tenant_id]
        del watchers[stream]
        if not watchers:
            del self._watchers[stream.tenant_id]
        if stream.node_id:
            self._around.fleet.close(stream.stream_id)
        self._around.pins.release(stream)

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
        if stream.node_id:
            missing = self._around.fleet.report(report)
            if missing:
                stream.report_missing(missing)

    async def fetch(self, request: sync_pb2.FetchConfigRequest, principal: str = "") -> bytes:
        """A serialised FetchConfigResponse. Raises VoxplaneError
        STORE_UNAVAILABLE, PERMISSION_LOST, TRANSFERS_LIMITED."""
        permit = self._around.rights.permit(principal, request.tenant_id)
        if not permit.tenant:
            raise not_permitted(request.tenant_id)
        state = await self._around.tenants.get(TenantId(request.tenant_id))
        names = frozenset(agent_name(request.tenant_id, agent) for agent in request.agent_ids) or None
        transfer = Planner().transfer(Declared(), state, Scope(names, permitted=permit.agents))
        wait = self._admission.take(transfer.size)
        if wait:
            raise transfers_limited(wait)
        return b"".join(encode_part(part) for part in transfer.parts)

    def rights_changed(self) -> None:
        """What principals may watch has changed: every stream looks again at
        what it shows, at once."""
        waking = bool(self._sleepers)
        for stream in self._open():
            self._credentials.again(stream)
            stream.mark_all()
        self._queue(self._open())
        if not waking:
            self._wake_some()

    async def drain(self, seconds: float) -> None:
        """Take no more streams, tell all when to come back, and end each soon
        after that; over within about so many seconds."""
        self._closed = True
        streams = list(self._streams.values())
        spread = min(seconds, len(streams) / RECONNECTS_PER_SECOND)
        ends = sorted(((spread * self._jitter(), stream) for stream in streams), key=lambda end: end[0])
        for reconnect_seconds, stream in ends:
            stream.drain(sync_pb2.DRAIN_REASON_SHUTDOWN, reconnect_seconds)
        clock = self._around.clock
        began = clock.monotonic()
        for reconnect_seconds, stream in ends:
            if stream.stream_id in self._streams:
                left = began + reconnect_seconds + DRAIN_GRACE_SECONDS - clock.monotonic()
                if left > 0:
                    await clock.sleep(left)
                stream.end(_shutting_down())

    async def close(self) -> None:
        """End all streams with SHUTTING_DOWN, and take no more."""
        self._closed = True
        for stream in self._open():
            stream.end(_shutting_down())
            stream.interrupt()
        tasks = [task for task in (self._pacing, *self._holding.values()) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _open(self) -> Iterator[Stream]:
        """All open streams, also those that a newer one has replaced."""
        for streams in self._watchers.values():
            yield from streams

    def _check_open(self, subscription: Subscription) -> None:
        if self._closed:
            raise _shutting_down()
        if len(self._streams) >= self._settings.streams_max:
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_LIMIT_REACHED,
                f"{self._settings.streams_max} streams are open",
                retry_after=RECONNECT_SECONDS,
            )
        permit = self._around.rights.permit(subscription.principal, subscription.tenant_id)
        # Who has something is let in, to be told to forget it.
        if not permit.tenant and not subscription.declared:
            raise not_permitted(subscription.tenant_id)

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

    def _unwatched(self, tenant_id: TenantId) -> None:
        self._planner.forget(tenant_id)
        self._debounce.forget(tenant_id)

    def _ticked(self) -> None:
        clock = self._around.clock
        now = clock.monotonic()
        self._debounce.sweep(now)
        self._stalls.look(self._open(), now, self._why_end)
        self._credentials.look(clock.time())

    def _why_end(self, stream: Stream) -> VoxplaneError | None:
        """Why a stream that hangs in a write is to end, which it would find
        out by itself if it did not hang."""
        if not self._around.rights.permit(stream.principal, stream.tenant_id).tenant:
            return not_permitted(stream.tenant_id)
        return expired() if self._around.clock.monotonic() >= stream.state.ends_at else None

    def _changed(self, change: Change) -> None:
        tenant_id = change.after.tenant_id
        if tenant_id not in self._watchers and ALL_TENANTS not in self._watchers:
            return
        self._stalls.committed(change)
        now = self._around.clock.monotonic()
        if self._debounce.changed(tenant_id, now, urgent=change.urgent):
            self._mark(tenant_id)
        elif tenant_id not in self._holding:
            self._holding[tenant_id] = asyncio.get_running_loop().create_task(self._hold(tenant_id))

    async def _hold(self, tenant_id: TenantId) -> None:
        clock = self._around.clock
        try:
            while (due := self._debounce.due(tenant_id)) is not None:
                left = due - clock.monotonic()
                if left <= 0:
                    self._debounce.gone_out(tenant_id)
                    self._mark(tenant_id)
                    return
                await clock.sleep(left)
        finally:
            # In the step in which it ends, so that the next change is not taken
            # for one that is held.
            del self._holding[tenant_id]

    def _mark(self, tenant_id: TenantId) -> None:
        if not self._marked:
            asyncio.get_running_loop().call_soon(self._look)
        self._marked[tenant_id] = None

    def _look(self) -> None:
        marked, self._marked = self._marked, {}
        waking = bool(self._sleepers)
        for tenant_id in marked:
            for watched in (tenant_id, ALL_TENANTS):
                streams = self._watchers.get(watched, ())
                for stream in streams:
                    stream.mark(tenant_id)
                self._queue(streams)
        if not waking:
            self._wake_some()

    def _queue(self, streams: Iterable[Stream]) -> None:
        for stream in streams:
            if not stream.queued:
                stream.queued = True
                self._sleepers.append(stream)

    def _wake_some(self) -> None:
        sleepers = self._sleepers
        wave = Wave(self._around.tenants, self._planner, self._around.encoder)
        for _ in range(min(WAKES_PER_TURN, len(sleepers))):
            stream = sleepers.popleft()
            stream.queued = False
            stream.wake(wave)
        if sleepers:
            asyncio.get_running_loop().call_soon(self._wake_some)


def _shutting_down() -> VoxplaneError:
    return VoxplaneError(
        reason_pb2.ERROR_REASON_SHUTTING_DOWN,
        "the server is going away; connect again",
        retry_after=RECONNECT_SECONDS,
    )
