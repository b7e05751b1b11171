"""What is known of one node. Sent, acked and effective are kept apart:

- sent is what the server has handed to the node's stream;
- acked is what the node has said to have taken, whole: the acknowledgement of
  a nonce covers the earlier ones, and when the last message of a tenant is
  acknowledged, so is every later level that needed no message;
- effective is what the node has last said to run, and has not refused since.

A report replaces what is known of a bundle unless it is older. Which of two is
older is told by where they stand, never by a clock of the node's:

- all of a stream come after all of the streams that the node had before;
- in a stream those that are counted go by their number, in whatever order they
  come, and a number that comes again says nothing;
- those that are not counted go as they come, but not back to an earlier
  revision of the bundle.

So a FAILED stays until the node says something newer of that bundle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from control_plane.fleet.reports import Reports
from control_plane.fleet.scope import Scope
from control_plane.fleet.words import Word
from control_plane.state import BundleRecord
from voxplane.names import ALL_TENANTS, AgentName, TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import revision_pb2

UNACKED_MAX = 64
_UNDECLARED = (None, "")
"""Unacknowledged messages that are remembered of a tenant and node; of more,
every second is forgotten, so that an acknowledgement counts for less."""

_NEVER = 2**63
_Name = TypeVar("_Name", bound=str)

_NONE: frozenset[AgentName] = frozenset()


class SentLevel(Protocol):
    """Where a transfer leaves a client."""

    @property
    def revision(self) -> revision_pb2.Revision:
        """The revision that the client is level with."""
        ...

    @property
    def bundles(self) -> Mapping[AgentName, BundleRecord]:
        """The bundles that the client has, or has refused. It is the same
        object for all clients that have the same."""
        ...

    @property
    def unsent(self) -> frozenset[AgentName]:
        """Those of them that the client had before its stream."""
        ...


@dataclass(slots=True)
class TenantRecord:
    """What a node has of one tenant. `refusals` are the bundles that its newest
    reports refuse."""

    level: SentLevel | None = None
    level_nonce: int = _NEVER
    acked: revision_pb2.Revision | None = None
    unacked: list[tuple[int, revision_pb2.Revision]] | tuple[()] = ()
    reports: Reports = field(default_factory=Reports)
    refusals: Set[AgentName] = _NONE
    _behind: Set[AgentName] | None = None
    _epoch: str = ""

    def settle(self, acked_nonce: int) -> None:
        """Bring `acked` up to date."""
        if self.level is not None and self.level_nonce <= acked_nonce:
            self.acked, self.unacked = self.level.revision, ()
            return
        done = 0
        for nonce, revision in self.unacked:
            if nonce > acked_nonce:
                break
            self.acked = revision
            done += 1
        if done:
            self.unacked = self.unacked[done:]

    def resume(self, acked_nonce: int) -> None:
        """The node comes back with what it has of the tenant on another
        stream."""
        self.settle(acked_nonce)
        self.level_nonce, self.unacked = _NEVER, ()

    def sent(self, level: SentLevel, removed: Iterable[AgentName], nonce: int | None) -> None:
        """The stream has moved to a level, with a message or without."""
        revision = level.revision
        epoch = revision.epoch
        if epoch != self._epoch:
            if self.level is not None:
                self.reports = Reports()
                self.refusals = _NONE
            if self.acked is not None and self.acked.epoch != epoch:
                self.acked = None
            self._epoch = epoch
        comes_back = self.level_nonce == _NEVER
        self.level, self._behind = level, None
        if nonce is not None:
            self.level_nonce = nonce
            self._wait_for(nonce, revision)
        for name in removed:
            self._drop(name)
        if comes_back or len(self.reports) > len(level.bundles):
            for name in [name for name in self.reports if name not in level.bundles]:
                self._drop(name)

    def follow(self, level: SentLevel, nonce: int, acked_nonce: int) -> None:
        """`sent`, of a level that has newer bundles than the one before, and no
        fewer."""
        if self.level_nonce <= acked_nonce or len(self.unacked) >= UNACKED_MAX:
            self.settle(acked_nonce)
        self._wait_for(nonce, level.revision)
        self.level, self._behind, self.level_nonce = level, None, nonce

    def report(self, status: sync_pb2.BundleStatus, word: Word, order: int) -> bool:
        """Take what became of a bundle; False if it tells nothing new."""
        bundle = self.level.bundles.get(AgentName(status.name)) if self.level else None
        if bundle is None:
            return False
        name = bundle.name
        if not self.reports.take(name, status, word, order):
            return False
        newest = self.reports.word(name)
        self.refusals = _with(self.refusals, name, newest is not None and newest.refuses)
        if self._behind is not None:
            self._behind = _with(self._behind, name, not self.reports.runs(bundle))
        return True

    @property
    def behind(self) -> Set[AgentName]:
        """The bundles of its level that the node does not run."""
        if self._behind is None:
            self._behind = self._look_behind() or _NONE
        return self._behind

    @property
    def behind_is_known(self) -> bool:
        """Whether `behind` costs nothing."""
        return self._behind is not None

    def _look_behind(self) -> Set[AgentName]:
        if self.level is None:
            return _NONE
        runs = self.reports.runs
        return {name for name, bundle in self.level.bundles.items() if not runs(bundle)}

    def _wait_for(self, nonce: int, revision: revision_pb2.Revision) -> None:
        if not self.unacked:
            self.unacked = [(nonce, revision)]
            return
        self.unacked.append((nonce, revision))
        if len(self.unacked) > UNACKED_MAX:
            del self.unacked[::2]

    def _drop(self, name: AgentName) -> None:
        self.reports.forget(name)
        self.refusals = _with(self.refusals, name, False)


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who a node says that it is. A message would take five times the room."""

    node_id: str
    version: str
    labels: Mapping[str, str]


