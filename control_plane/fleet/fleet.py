"""The nodes of this process' streams: what each was sent, has and runs.

It is held in memory: a node that connects again declares what it has and
repeats its reports. Calls are synchronous and belong to the event loop.

Of the streams of one node the newest counts. What becomes of an older one,
and what is reported of it, changes nothing.
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import structlog

from control_plane.fleet.members import Members
from control_plane.fleet.records import NodeIdentity, NodeRecord, SentLevel
from control_plane.fleet.scope import scope_of
from control_plane.fleet.words import Words
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError
from voxplane.names import AgentName, TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

NODES_MAX = 20_000
DISCONNECTED_SECONDS_MAX = 300.0
"""A node that holds no stream is forgotten after so long."""
JUMP_MAX = 2**32
"""Reports that can be missing; a number beyond is none."""
FORGOTTEN_PER_CALL_MAX = 16
"""Records that are let go of at once; a large one takes a while."""

_NO_LABELS: Mapping[str, str] = MappingProxyType({})
_log = structlog.stdlib.get_logger(__name__)


class Changes:
    """The ids of nodes that have changed, for one who waits."""

    def __init__(self) -> None:
        self._nodes: set[str] = set()
        self._waiter: asyncio.Future[None] | None = None

    def add(self, node_id: str) -> None:
        """A node has changed."""
        self._nodes.add(node_id)
        self.wake()

    def wake(self) -> None:
        """Let `next` return, even with nothing."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def any(self) -> bool:
        """Whether `next` would not wait."""
        return bool(self._nodes)

    async def next(self) -> set[str]:
        """What has changed since the last time; waits if nothing has."""
        if not self._nodes:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        nodes, self._nodes = self._nodes, set()
        return nodes


