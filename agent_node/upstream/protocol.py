"""The node's end of WatchConfig: events in, actions out, no I/O.

The rules that it keeps:

- A transfer takes effect at its `synced` marker, whole, or not at all; what a
  stream leaves unfinished is dropped with it.
- What the marker proves (count, digest, contents) is compared. A tenant that
  does not fit is not trusted any more: the stream is closed, and the next one
  declares nothing of it, so that it comes in full. Until then the last good
  snapshot stays in use.
- Within an epoch a tenant never goes back. An older delta is passed over; an
  older full transfer is not trusted, as that server lags.
- A stream resumes from the revisions, etags and contents that are here.
- Waits between streams have full jitter and grow; they start over only when a
  transfer was taken or a heartbeat came and every tenant is trusted.
- A stream that is silent for SILENT_INTERVALS heartbeats is closed. From then,
  or from any other end, the state is stale, with reason and age.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from agent_node.upstream.events import (
    Ack,
    Action,
    Apply,
    BackOff,
    Begin,
    Close,
    Ended,
    Event,
    Opened,
    Persist,
    Received,
    Subscribe,
    Tick,
)
from agent_node.upstream.snapshot import Snapshot, TornTransfer, build_snapshot
from voxplane.names import ALL_TENANTS, AgentName, TenantId
from voxplane.v1 import bundle_pb2, revision_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

BACK_OFF_SECONDS_MIN = 0.25
BACK_OFF_SECONDS_MAX = 15.0
RETRY_AFTER_SECONDS_MAX = 60.0
HEARTBEAT_SECONDS_DEFAULT = 30.0
HEARTBEAT_SECONDS_MIN = 0.05
HEARTBEAT_SECONDS_MAX = 300.0
SILENT_INTERVALS = 2
TRANSFER_BYTES_MAX = 512 * 1024 * 1024
SPARE_CONTENTS_MAX = 5_000


class StreamState(Enum):
    """Where the stream is."""

    IDLE = "idle"
    SUBSCRIBED = "subscribed"
    CLOSING = "closing"


@dataclass(frozen=True, slots=True)
class Stale:
    """Why, and since when, the state may be behind the server's."""

    reason: str
    since: float


@dataclass(slots=True)
class _Transfer:
    start: sync_pb2.TransferStart
    bundles: dict[str, bundle_pb2.AgentBundle] = field(default_factory=dict[str, bundle_pb2.AgentBundle])
    removed: set[str] = field(default_factory=set[str])
    size: int = 0

    def add(self, part: sync_pb2.ConfigTransfer) -> None:
        self.size += part.ByteSize()
        self.removed.update(part.removed)
        self.bundles.update((bundle.name, bundle) for bundle in part.bundles)


