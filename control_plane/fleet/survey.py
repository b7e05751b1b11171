"""What the fleet has of each of some bundles. All of it is pure.

Nodes are looked at one by one, in the order of their ids, and may come, go and
report in between: each is counted as it is when it is looked at. Nodes of one
level and scope share what that level is worth, so that a node that runs all
that it was sent costs next to nothing, however many the bundles are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from control_plane.fleet.records import NodeRecord, TenantRecord
from control_plane.fleet.standing import FOOTINGS_MAX, Footing, Standings, Target, newest_word
from control_plane.fleet.steps import WORK_OF_MESSAGE, Steps
from control_plane.state import BundleRecord
from voxplane.names import AgentName
from voxplane.v1 import node_pb2

LAGGING_NODES_MAX = 100
"""Nodes that are named of one bundle."""


@dataclass(slots=True)
class _Tally:
    """Nodes of one footing, those of them that have acknowledged all that they
    were sent, and those that have said nothing yet."""

    nodes: int = 0
    acked: int = 0
    silent: int = 0


class Survey:
    """Counts for each bundle of the target."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._standings = Standings(target)
        self._tallies: dict[Footing, _Tally] = {}
        self._nodes: Counter[AgentName] = Counter()
        self._sent: Counter[AgentName] = Counter()
        self._acked: Counter[AgentName] = Counter()
        self._lagging: Counter[AgentName] = Counter()
        self._refused: Counter[AgentName] = Counter()
        self._laggards: dict[AgentName, list[NodeRecord]] = {name: [] for name in target.bundles}
        self._unfilled = set(target.bundles)
        self.nodes = 0
        self.connected = 0

    def see(self, node: NodeRecord) -> int:
        """Count a node, once. Returns the work that it was."""
        if not node.watches(self._target.tenant_id):
            return 1
        self.nodes += 1
        self.connected += bool(node.stream_id)
        tenant = node.tenant(self._target.tenant_id)
        footing = self._standings.footing(node, tenant)
        work = footing.work(tenant)
        acked = tenant.acked.number if tenant and tenant.acked else 0
        tally = self._tally(footing)
        tally.nodes += 1
        if acked >= footing.newest:
            tally.acked += 1
        elif tenant is not None:
            self._acked.update(each.name for each in footing.sent() if _has_acked(tenant, each, acked))
            work += 5 * len(footing.had)
        if tenant is None or not tenant.reports:
            tally.silent += 1
            return work + self._name_all(footing, node)
        lagging = footing.lagging(tenant)
        for bundle in lagging:
            name = bundle.name
            self._lagging[name] += 1
            if name in tenant.refusals:
                word = newest_word(tenant, bundle)
                self._refused[name] += word is not None and word.refuses
            if name in self._unfilled:
                self._name(name, node)
        return work + 5 * len(lagging)

    def answer(self, bundle: BundleRecord) -> node_pb2.AgentFleetStatus:
        """What was counted of a bundle of the target."""
        self._flush()
        name = bundle.name
        message = node_pb2.AgentFleetStatus(
            name=name,
            etag=bundle.etag,
            revision=bundle.revision,
            nodes=self._nodes[name],
            sent=self._sent[name],
            acked=self._acked[name],
            effective=self._nodes[name] - self._lagging[name],
            refused=self._refused[name],
        )
        for node in self._laggards[name]:
            tenant = node.tenant(self._target.tenant_id)
            effective = tenant.reports.effective(name) if tenant else None
            word = newest_word(tenant, bundle)
            sent, acked = _sent_and_acked(tenant, bundle)
            message.lagging.add(
                node_id=node.info.node_id,
                connected=bool(node.stream_id),
                sent=sent,
                acked=acked,
                effective_etag=effective.etag if effective else "",
                effective_revision=effective.revision if effective else 0,
                phase=word.phase if word else None,
                error=word.error if word else None,
            )
        return message

    def _tally(self, footing: Footing) -> _Tally:
        tally = self._tallies.get(footing)
        if tally is None:
            if len(self._tallies) >= FOOTINGS_MAX:
                self._flush()
            tally = self._tallies[footing] = _Tally()
        return tally

    def _flush(self) -> None:
        for footing, tally in self._tallies.items():
            for bundle in footing.sent():
                self._nodes[bundle.name] += tally.nodes
                self._sent[bundle.name] += tally.nodes
                self._acked[bundle.name] += tally.acked
                self._lagging[bundle.name] += tally.silent
            for bundle in footing.missing:
                self._nodes[bundle.name] += tally.nodes
                self._lagging[bundle.name] += tally.silent
        self._tallies.clear()

    def _name_all(self, footing: Footing, node: NodeRecord) -> int:
        if not self._unfilled:
            return 1
        bundles = (*footing.sent(), *footing.missing)
        for bundle in bundles:
            if bundle.name in self._unfilled:
                self._name(bundle.name, node)
        return 2 * len(bundles)

    def _name(self, name: AgentName, node: NodeRecord) -> None:
        laggards = self._laggards[name]
        laggards.append(node)
        if len(laggards) >= LAGGING_NODES_MAX:
            self._unfilled.discard(name)


def survey_answers(
    survey: Survey, bundles: Iterable[BundleRecord], bytes_max: int
) -> Steps[list[node_pb2.AgentFleetStatus]]:
    """What was counted of some bundles, up to one more than `bytes_max` has
    room for."""
    answers: list[node_pb2.AgentFleetStatus] = []
    size = 0
    for bundle in bundles:
        answers.append(survey.answer(bundle))
        size += answers[-1].ByteSize()
        if size > bytes_max:
            break
        yield WORK_OF_MESSAGE * (1 + len(answers[-1].lagging))
    return answers


def _sent_and_acked(tenant: TenantRecord | None, bundle: BundleRecord) -> tuple[bool, bool]:
    """Whether a node was sent the bundle or a later one, and has said so."""
    has = tenant.level.bundles.get(bundle.name) if tenant and tenant.level else None
    if tenant is None or has is None or (has.etag != bundle.etag and has.revision <= bundle.revision):
        return False, False
    return True, _has_acked(tenant, bundle, tenant.acked.number if tenant.acked else 0)


def _has_acked(tenant: TenantRecord, bundle: BundleRecord, acked: int) -> bool:
    """Whether a node that was sent the bundle has acknowledged it."""
    if tenant.level is None:
        return False
    # The same bundle may have been sent by an earlier number.
    sent = tenant.level.bundles[bundle.name].revision
    return acked >= min(sent, bundle.revision) or bundle.name in tenant.level.unsent
