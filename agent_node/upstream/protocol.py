"""The node's end of WatchConfig: events in, actions out, no I/O.

The rules that it keeps:

- A transfer takes effect at its `synced` marker, whole, or not at all; what a
  stream leaves unfinished is dropped with it.
- What every marker proves (count, digest, contents) is compared, also when
  nothing has changed. A tenant that does not fit is in doubt: the stream is
  closed, and the next one declares its revision alone, so that it comes in full,
  or is said to be gone. Until then the last good snapshot stays in use.
- Nothing is taken that the next request could not declare.
- Within an epoch a tenant never goes back. An older delta is passed over; an
  older full transfer is not trusted, as that server lags.
- A bundle that the server withholds leaves the one that is here in its place,
  and the digest counts the one that it withholds.
- A tenant that the server takes off the stream is forgotten. One that it only
  does not name stays, and is stale.
- A bookmark moves a tenant only if the stream has brought it level before.
- A stream resumes from the revisions, etags and contents that are here. What a
  server refuses to hear declared is not declared the next time.
- Waits are those of waits.py; they start over only when a transfer was SYNCED
  and no tenant is in doubt. A heartbeat is no proof.
- A stream that is silent for SILENT_INTERVALS heartbeats is closed. From then,
  or from any other end, the state is stale; see freshness.py.
- A server that drains is left when it has said, and gives changes until then.
  Such a move needs no back-off, if the stream was in step and has lived; nor
  does one of the node's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import Enum

from google.protobuf import duration_pb2

from agent_node.upstream.events import (
    Ack,
    Action,
    BackOff,
    Begin,
    Close,
    Ended,
    Event,
    Forget,
    Moving,
    Opened,
    Persist,
    Received,
    Subscribe,
    TellAll,
    Tick,
)
from agent_node.upstream.freshness import NEVER, Freshness, Stale
from agent_node.upstream.snapshot import Snapshot, TornTransfer, is_id
from agent_node.upstream.transfer import Transfer
from agent_node.upstream.waits import Waits
from voxplane.names import ALL_TENANTS, TenantId
from voxplane.v1 import bundle_pb2, revision_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

HEARTBEAT_SECONDS_DEFAULT = 30.0
HEARTBEAT_SECONDS_MIN = 0.05
HEARTBEAT_SECONDS_MAX = 300.0
SILENT_INTERVALS = 2
DRAIN_SECONDS_MAX = 3600.0
MOVED_STREAM_SECONDS_MIN = 1.0
"""A stream that lived shorter is no planned move, or two servers could send
the node to and fro without end."""
UNFINISHED_BYTES_MAX = 512 * 1024 * 1024
"""Of all transfers of a stream since one was last finished."""
SPARE_CONTENTS_MAX = 5_000
TENANTS_MAX = 100_000
"""As many as a request can declare."""

_DRAIN_REASONS = {
    sync_pb2.DRAIN_REASON_SHUTDOWN: "it goes away",
    sync_pb2.DRAIN_REASON_MAX_AGE: "the stream is old",
    sync_pb2.DRAIN_REASON_CREDENTIAL: "the credential ends",
}


class StreamState(Enum):
    """Where the stream is."""

    IDLE = "idle"
    SUBSCRIBED = "subscribed"
    CLOSING = "closing"


class WatchProtocol:
    """The state of the watch across streams. `jitter` returns 0 to 1; `words`
    are the last words of the tenants in `snapshots`, where they are known."""

    def __init__(
        self,
        *,
        node: sync_pb2.NodeInfo,
        jitter: Callable[[], float],
        now: float,
        tenant_id: str = ALL_TENANTS,
        snapshots: Iterable[Snapshot] = (),
        words: Mapping[TenantId, float] | None = None,
    ) -> None:
        self._node = node
        self._tenant_id = tenant_id
        self._snapshots = {
            snapshot.tenant_id: snapshot
            for snapshot in snapshots
            if tenant_id in (ALL_TENANTS, snapshot.tenant_id)
        }
        known = words or {}
        self._freshness = Freshness(now, {tenant: known.get(tenant, NEVER) for tenant in self._snapshots})
        self._waits = Waits(jitter)
        self._pool: dict[str, bundle_pb2.VersionContent] = {}
        self._doubts: dict[TenantId, bool] = {}
        """Tenants in doubt, and whether their revision may be declared."""
        self._transfers: dict[TenantId, Transfer] = {}
        self._unfinished_bytes = 0
        self._state = StreamState.IDLE
        self._stream_id = ""
        self._serial = 0
        self._heartbeat_seconds = HEARTBEAT_SECONDS_DEFAULT
        self._began = now
        self._move_at = math.inf
        self._move_reason = ""

    @property
    def snapshots(self) -> Mapping[TenantId, Snapshot]:
        """The last good snapshot of each tenant."""
        return self._snapshots

    @property
    def freshness(self) -> Freshness:
        """How old they may be; to read."""
        return self._freshness

    @property
    def stream_id(self) -> str:
        """The server's name of the stream; empty until it was heard."""
        return self._stream_id

    @property
    def replaced(self) -> int:
        """How often another node of this id has taken over of late."""
        return self._waits.replaced

    @property
    def silence_ends(self) -> float:
        """When a stream that brings nothing more is given up."""
        return self._freshness.heard + SILENT_INTERVALS * self._heartbeat_seconds

    @property
    def due(self) -> float:
        """When to say Tick."""
        return min(self.silence_ends, self._move_at)

    def stale(self, now: float) -> Stale | None:
        """Set while the state may be behind the server's."""
        return self._freshness.stale(now)

    def receive(self, event: Event) -> list[Action]:
        """Take an event, and say what to do, in order."""
        match event:
            case Begin(now):
                return self._begin(now)
            case Received(message, now):
                return self._message(message, now) if self._state is StreamState.SUBSCRIBED else []
            case Tick(now):
                return self._tick(now)
            case Moving(now):
                self._move_at = min(self._move_at, now)
                self._move_reason = "the node moves to the edge"
                return self._tick(now)
            case Ended():
                return self._end(event)

    def _begin(self, now: float) -> list[Action]:
        if self._state is not StreamState.IDLE:
            return []
        self._state = StreamState.SUBSCRIBED
        self._began = now
        self._heartbeat_seconds = HEARTBEAT_SECONDS_DEFAULT
        alone = [] if self._tenant_id == ALL_TENANTS else [TenantId(self._tenant_id)]
        self._freshness.began(now, alone)
        for tenant_id, snapshot in self._snapshots.items():
            if snapshot.withheld:
                self._snapshots[tenant_id] = replace(snapshot, withheld={})
        return [Subscribe(self._request())]

    def _request(self) -> sync_pb2.WatchConfigRequest:
        request = sync_pb2.WatchConfigRequest(tenant_id=self._tenant_id, node=self._node)
        trusted = [s for tenant_id, s in self._snapshots.items() if tenant_id not in self._doubts]
        self._pool = {digest: content for s in trusted for digest, content in s.contents.items()}
        for snapshot in trusted:
            request.known.update(snapshot.etags)
        for tenant_id, snapshot in self._snapshots.items():
            if self._doubts.get(tenant_id, True):
                request.start_revisions[tenant_id].CopyFrom(snapshot.revision)
        request.known_contents.extend(self._pool)
        return request

    def _tick(self, now: float) -> list[Action]:
        if self._state is not StreamState.SUBSCRIBED:
            return []
        if now >= self._move_at:
            self._state = StreamState.CLOSING
            return [Close(self._move_reason)]
        if now >= self.silence_ends:
            silent = SILENT_INTERVALS * self._heartbeat_seconds
            return self._close(f"nothing was heard for {silent:g} s")
        return []

    def _close(self, reason: str) -> list[Action]:
        """Leave a stream that is of no use."""
        self._state = StreamState.CLOSING
        self._move_at = math.inf
        self._freshness.give_up_grace()
        self._freshness.lost(reason)
        return [Close(reason)]

    def _end(self, event: Ended) -> list[Action]:
        if self._state is StreamState.IDLE:
            return []
        self._state = StreamState.IDLE
        wait = self._wait(event)
        self._transfers.clear()
        self._unfinished_bytes = 0
        self._stream_id = ""
        self._move_at = math.inf
        if event.refused == ALL_TENANTS:
            self._doubts.update(dict.fromkeys(self._snapshots, False))
        elif event.refused in self._snapshots:
            self._doubts[TenantId(event.refused)] = False
        return [wait]

    def _wait(self, event: Ended) -> BackOff:
        if event.replaced:
            self._freshness.give_up_grace()
            self._freshness.lost(f"another node has the id {self._node.node_id}: {event.reason}")
            return BackOff(self._waits.taken_over(event.now))
        lived = event.now - self._began >= MOVED_STREAM_SECONDS_MIN
        if self._move_at < math.inf and lived and self._freshness.in_step:
            seconds = max(self._move_at - event.now, self._waits.asked(event.retry_after), 0.0)
            self._freshness.moved(event.reason, event.now + seconds)
            return BackOff(seconds, planned=True)
        self._freshness.lost(event.reason)
        return BackOff(self._waits.failed(event.retry_after))

    def _message(self, message: sync_pb2.WatchConfigResponse, now: float) -> list[Action]:
        actions: list[Action] = []
        if message.stream_id != self._stream_id and message.stream_id:
            if self._stream_id:
                return self._close("the server changed the stream's id")
            self._stream_id = message.stream_id
            actions.append(Opened(message.stream_id))
        self._freshness.hear(now)
        match message.WhichOneof("event"):
            case "transfer":
                actions += self._part(message.transfer, message.nonce)
            case "heartbeat":
                actions += self._heartbeat(message.heartbeat, message.nonce)
            case "drain":
                seconds = min(max(_seconds(message.drain.reconnect_after), 0.0), DRAIN_SECONDS_MAX)
                self._move_at = min(self._move_at, now + seconds)
                self._move_reason = f"the server asked to move: {_drain_reason(message.drain)}"
            case "report_request":
                actions.append(TellAll())
            case _:
                pass
        return actions

    def _heartbeat(self, heartbeat: sync_pb2.Heartbeat, nonce: str) -> list[Action]:
        if heartbeat.HasField("interval"):
            seconds = _seconds(heartbeat.interval)
            self._heartbeat_seconds = min(max(seconds, HEARTBEAT_SECONDS_MIN), HEARTBEAT_SECONDS_MAX)
        actions: list[Action] = []
        for tenant, revision in heartbeat.revisions.items():
            have = self._snapshots.get(TenantId(tenant))
            if have is None or not self._freshness.is_level(have.tenant_id) or tenant in self._transfers:
                continue
            if revision.epoch == have.revision.epoch and revision.number > have.revision.number:
                actions += self._keep(have.at(revision))
                actions.append(Ack(nonce, have.tenant_id, self._serial))
        return actions

    def _part(self, part: sync_pb2.ConfigTransfer, nonce: str) -> list[Action]:
        tenant_id = TenantId(part.tenant_id)
        if self._tenant_id not in (ALL_TENANTS, tenant_id) or not is_id(tenant_id):
            return self._close(f"the server sent tenant {tenant_id!r}, which was not asked for")
        if part.HasField("start"):
            self._transfers[tenant_id] = Transfer(part.start)
        transfer = self._transfers.get(tenant_id)
        if transfer is None:
            return self._doubt(tenant_id, "a transfer without a beginning")
        transfer.add(part)
        self._unfinished_bytes += part.ByteSize()
        if self._unfinished_bytes > UNFINISHED_BYTES_MAX:
            return self._doubt(tenant_id, f"a transfer above {UNFINISHED_BYTES_MAX} bytes")
        self._pool.update((content.content_hash, content) for content in part.contents)
        if not part.HasField("synced"):
            return []
        del self._transfers[tenant_id]
        self._unfinished_bytes = sum(unfinished.size for unfinished in self._transfers.values())
        try:
            return self._finish(tenant_id, transfer, part, nonce)
        except TornTransfer as torn:
            return self._doubt(tenant_id, str(torn))

    def _doubt(self, tenant_id: TenantId, reason: str) -> list[Action]:
        self._doubts[tenant_id] = True
        self._freshness.doubt(tenant_id)
        return self._close(f"tenant {tenant_id}: {reason}")

    def _finish(
        self, tenant_id: TenantId, transfer: Transfer, last: sync_pb2.ConfigTransfer, nonce: str
    ) -> list[Action]:
        if last.tenant_removed:
            return self._forget(tenant_id, transfer, nonce)
        have = self._snapshots.get(tenant_id)
        if have is None and len(self._snapshots) >= TENANTS_MAX:
            raise TornTransfer(f"a node has at most {TENANTS_MAX} tenants")
        if have is not None and _is_before(last.revision, have.revision):
            if transfer.intent == "FULL" or not self._freshness.is_level(tenant_id):
                raise TornTransfer("the server is behind this node")
            return [Ack(nonce, tenant_id, 0)]
        declared = None if tenant_id in self._doubts else have
        snapshot = transfer.finish(tenant_id, declared, last, self._pool)
        self._doubts.pop(tenant_id, None)
        self._freshness.level(tenant_id)
        if not self._doubts:
            self._waits.start_over()
        apply = transfer.apply(have, snapshot)
        same = have is not None and have.revision == snapshot.revision
        persist = [] if same and not apply.changed and not apply.removed else self._keep(snapshot)
        self._snapshots[tenant_id] = snapshot
        if len(self._pool) > SPARE_CONTENTS_MAX + sum(len(s.contents) for s in self._snapshots.values()):
            self._trim_pool()
        return [apply, *persist, Ack(nonce, tenant_id, self._serial if persist else 0)]

    def _forget(self, tenant_id: TenantId, transfer: Transfer, nonce: str) -> list[Action]:
        self._doubts.pop(tenant_id, None)
        self._freshness.forget(tenant_id)
        if self._snapshots.pop(tenant_id, None) is None:
            return [Ack(nonce, tenant_id, 0)]
        self._serial += 1
        return [
            Forget(tenant_id, self._serial, transfer.start.reason),
            Ack(nonce, tenant_id, self._serial),
        ]

    def _keep(self, snapshot: Snapshot) -> list[Action]:
        self._serial += 1
        self._snapshots[snapshot.tenant_id] = snapshot
        return [Persist(snapshot, self._serial)]

    def _trim_pool(self) -> None:
        """Contents that no bundle names are kept for a while, as the server
        does not send them twice on a stream; past the bound the oldest are
        dropped, and one that is missed then costs a full transfer."""
        used = {digest for snapshot in self._snapshots.values() for digest in snapshot.contents}
        spare = [digest for digest in self._pool if digest not in used]
        for digest in spare[: len(spare) - SPARE_CONTENTS_MAX // 2]:
            del self._pool[digest]


def _is_before(new: revision_pb2.Revision, old: revision_pb2.Revision) -> bool:
    return new.epoch == old.epoch and new.number < old.number


def _seconds(duration: duration_pb2.Duration) -> float:
    return duration.ToNanoseconds() / 1e9


def _drain_reason(drain: sync_pb2.Drain) -> str:
    return _DRAIN_REASONS.get(drain.reason, f"reason {drain.reason}")