class WatchProtocol:
    """The state of the watch across streams. `jitter` returns 0 to 1."""

    def __init__(
        self,
        *,
        node: sync_pb2.NodeInfo,
        jitter: Callable[[], float],
        now: float,
        tenant_id: str = ALL_TENANTS,
        snapshots: Iterable[Snapshot] = (),
    ) -> None:
        self._node = node
        self._jitter = jitter
        self._tenant_id = tenant_id
        self._snapshots = {
            snapshot.tenant_id: snapshot
            for snapshot in snapshots
            if tenant_id in (ALL_TENANTS, snapshot.tenant_id)
        }
        self._pool: dict[str, bundle_pb2.VersionContent] = {}
        self._distrusted: set[TenantId] = set()
        self._transfers: dict[TenantId, _Transfer] = {}
        self._state = StreamState.IDLE
        self._stream_id = ""
        self._attempt = 0
        self._serial = 0
        self._heartbeat_seconds = HEARTBEAT_SECONDS_DEFAULT
        self._last_heard = now
        self._stale: Stale | None = Stale("not connected yet", now)

    @property
    def snapshots(self) -> Mapping[TenantId, Snapshot]:
        """The last good snapshot of each tenant."""
        return self._snapshots

    @property
    def stale(self) -> Stale | None:
        """Set while the state may be behind the server's."""
        return self._stale

    @property
    def silence_ends(self) -> float:
        """When a stream that brings nothing more is given up."""
        return self._last_heard + SILENT_INTERVALS * self._heartbeat_seconds

    def receive(self, event: Event) -> list[Action]:
        """Take an event, and say what to do, in order."""
        match event:
            case Begin(now):
                return self._begin(now)
            case Received(message, now):
                return self._message(message, now) if self._state is StreamState.SUBSCRIBED else []
            case Tick(now):
                return self._tick(now)
            case Ended():
                return self._end(event)

    def _begin(self, now: float) -> list[Action]:
        if self._state is not StreamState.IDLE:
            return []
        self._state = StreamState.SUBSCRIBED
        self._last_heard = now
        self._heartbeat_seconds = HEARTBEAT_SECONDS_DEFAULT
        return [Subscribe(self._request())]

    def _request(self) -> sync_pb2.WatchConfigRequest:
        request = sync_pb2.WatchConfigRequest(tenant_id=self._tenant_id, node=self._node)
        trusted = [s for tenant_id, s in self._snapshots.items() if tenant_id not in self._distrusted]
        self._pool = {digest: content for s in trusted for digest, content in s.contents.items()}
        for snapshot in trusted:
            request.start_revisions[snapshot.tenant_id].CopyFrom(snapshot.revision)
            request.known.update(snapshot.etags)
        request.known_contents.extend(self._pool)
        return request

    def _tick(self, now: float) -> list[Action]:
        if self._state is not StreamState.SUBSCRIBED or now < self.silence_ends:
            return []
        silent = SILENT_INTERVALS * self._heartbeat_seconds
        return self._close(f"nothing was heard for {silent:g} s", now)

    def _close(self, reason: str, now: float) -> list[Action]:
        self._state = StreamState.CLOSING
        self._mark_stale(reason, now)
        return [Close(reason)]

    def _end(self, event: Ended) -> list[Action]:
        if self._state is StreamState.IDLE:
            return []
        self._state = StreamState.IDLE
        self._transfers.clear()
        self._stream_id = ""
        self._mark_stale(event.reason, event.now)
        if event.refused in self._snapshots:
            self._distrusted.add(event.refused)
        bound = min(BACK_OFF_SECONDS_MAX, BACK_OFF_SECONDS_MIN * 2.0 ** min(self._attempt, 16))
        self._attempt += 1
        asked = min(max(event.retry_after or 0.0, 0.0), RETRY_AFTER_SECONDS_MAX)
        return [BackOff(asked + self._jitter() * bound)]

    def _mark_stale(self, reason: str, now: float) -> None:
        since = self._stale.since if self._stale else now
        self._stale = Stale(reason, since)

    def _message(self, message: sync_pb2.WatchConfigResponse, now: float) -> list[Action]:
        self._last_heard = now
        actions: list[Action] = []
        if message.stream_id and message.stream_id != self._stream_id:
            self._stream_id = message.stream_id
            actions.append(Opened(message.stream_id))
        match message.WhichOneof("event"):
            case "transfer":
                actions += self._part(message.transfer, message.nonce, now)
            case "heartbeat":
                actions += self._heartbeat(message.heartbeat, message.nonce)
            case _:
                pass
        return actions

    def _heartbeat(self, heartbeat: sync_pb2.Heartbeat, nonce: str) -> list[Action]:
        if heartbeat.HasField("interval"):
            seconds = heartbeat.interval.ToTimedelta().total_seconds()
            self._heartbeat_seconds = min(max(seconds, HEARTBEAT_SECONDS_MIN), HEARTBEAT_SECONDS_MAX)
        self._in_step()
        actions: list[Action] = []
        for tenant, revision in heartbeat.revisions.items():
            have = self._snapshots.get(TenantId(tenant))
            if have is None or tenant in self._distrusted or tenant in self._transfers:
                continue
            if revision.epoch == have.revision.epoch and revision.number > have.revision.number:
                actions += self._keep(have.at(revision))
                actions.append(Ack(nonce, have.tenant_id, self._serial))
        return actions

    def _in_step(self) -> None:
        if not self._distrusted:
            self._attempt = 0
            self._stale = None

    def _part(self, part: sync_pb2.ConfigTransfer, nonce: str, now: float) -> list[Action]:
        tenant_id = TenantId(part.tenant_id)
        if self._tenant_id not in (ALL_TENANTS, tenant_id) or not tenant_id:
            return self._close(f"the server sent tenant {tenant_id!r}, which was not asked for", now)
        if part.HasField("start"):
            self._transfers[tenant_id] = _Transfer(part.start)
        transfer = self._transfers.get(tenant_id)
        if transfer is None:
            return self._distrust(tenant_id, "a transfer without a beginning", now)
        transfer.add(part)
        if transfer.size > TRANSFER_BYTES_MAX:
            return self._distrust(tenant_id, f"a transfer above {TRANSFER_BYTES_MAX} bytes", now)
        self._pool.update((content.content_hash, content) for content in part.contents)
        if not part.HasField("synced"):
            return []
        del self._transfers[tenant_id]
        try:
            return self._finish(tenant_id, transfer, part, nonce, now)
        except TornTransfer as torn:
            return self._distrust(tenant_id, str(torn), now)

    def _distrust(self, tenant_id: TenantId, reason: str, now: float) -> list[Action]:
        self._distrusted.add(tenant_id)
        return self._close(f"tenant {tenant_id}: {reason}", now)

    def _finish(
        self,
        tenant_id: TenantId,
        transfer: _Transfer,
        last: sync_pb2.ConfigTransfer,
        nonce: str,
        now: float,
    ) -> list[Action]:
        have = self._snapshots.get(tenant_id)
        declared = None if tenant_id in self._distrusted else have
        full = transfer.start.intent == sync_pb2.TRANSFER_INTENT_FULL
        if have is not None and _is_before(last.revision, have.revision):
            if full or declared is None:
                return self._distrust(tenant_id, "the server is behind this node", now)
            return [Ack(nonce, tenant_id, 0)]
        bundles: dict[str, bundle_pb2.AgentBundle] = {}
        if not full:
            if declared is not None and declared.revision.epoch != last.revision.epoch:
                raise TornTransfer("the epoch changed without a full transfer")
            if declared is not None:
                bundles = {n: bundle for n, bundle in declared.bundles.items() if n not in transfer.removed}
        bundles |= transfer.bundles
        snapshot = build_snapshot(tenant_id, last.revision, bundles.values(), self._pool, last.synced)
        self._distrusted.discard(tenant_id)
        self._in_step()
        if len(self._pool) > SPARE_CONTENTS_MAX + sum(len(s.contents) for s in self._snapshots.values()):
            self._trim_pool()
        apply = _apply(have, snapshot, transfer.start)
        same = have is not None and have.revision == snapshot.revision
        persist = [] if same and not apply.changed and not apply.removed else self._keep(snapshot)
        return [apply, *persist, Ack(nonce, tenant_id, self._serial if persist else 0)]

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


def _apply(have: Snapshot | None, new: Snapshot, start: sync_pb2.TransferStart) -> Apply:
    old: Mapping[AgentName, bundle_pb2.AgentBundle] = have.bundles if have else {}
    changed = tuple(
        name
        for name, bundle in new.bundles.items()
        if name not in old or (old[name].etag, old[name].revision) != (bundle.etag, bundle.revision)
    )
    removed = tuple(name for name in old if name not in new.bundles)
    intent = sync_pb2.TransferIntent.Name(start.intent).removeprefix("TRANSFER_INTENT_")
    return Apply(new, intent, start.reason, changed, removed)
