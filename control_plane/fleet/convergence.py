"""Whether nodes run what they should. All of it is pure.

A node has converged when it has acknowledged the target's revision and runs
each of the target's bundles that it is about, or a later one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from control_plane.fleet.records import NodeRecord, TenantRecord
from control_plane.fleet.standing import Standings, Target, newest_word
from control_plane.fleet.steps import WORK_OF_MESSAGE, Steps
from control_plane.state import BundleRecord
from voxplane.v1 import node_pb2

LAGGING_MAX = 100
"""Lagging bundles that are named of one node."""
LAGGING_BYTES_MAX = 2 * 1_048_576
"""Bytes of the lagging bundles that are named of all nodes together."""
ANSWER_BYTES_MAX = 3 * 1_048_576
NODE_BYTES = 32
"""What a node takes in an answer beside its id."""

_State = node_pb2.ConvergenceState


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a node runs the target. `lagging` are at most LAGGING_MAX of the
    `lagging_count` bundles that it does not run."""

    node: NodeRecord
    state: _State
    acked: int
    lagging: tuple[BundleRecord, ...]
    lagging_count: int


def judge(standings: Standings, node: NodeRecord) -> Verdict:
    """Whether a node runs the target."""
    target = standings.target
    tenant = node.tenant(target.tenant_id)
    acked = tenant.acked.number if tenant and tenant.acked else 0
    lagging = standings.footing(node, tenant).lagging(tenant)
    words = (newest_word(tenant, bundle) for bundle in lagging)
    refused = sum(word is not None and word.refuses for word in words)
    if acked >= target.revision and not lagging:
        state = node_pb2.CONVERGENCE_STATE_CONVERGED
    elif not node.stream_id:
        state = node_pb2.CONVERGENCE_STATE_DISCONNECTED
    elif acked >= target.revision and len(lagging) == refused:
        state = node_pb2.CONVERGENCE_STATE_FAILED
    else:
        state = node_pb2.CONVERGENCE_STATE_PENDING
    named = sorted(lagging, key=lambda bundle: bundle.name)[:LAGGING_MAX]
    return Verdict(node, state, acked, tuple(named), len(lagging))


class Rollcall:
    """Who has the target, kept up to date node by node. With fewer than
    `min_nodes` it is not over."""

    def __init__(self, target: Target, min_nodes: int) -> None:
        self._standings = Standings(target)
        self._tenant_id = target.tenant_id
        self._min_nodes = min_nodes
        self._verdicts: dict[str, Verdict] = {}
        self._open: set[str] = set()
        self._short: set[str] = set()

    def see(self, node_id: str, node: NodeRecord | None) -> int:
        """Look at a node again; None if it is not known any more. Returns the
        work that it was."""
        self._open.discard(node_id)
        self._short.discard(node_id)
        if node is None or not node.watches(self._tenant_id):
            self._verdicts.pop(node_id, None)
            return 1
        tenant = node.tenants.get(self._tenant_id)
        work = self._standings.footing(node, tenant).work(tenant)
        verdict = self._verdicts[node_id] = judge(self._standings, node)
        if verdict.state != node_pb2.CONVERGENCE_STATE_CONVERGED:
            self._short.add(node_id)
            if verdict.state != node_pb2.CONVERGENCE_STATE_FAILED:
                self._open.add(node_id)
        return work + 5 * verdict.lagging_count

    @property
    def converged(self) -> bool:
        """Whether all nodes run the target, and enough are there."""
        return not self._short and len(self._verdicts) >= self._min_nodes

    @property
    def over(self) -> bool:
        """Whether waiting longer can change nothing: every node has converged
        or refused."""
        return not self._open and len(self._verdicts) >= self._min_nodes

    @property
    def node_count(self) -> int:
        """The nodes that there are."""
        return len(self._verdicts)

    @property
    def converged_count(self) -> int:
        """Those of them that run the target."""
        return len(self._verdicts) - len(self._short)

    def answers(self) -> Steps[list[node_pb2.NodeConvergence]]:
        """The nodes by ascending id. What ANSWER_BYTES_MAX has no room for is
        left out: first nodes that have converged, then others."""
        named: list[node_pb2.NodeConvergence] = []
        size = lagging_size = 0
        for verdict in self._in_order():
            size += NODE_BYTES + len(verdict.node.info.node_id)
            if size > ANSWER_BYTES_MAX - LAGGING_BYTES_MAX:
                break
            answer = node_pb2.NodeConvergence(
                node_id=verdict.node.info.node_id,
                state=verdict.state,
                acked_revision=verdict.acked,
                lagging_count=verdict.lagging_count,
            )
            tenant = verdict.node.tenants.get(self._tenant_id)
            for bundle in verdict.lagging:
                lagging = _lagging(bundle, tenant)
                lagging_size += lagging.ByteSize() + 4
                if lagging_size > LAGGING_BYTES_MAX:
                    break
                answer.lagging.append(lagging)
            named.append(answer)
            yield WORK_OF_MESSAGE * (1 + 2 * len(answer.lagging))
        return sorted(named, key=lambda answer: answer.node_id)

    def _in_order(self) -> Iterator[Verdict]:
        ids = sorted(self._verdicts, key=lambda node_id: (node_id not in self._short, node_id))
        return (self._verdicts[node_id] for node_id in ids)


def _lagging(bundle: BundleRecord, tenant: TenantRecord | None) -> node_pb2.LaggingBundle:
    word = newest_word(tenant, bundle)
    if word is None:
        return node_pb2.LaggingBundle(name=bundle.name)
    return node_pb2.LaggingBundle(name=bundle.name, phase=word.phase, error=word.error)
