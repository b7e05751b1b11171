"""How nodes stand to what they should run. All of it is pure.

A node runs a bundle of the target if it runs that one or a later one. The same
is told by etag, whatever the phase says; what it runs is what it reported
APPLIED. Which bundles of the target a node is about is told by its level, as
far as that has come, and by what it asks for where it has not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from control_plane.fleet.records import NodeRecord, TenantRecord
from control_plane.fleet.scope import Scope
from control_plane.fleet.words import Word
from control_plane.state import BundleRecord
from voxplane.names import AgentName, TenantId

FOOTINGS_MAX = 64


@dataclass(frozen=True, slots=True)
class Target:
    """What the nodes should run: a tenant's bundles, all or some, at a
    revision."""

    tenant_id: TenantId
    revision: int
    bundles: Mapping[AgentName, BundleRecord]


@dataclass(frozen=True, slots=True, eq=False)
class Footing:
    """What nodes of one level and scope have to do with a target. `had` are the
    bundles that the level has just so, `later` those of which it has a later
    one, `missing` those that it still lacks. Who has acknowledged `newest` has
    acknowledged all of the first two. `level` are all of the level's bundles."""

    level: Mapping[AgentName, BundleRecord] | None
    had: Mapping[AgentName, BundleRecord]
    later: tuple[BundleRecord, ...]
    missing: tuple[BundleRecord, ...]
    newest: int

    def sent(self) -> Iterable[BundleRecord]:
        """The bundles that the nodes were sent, or have had before."""
        return (*self.had.values(), *self.later)

    def lagging(self, tenant: TenantRecord | None) -> list[BundleRecord]:
        """The bundles that one of the nodes does not run."""
        if tenant is None:
            return list(self.missing)
        found = [
            bundle
            for bundles in (self.missing, self.later)
            for bundle in bundles
            if not _runs_or_later(tenant, bundle)
        ]
        behind = tenant.behind
        if len(behind) <= len(self.had):
            found += [self.had[name] for name in behind if name in self.had]
        else:
            found += [bundle for name, bundle in self.had.items() if name in behind]
        return found

    def work(self, tenant: TenantRecord | None) -> int:
        """The look-ups that `lagging` costs, beside one for each that it finds."""
        known = tenant is None or self.level is None or tenant.behind_is_known
        again = 0 if known else 2 * len(self.level or ())
        return 10 + 2 * (len(self.missing) + len(self.later)) + again


class Standings:
    """The footings on one target. Most nodes share a few."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._footings: dict[tuple[int, bool, Scope], Footing] = {}

    def footing(self, node: NodeRecord, tenant: TenantRecord | None) -> Footing:
        """The footing of a node."""
        level = tenant.level if tenant else None
        reached = level is not None and level.revision.number >= self.target.revision
        bundles = level.bundles if level else None
        # The footing holds the bundles, so no others can have their id.
        key = (id(bundles), reached, node.scope)
        found = self._footings.get(key)
        if found is None:
            if len(self._footings) >= FOOTINGS_MAX:
                self._footings.clear()
            found = self._footings[key] = _footing(self.target, bundles, reached, node.scope)
        return found


def newest_word(tenant: TenantRecord | None, bundle: BundleRecord) -> Word | None:
    """What the node has said of the bundle, or of a later one in its place."""
    word = tenant.reports.word(bundle.name) if tenant else None
    if word is None or (word.etag != bundle.etag and word.revision < bundle.revision):
        return None
    return word


def _footing(
    target: Target, level: Mapping[AgentName, BundleRecord] | None, reached: bool, scope: Scope
) -> Footing:
    had: dict[AgentName, BundleRecord] = {}
    later: list[BundleRecord] = []
    missing: list[BundleRecord] = []
    for name, bundle in target.bundles.items():
        has = level.get(name) if level else None
        if has is not None and has.etag == bundle.etag:
            had[name] = bundle
        elif has is not None and has.revision > bundle.revision:
            later.append(bundle)
        elif not reached and scope.has(bundle):
            missing.append(bundle)
    newest = (
        max((min(each.revision, level[each.name].revision) for each in (*had.values(), *later)), default=0)
        if level
        else 0
    )
    return Footing(level, had, tuple(later), tuple(missing), newest)


def _runs_or_later(tenant: TenantRecord, bundle: BundleRecord) -> bool:
    effective = tenant.reports.effective(bundle.name)
    return effective is not None and (effective.revision > bundle.revision or tenant.reports.runs(bundle))