@dataclass(slots=True)
class NodeRecord:
    """What is known of one node. `tenant_id` and `scope` are what it asks for,
    `stream_id` is empty while it holds no stream, times are s since 1970.
    `early` is the number of a report that told of tenants which the stream has
    not come to yet, or 0."""

    info: NodeIdentity
    tenant_id: str
    scope: Scope
    stream_id: str
    connect_time: float
    last_seen: float
    declared: dict[TenantId, tuple[int, str]]
    acked_nonce: int = 0
    sequence: int = 0
    streams_before: int = 0
    early: int = 0
    tenants: dict[TenantId, TenantRecord] = field(default_factory=dict[TenantId, TenantRecord])
    lost: Set[TenantId] = frozenset[TenantId]()

    @property
    def order(self) -> int:
        """Where the newest report stands among all of the node's."""
        return self.streams_before + self.sequence

    def watches(self, tenant_id: str) -> bool:
        """Whether the node has to do with a tenant."""
        return self.tenant_id in (ALL_TENANTS, tenant_id) and tenant_id not in self.lost

    def resume(self, before: NodeRecord) -> None:
        """Take over what the node reported on an earlier stream, of the
        tenants that it says it still has."""
        self.streams_before = before.order + 1
        for tenant_id, record in before.tenants.items():
            if tenant_id in self.declared:
                record.resume(before.acked_nonce)
                self.tenants[tenant_id] = record
        before.tenants = {}

    def sent(
        self, tenant_id: TenantId, level: SentLevel, removed: Iterable[AgentName], nonce: int | None
    ) -> None:
        """The stream has moved to a level, with a message or without."""
        number, epoch = self.declared.pop(tenant_id, _UNDECLARED) if self.declared else _UNDECLARED
        record = self.tenants.get(tenant_id)
        if record is None or (epoch and epoch != level.revision.epoch):
            record = self.tenants[tenant_id] = TenantRecord()
            self.lost = _with(self.lost, tenant_id, False)
        elif number is not None:
            record.acked = revision_pb2.Revision(number=number, epoch=level.revision.epoch)
        record.settle(self.acked_nonce)
        record.sent(level, removed, nonce)

    def follow(self, tenant_id: TenantId, level: SentLevel, nonce: int) -> bool:
        """`sent`, of a level that has newer bundles than the one before, and no
        fewer. False if there is more to it than that, and then nothing has
        happened."""
        record = self.tenants.get(tenant_id)
        if record is None or self.declared or self.early:
            return False
        record.follow(level, nonce, self.acked_nonce)
        return True

    def removed(self, tenant_id: TenantId) -> bool:
        """The stream has nothing to do with the tenant any more; False if it
        had nothing before."""
        known = self.watches(tenant_id)
        self.tenants.pop(tenant_id, None)
        self.declared.pop(tenant_id, None)
        self.lost = _with(self.lost, tenant_id, True)
        return known

    def missed(self) -> int:
        """The number of the report that told of tenants before the stream came
        to them, once it has come to all; otherwise 0."""
        if not self.early or self.declared:
            return 0
        missed, self.early = self.early, 0
        return missed

    def tenant(self, tenant_id: TenantId) -> TenantRecord | None:
        """What the node has of a tenant, up to date; None if it was sent
        nothing."""
        record = self.tenants.get(tenant_id)
        if record is not None:
            record.settle(self.acked_nonce)
        return record


def _with(names: Set[_Name], name: _Name, wanted: bool) -> Set[_Name]:
    """The names with or without one of them. The empty set is shared."""
    if (name in names) is wanted:
        return names
    if not isinstance(names, set):
        return {name}
    if wanted:
        names.add(name)
    else:
        names.discard(name)
    return names or frozenset()
