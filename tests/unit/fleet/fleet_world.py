"""A tenant, a fleet and its nodes, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from control_plane.fleet import Fleet, at_once, node_message
from control_plane.state import BundleRecord, TenantState, apply
from tests.unit.watch.tenant_log import TenantLog
from tests.virtual_clock import VirtualClock
from voxplane.names import AgentId, AgentName, agent_name
from voxplane.storage.v1 import log_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import node_pb2, revision_pb2

SALES = agent_name("acme", "sales")
RECEIVED = sync_pb2.CONFIG_PHASE_RECEIVED
APPLIED = sync_pb2.CONFIG_PHASE_APPLIED
FAILED = sync_pb2.CONFIG_PHASE_FAILED
REVERTED = sync_pb2.CONFIG_PHASE_REVERTED


@dataclass
class Level:
    """A level as the watch tells it; `only` are the bundles of a narrower
    watch."""

    state: TenantState
    unsent: frozenset[AgentName] = field(default=frozenset())
    only: frozenset[AgentName] | None = None
    _bundles: Mapping[AgentName, BundleRecord] | None = None

    @property
    def revision(self) -> revision_pb2.Revision:
        """The state's."""
        return self.state.revision_message()

    @property
    def bundles(self) -> Mapping[AgentName, BundleRecord]:
        """The state's, the same object each time."""
        if self.only is None:
            return self.state.bundles
        if self._bundles is None:
            self._bundles = {name: each for name, each in self.state.bundles.items() if name in self.only}
        return self._bundles


class World:
    """A tenant, a fleet and one node on a stream."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.fleet = Fleet(self.clock)
        self.log = TenantLog()
        self.log.publish("sales", "Sell.")
        self.fleet.open("s1", watch("n1"))

    def send(self, nonce: int | None, stream: str = "s1", only: frozenset[AgentName] | None = None) -> None:
        """The stream moves to the newest state."""
        level = Level(self.log.state, only=only)
        self.fleet.sent(stream, self.log.state.tenant_id, level, (), nonce)

    def report(
        self, nonce: str = "", *statuses: sync_pb2.BundleStatus, stream: str = "s1", sequence: int = 0
    ) -> int:
        """The node reports; returns the number of the first missing report."""
        return self.fleet.report(
            sync_pb2.ReportConfigStatusRequest(
                stream_id=stream, nonce=nonce, statuses=statuses, sequence=sequence
            )
        )

    def status(self, phase: sync_pb2.ConfigPhase, *, at: int = 0) -> sync_pb2.BundleStatus:
        """A status of the newest sales bundle, at a time of the node's clock."""
        bundle = self.log.state.bundles[SALES]
        status = sync_pb2.BundleStatus(name=SALES, etag=bundle.etag, revision=bundle.revision, phase=phase)
        if at:
            status.time.FromSeconds(at)
        if phase == FAILED:
            status.error.message = "no such model"
        return status

    def tenant(self) -> node_pb2.NodeTenant:
        """What is shown of the node and the tenant."""
        (tenant,) = shown(self.fleet).tenants
        return tenant


def label(log: TenantLog, agent: str, **labels: str) -> None:
    """Give an agent labels."""
    state = log.state
    entry = log_pb2.LogEntry(tenant_id=state.tenant_id, revision=state.revision + 1)
    changed = entry.mutations.add().put.agent
    changed.CopyFrom(state.agents[AgentId(agent)].agent)
    changed.labels.update(labels)
    changed.revision = entry.revision
    log.state = apply(state, entry)


def shown(fleet: Fleet, node: str = "n1") -> node_pb2.Node:
    """A node as the contract shows it."""
    return at_once(node_message(fleet.node(node)))


def watch(node: str, *, tenant: str = "acme", start: int | None = None) -> sync_pb2.WatchConfigRequest:
    """A node's request."""
    request = sync_pb2.WatchConfigRequest(tenant_id=tenant, node=sync_pb2.NodeInfo(node_id=node))
    if start is not None:
        request.start_revisions[tenant].number = start
    return request
