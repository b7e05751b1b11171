"""Whether nodes run what they should. All of it is pure.

A node has converged when it has acknowledged the target's revision and runs
each of the target's bundles that it watches, or a later one. What it runs is
what it reported APPLIED; a bundle of the same etag is the same bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from google.rpc import status_pb2  # pyright: ignore[reportMissingTypeStubs]

from control_plane.fleet.records import REFUSED, NodeRecord, TenantRecord
from control_plane.state import BundleRecord
from voxplane.names import AgentName, TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import node_pb2

LAGGING_MAX = 100
"""Lagging bundles that are named of one node."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the nodes should run: a tenant's bundles at a revision."""

    tenant_id: TenantId
    revision: int
    bundles: Mapping[AgentName, BundleRecord]


def judge(target: Target, node: NodeRecord) -> node_pb2.NodeConvergence:
    """Whether a node runs the target."""
    tenant = node.tenant(target.tenant_id)
    acked = tenant.acked.number if tenant and tenant.acked else 0
    answer = node_pb2.NodeConvergence(node_id=node.info.node_id, acked_revision=acked)
    lagging = refused = 0
    for name, bundle in target.bundles.items():
        if node.scope is not None and name not in node.scope:
            continue
        if _runs(bundle, tenant, acked >= target.revision):
            continue
        lagging += 1
        phase, error = _word(bundle, tenant)
        refused += phase in REFUSED
        if lagging <= LAGGING_MAX:
            answer.lagging.add(name=name, phase=phase, error=error)
    answer.state = _state(node, lagging, refused, acked >= target.revision)
    return answer


def _state(node: NodeRecord, lagging: int, refused: int, acked: bool) -> node_pb2.ConvergenceState:
    if not lagging and acked:
        return node_pb2.CONVERGENCE_STATE_CONVERGED
    if not node.stream_id:
        return node_pb2.CONVERGENCE_STATE_DISCONNECTED
    if acked and lagging == refused:
        return node_pb2.CONVERGENCE_STATE_FAILED
    return node_pb2.CONVERGENCE_STATE_PENDING


def _runs(bundle: BundleRecord, tenant: TenantRecord | None, acked: bool) -> bool:
    if tenant is None:
        return False
    if acked and tenant.level is not None and bundle.name not in tenant.level.bundles:
        return True  # deleted since
    report = tenant.reports.get(bundle.name)
    if report is None or not report.effective_etag:
        return False
    if report.effective_revision >= bundle.revision:
        return True
    # The same bundle by an older number, and no word of another one since.
    applied = report.phase == sync_pb2.CONFIG_PHASE_APPLIED
    return applied and report.etag == report.effective_etag == bundle.etag


def _word(
    bundle: BundleRecord, tenant: TenantRecord | None
) -> tuple[sync_pb2.ConfigPhase, status_pb2.Status | None]:
    """What the node has said of the bundle, or of a later one in its place."""
    report = tenant.reports.get(bundle.name) if tenant else None
    if report is None or (report.etag != bundle.etag and report.revision < bundle.revision):
        return sync_pb2.CONFIG_PHASE_UNSPECIFIED, None
    return report.phase, report.error


class Rollcall:
    """Who has the target, kept up to date node by node. With fewer than
    `min_nodes` it is not over."""

    def __init__(self, target: Target, min_nodes: int) -> None:
        self._target = target
        self._min_nodes = min_nodes
        self._answers: dict[str, node_pb2.NodeConvergence] = {}
        self._open: set[str] = set()
        self._short: set[str] = set()

    def see(self, node_id: str, node: NodeRecord | None) -> None:
        """Look at a node again; None if it is not known any more."""
        self._open.discard(node_id)
        self._short.discard(node_id)
        if node is None or not node.watches(self._target.tenant_id):
            self._answers.pop(node_id, None)
            return
        answer = self._answers[node_id] = judge(self._target, node)
        if answer.state != node_pb2.CONVERGENCE_STATE_CONVERGED:
            self._short.add(node_id)
            if answer.state != node_pb2.CONVERGENCE_STATE_FAILED:
                self._open.add(node_id)

    @property
    def converged(self) -> bool:
        """Whether all nodes run the target, and enough are there."""
        return not self._short and len(self._answers) >= self._min_nodes

    @property
    def over(self) -> bool:
        """Whether waiting longer can change nothing: every node has converged
        or refused."""
        return not self._open and len(self._answers) >= self._min_nodes

    @property
    def answers(self) -> list[node_pb2.NodeConvergence]:
        """The nodes by ascending id."""
        return [answer for _, answer in sorted(self._answers.items())]
