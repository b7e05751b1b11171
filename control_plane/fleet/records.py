"""What is known of one node. Sent, acked and effective are kept apart:

- sent is what the server has handed to the node's stream;
- acked is what the node has said to have taken, whole: the acknowledgement of
  a nonce covers the earlier ones, and when the last message of a tenant is
  acknowledged, so is every later level that needed no message;
- effective is what the node has last said to run.

A report replaces what is known of a bundle unless it is older: of an earlier
revision of the bundle, or of an earlier time by the node's clock. So a FAILED
stays until the node says something newer of that bundle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from google.rpc import status_pb2  # pyright: ignore[reportMissingTypeStubs]

from control_plane.state import BundleRecord
from voxplane.names import ALL_TENANTS, AgentName, TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import revision_pb2

UNACKED_MAX = 64
"""Unacknowledged messages that are remembered of a tenant and node; of more,
every second is forgotten, so that an acknowledgement counts for less."""

REFUSED = (sync_pb2.CONFIG_PHASE_FAILED, sync_pb2.CONFIG_PHASE_REVERTED)

_NEVER = 2**63


class SentLevel(Protocol):
    """Where a transfer leaves a client."""

    @property
    def revision(self) -> revision_pb2.Revision:
        """The revision that the client is level with."""
        ...

    @property
    def bundles(self) -> Mapping[AgentName, BundleRecord]:
        """The bundles that the client has."""
        ...

    @property
    def unsent(self) -> frozenset[AgentName]:
        """Those of them that the client had before its stream."""
        ...


@dataclass(slots=True)
class BundleReport:
    """What a node has said of one bundle. Times are ns of its own clock; 0 is
    none."""

    etag: str = ""
    revision: int = -1
    phase: sync_pb2.ConfigPhase = sync_pb2.CONFIG_PHASE_UNSPECIFIED
    error: status_pb2.Status | None = None
    sessions: int = 0
    time: int = 0
    effective_etag: str = ""
    effective_revision: int = 0
    effective_time: int = 0

    def take(self, status: sync_pb2.BundleStatus) -> bool:
        """Take a report; False if it is older than what is known."""
        time = status.time.ToNanoseconds() if status.HasField("time") else 0
        taken = False
        if status.phase == sync_pb2.CONFIG_PHASE_APPLIED and not 0 < time < self.effective_time:
            self.effective_etag, self.effective_revision = status.etag, status.revision
            self.effective_time = time
            taken = True
        if status.revision < self.revision:
            return taken
        if status.revision == self.revision and 0 < time < self.time:
            return taken
        self.etag, self.revision, self.phase = status.etag, status.revision, status.phase
        self.sessions, self.time = status.sessions, time
        self.error = None
        if status.HasField("error"):
            self.error = status_pb2.Status()
            self.error.CopyFrom(status.error)
        return True


@dataclass(slots=True)
class TenantRecord:
    """What a node has of one tenant."""

    level: SentLevel | None = None
    level_nonce: int = _NEVER
    acked: revision_pb2.Revision | None = None
    unacked: deque[tuple[int, revision_pb2.Revision]] = field(
        default_factory=deque[tuple[int, revision_pb2.Revision]]
    )
    reports: dict[AgentName, BundleReport] = field(default_factory=dict[AgentName, BundleReport])

    def settle(self, acked_nonce: int) -> None:
        """Bring `acked` up to date."""
        if self.level is not None and self.level_nonce <= acked_nonce:
            self.acked = self.level.revision
            self.unacked.clear()
        while self.unacked and self.unacked[0][0] <= acked_nonce:
            self.acked = self.unacked.popleft()[1]

    def sent(self, level: SentLevel, removed: Iterable[AgentName], nonce: int | None) -> None:
        """The stream has moved to a level, with a message or without."""
        if self.acked is not None and self.acked.epoch != level.revision.epoch:
            self.acked = None
            self.reports.clear()
        self.level = level
        if nonce is not None:
            self.level_nonce = nonce
            self.unacked.append((nonce, level.revision))
            if len(self.unacked) > UNACKED_MAX:
                self.unacked = deque(list(self.unacked)[1::2])
        for name in removed:
            self.reports.pop(name, None)


@dataclass(slots=True)
class NodeRecord:
    """What is known of one node. `tenant_id` and `scope` are what it watches,
    `stream_id` is empty while it holds no stream, times are s since 1970."""

    info: sync_pb2.NodeInfo
    tenant_id: str
    scope: frozenset[AgentName] | None
    stream_id: str
    connect_time: float
    last_seen: float
    declared: dict[TenantId, revision_pb2.Revision]
    acked_nonce: int = 0
    sequence: int = 0
    tenants: dict[TenantId, TenantRecord] = field(default_factory=dict[TenantId, TenantRecord])

    def watches(self, tenant_id: str) -> bool:
        """Whether the node has to do with a tenant."""
        return self.tenant_id in (ALL_TENANTS, tenant_id)

    def resume(self, before: NodeRecord) -> None:
        """Take over what the node reported on an earlier stream, of the
        tenants that it says it still has."""
        for tenant_id, old in before.tenants.items():
            if tenant_id in self.declared:
                old.settle(before.acked_nonce)
                self.tenants[tenant_id] = TenantRecord(old.level, acked=old.acked, reports=old.reports)

    def sent(
        self, tenant_id: TenantId, level: SentLevel, removed: Iterable[AgentName], nonce: int | None
    ) -> None:
        """The stream has moved to a level, with a message or without."""
        record = self.tenants.get(tenant_id)
        if record is None:
            record = self.tenants[tenant_id] = TenantRecord()
        declared = self.declared.pop(tenant_id, None)
        if declared is not None:
            if not declared.epoch:
                declared.epoch = level.revision.epoch
            record.acked = declared
        record.settle(self.acked_nonce)
        record.sent(level, removed, nonce)

    def report(self, tenant_id: TenantId, name: AgentName, status: sync_pb2.BundleStatus) -> bool:
        """Take what became of a bundle; False if it tells nothing."""
        tenant = self.tenants.get(tenant_id)
        if tenant is None or tenant.level is None or name not in tenant.level.bundles:
            return False
        report = tenant.reports.get(name)
        if report is None:
            report = tenant.reports[name] = BundleReport()
        return report.take(status)

    def tenant(self, tenant_id: TenantId) -> TenantRecord | None:
        """What the node has of a tenant, up to date; None if it was sent
        nothing."""
        record = self.tenants.get(tenant_id)
        if record is not None:
            record.settle(self.acked_nonce)
        return record