class Fleet:
    """All nodes, also those that are gone for DISCONNECTED_SECONDS_MAX at most."""

    def __init__(self, clock: Clock, nodes_max: int = NODES_MAX) -> None:
        self._clock = clock
        self._nodes_max = nodes_max
        self._words = Words()
        self._nodes: dict[str, NodeRecord] = {}
        self._members = Members()
        self._streams: dict[str, NodeRecord] = {}
        self._gone: OrderedDict[str, float] = OrderedDict()
        self._followers: set[Changes] = set()

    def open(self, stream_id: str, request: sync_pb2.WatchConfigRequest) -> str:
        """A node's stream begins. Returns the id of the stream that it takes
        the place of, or an empty string. Raises VoxplaneError LIMIT_REACHED."""
        self._forget()
        node_id = request.node.node_id
        before = self._nodes.get(node_id)
        if before is None and len(self._nodes) >= self._nodes_max:
            self._make_room()
        now = self._clock.time()
        node = NodeRecord(
            info=_identity(node_id, request.node),
            tenant_id=request.tenant_id,
            scope=scope_of(request),
            stream_id=stream_id,
            connect_time=now,
            last_seen=now,
            declared={
                TenantId(tenant): (start.number, start.epoch)
                for tenant, start in request.start_revisions.items()
            },
        )
        replaced = ""
        if before is not None:
            replaced = before.stream_id
            self._streams.pop(replaced, None)
            self._members.discard(before.tenant_id, node_id)
            if not self._is_forgotten(node_id):
                node.resume(before)
        self._gone.pop(node_id, None)
        self._members.add(node.tenant_id, node_id)
        self._nodes[node_id] = self._streams[stream_id] = node
        self._changed(node_id)
        return replaced

    def record(self, stream_id: str) -> NodeRecord | None:
        """What is known of a stream's node. It is that stream's for as long as
        the stream lasts, and of no effect when a newer one has taken its place."""
        return self._streams.get(stream_id)

    def sent(
        self,
        stream_id: str,
        tenant_id: TenantId,
        level: SentLevel,
        removed: Iterable[AgentName],
        nonce: int | None,
    ) -> int:
        """A stream has moved to a level, with the message of that nonce or
        with none. Streams that are no node's are passed over. Returns the
        number of a report that came before it could be taken, or 0."""
        node = self._streams.get(stream_id)
        if node is None:
            return 0
        node.sent(tenant_id, level, removed, nonce)
        # With a message, there is news when the node has answered.
        if nonce is None:
            self._changed(node.info.node_id)
        return node.missed() if node.early else 0

    def report(self, report: sync_pb2.ReportConfigStatusRequest) -> int:
        """Take what a node reports of its stream. The nonce is one that was
        sent. Streams that are no node's are passed over. Returns the number of
        the first report that has not come, once for each gap, or 0."""
        node = self._streams.get(report.stream_id)
        if node is None:
            return 0
        node.last_seen = self._clock.time()
        sequence, missing = report.sequence, 0
        if sequence > node.sequence + JUMP_MAX:
            sequence = 0
        if sequence:
            if sequence == node.sequence:
                return 0
            missing = node.sequence + 1 if sequence > node.sequence + 1 else 0
            node.sequence = max(sequence, node.sequence)
        order = node.streams_before + (sequence or node.sequence)
        nonce = int(report.nonce or 0)
        news = nonce > node.acked_nonce
        node.acked_nonce = max(nonce, node.acked_nonce)
        for status in report.statuses:
            news |= self._take(node, status, order)
        if news:
            self._changed(node.info.node_id)
        return missing

    def refused(self, node_id: str, tenant_id: TenantId) -> Mapping[AgentName, str]:
        """By name, the etags of the bundles of which a node's newest report is
        that it has refused them."""
        node = self._nodes.get(node_id)
        tenant = node.tenants.get(tenant_id) if node else None
        if tenant is None:
            return {}
        words = {name: tenant.reports.word(name) for name in tenant.refusals}
        return {name: word.etag for name, word in words.items() if word is not None}

    def removed(self, stream_id: str, tenant_id: TenantId) -> int:
        """A stream has nothing to do with a tenant any more, or has not been
        allowed to from the start; what its node had of it is forgotten. Returns
        the number of a report that came before it could be taken, or 0."""
        node = self._streams.get(stream_id)
        if node is None:
            return 0
        if node.removed(tenant_id):
            self._changed(node.info.node_id)
        return node.missed()

    def close(self, stream_id: str) -> None:
        """A stream has ended."""
        node = self._streams.pop(stream_id, None)
        if node is None:
            return
        node.stream_id = ""
        node.last_seen = self._clock.time()
        self._gone[node.info.node_id] = self._clock.monotonic()
        self._changed(node.info.node_id)

    def node(self, node_id: str) -> NodeRecord:
        """One node. Raises VoxplaneError NODE_NOT_FOUND."""
        found = self.find(node_id)
        if found is None:
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_NODE_NOT_FOUND, f"no node {node_id}", metadata={"node": node_id}
            )
        return found

    def find(self, node_id: str) -> NodeRecord | None:
        """One node, if it is known."""
        self._forget()
        return None if self._is_forgotten(node_id) else self._nodes.get(node_id)

    def ids(self, tenant_id: str = "", after: str = "") -> list[str]:
        """The nodes that ask for a tenant, or all, with greater ids, in
        ascending order. Not each of them needs to be found."""
        return self._members.of(tenant_id, after)

    @contextmanager
    def follow(self) -> Generator[Changes]:
        """What changes from now on."""
        changes = Changes()
        self._followers.add(changes)
        try:
            yield changes
        finally:
            self._followers.discard(changes)

    def _take(self, node: NodeRecord, status: sync_pb2.BundleStatus, order: int) -> bool:
        # The name is looked up whole in the tenant's level, so this is enough.
        tenant_id = TenantId(status.name.partition("/")[2].partition("/")[0])
        tenant = node.tenants.get(tenant_id)
        if tenant is None:
            if tenant_id in node.declared:
                node.early = node.early or max(node.sequence, 1)
            return False
        if tenant.unacked:
            tenant.settle(node.acked_nonce)
        return tenant.report(status, self._words.of(status), order)

    def _changed(self, node_id: str) -> None:
        for follower in self._followers:
            follower.add(node_id)

    def _is_forgotten(self, node_id: str) -> bool:
        gone = self._gone.get(node_id)
        return gone is not None and gone + DISCONNECTED_SECONDS_MAX <= self._clock.monotonic()

    def _forget(self) -> None:
        for _ in range(FORGOTTEN_PER_CALL_MAX):
            node_id = next(iter(self._gone), None)
            if node_id is None or not self._is_forgotten(node_id):
                return
            self._drop(node_id)

    def _make_room(self) -> None:
        if not self._gone:
            _log.warning("too many nodes", nodes=len(self._nodes))
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_LIMIT_REACHED, f"more than {self._nodes_max} nodes hold a stream"
            )
        self._drop(next(iter(self._gone)))

    def _drop(self, node_id: str) -> None:
        del self._gone[node_id]
        self._members.discard(self._nodes.pop(node_id).tenant_id, node_id)
        self._changed(node_id)


def _identity(node_id: str, node: sync_pb2.NodeInfo) -> NodeIdentity:
    """Of a fleet, most are of one version and have few labels."""
    labels = dict(node.labels) if node.labels else _NO_LABELS
    return NodeIdentity(node_id, sys.intern(node.version), labels)
