"""Whether nodes run what they should. All of it is pure.

A node has converged when it has acknowledged the target's revision and runs
each of the target's bundles that it is about, or a later one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

from control_plane.fleet.records import NodeRecord, TenantRecord
from control_plane.fleet.standing import Standings, Target, newest_word
from control_plane.fleet.steps import WORK_OF_MESSAGE, Steps
from control_plane.state import BundleRecord
from voxplane.v1 import node_pb2

LAGGING_MAX = 100
"""Lagging bundles that are named of one node."""
LAGGING_BYTES_MAX = 1_048_576
"""Bytes of the lagging bundles that are named of all nodes together."""
NODES_BYTES_MAX = 1_048_576
"""Bytes of the nodes beside them."""
NODE_BYTES = 32
"""What a node takes beside its id."""
ITEM_BYTES_EXTRA = 4

_State = node_pb2.ConvergenceState


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a node runs the target, and how many of its bundles it does
    not."""

    node: NodeRecord
    state: _State
    acked: int
    lagging: int


def judge(standings: Standings, node: NodeRecord) -> Verdict:
    """Whether a node runs the target."""
    target = standings.target
    tenant = node.tenant(target.tenant_id)
    acked = tenant.acked.number if tenant and tenant.acked else 0
    lagging = standings.footing(node, tenant).lagging(tenant)
    if acked >= target.revision and not lagging:
        state = node_pb2.CONVERGENCE_STATE_CONVERGED
    elif not node.stream_id:
        state = node_pb2.CONVERGENCE_STATE_DISCONNECTED
    elif acked >= target.revision and all(_has_refused(tenant, bundle) for bundle in lagging):
        state = node_pb2.CONVERGENCE_STATE_FAILED
    else:
        state = node_pb2.CONVERGENCE_STATE_PENDING
    return Verdict(node, state, acked, len(lagging))


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
        return work + 2 * verdict.lagging

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

    def answer(self, into: RepeatedCompositeFieldContainer[node_pb2.NodeConvergence]) -> Steps[None]:
        """Add the nodes by ascending id. What there is no room for is left
        out: first nodes that have converged, then others."""
        room = LAGGING_BYTES_MAX
        for verdict in self._shown():
            answer = into.add(
                node_id=verdict.node.info.node_id,
                state=verdict.state,
                acked_revision=verdict.acked,
                lagging_count=verdict.lagging,
            )
            for lagging in self._lagging(verdict.node) if verdict.lagging and room > 0 else ():
                room -= lagging.ByteSize() + ITEM_BYTES_EXTRA
                if room < 0:
                    break
                answer.lagging.append(lagging)
            yield WORK_OF_MESSAGE * (1 + 2 * len(answer.lagging))

    def _lagging(self, node: NodeRecord) -> Iterator[node_pb2.LaggingBundle]:
        tenant = node.tenant(self._tenant_id)
        lagging = self._standings.footing(node, tenant).lagging(tenant)
        for bundle in sorted(lagging, key=attrgetter("name"))[:LAGGING_MAX]:
            word = newest_word(tenant, bundle)
            if word is None:
                yield node_pb2.LaggingBundle(name=bundle.name)
            else:
                yield node_pb2.LaggingBundle(name=bundle.name, phase=word.phase, error=word.error)

    def _shown(self) -> Iterator[Verdict]:
        room = NODES_BYTES_MAX
        shown: list[str] = []
        for node_ids in (self._short, self._verdicts.keys() - self._short):
            for node_id in sorted(node_ids):
                room -= NODE_BYTES + len(node_id)
                if room > 0:
                    shown.append(node_id)
        return (self._verdicts[node_id] for node_id in sorted(shown))


def _has_refused(tenant: TenantRecord | None, bundle: BundleRecord) -> bool:
    word = newest_word(tenant, bundle)
    return word is not None and word.refuses
