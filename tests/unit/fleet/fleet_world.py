"""A tenant, a fleet and its nodes, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from control_plane.fleet import Fleet, node_message
from control_plane.state import BundleRecord, TenantState
from tests.unit.watch.tenant_log import TenantLog
from tests.virtual_clock import VirtualClock
from voxplane.names import AgentName, agent_name
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import node_pb2, revision_pb2

SALES = agent_name("acme", "sales")
RECEIVED = sync_pb2.CONFIG_PHASE_RECEIVED
APPLIED = sync_pb2.CONFIG_PHASE_APPLIED
FAILED = sync_pb2.CONFIG_PHASE_FAILED
REVERTED = sync_pb2.CONFIG_PHASE_REVERTED


@dataclass
class Level:
    """A level as the watch tells it."""

    state: TenantState
    unsent: frozenset[AgentName] = field(default=frozenset())

    @property
    def revision(self) -> revision_pb2.Revision:
        """The state's."""
        return self.state.revision_message()

    @property
    def bundles(self) -> Mapping[AgentName, BundleRecord]:
        """The state's."""
        return self.state.bundles


class World:
    """A tenant, a fleet and one node on a stream."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.fleet = Fleet(self.clock)
        self.log = TenantLog()
        self.log.publish("sales", "Sell.")
        self.fleet.open("s1", watch("n1"))

    def send(self, nonce: int | None, stream: str = "s1") -> None:
        """The stream moves to the newest state."""
        self.fleet.sent(stream, self.log.state.tenant_id, Level(self.log.state), (), nonce)

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
        (tenant,) = node_message(self.fleet.node("n1")).tenants
        return tenant


def watch(node: str, *, tenant: str = "acme", start: int | None = None) -> sync_pb2.WatchConfigRequest:
    """A node's request."""
    request = sync_pb2.WatchConfigRequest(tenant_id=tenant, node=sync_pb2.NodeInfo(node_id=node))
    if start is not None:
        request.start_revisions[tenant].number = start
    return request
