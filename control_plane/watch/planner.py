"""Plans each transfer once for all the streams that need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from control_plane.state import TenantState
from control_plane.watch.rights import Permit
from control_plane.watch.scope import Scope
from control_plane.watch.transfer import (
    Declared,
    Difference,
    Level,
    Part,
    Transfer,
    View,
    from_declared,
    from_level,
    level_after,
    missing_contents,
    split,
    view_of,
)
from voxplane.names import AgentName, TenantId

PART_BYTES_MAX = 3 * 1024 * 1024
"""Bytes of items in one message: gRPC clients take 4 MiB unless told."""

PLANS_PER_VIEW_MAX = 1_000
STEPS_MAX = 64
DECLARED_PLANS_MAX = 32
"""Of clients that come; those that come back together declare the same."""

_From = tuple[View, int]
"""Where transfers start: what clients have, and the revision they know of."""


@dataclass(slots=True)
class _Plans:
    """The transfers to one view."""

    view: View
    differences: dict[_From, Difference] = field(default_factory=dict[_From, Difference])
    parts: dict[tuple[_From, tuple[str, ...]], tuple[Part, ...]] = field(
        default_factory=dict[tuple[_From, tuple[str, ...]], tuple[Part, ...]]
    )
    declared: dict[Declared, Transfer] = field(default_factory=dict[Declared, Transfer])
    levels: dict[Level, Transfer] = field(default_factory=dict[Level, Transfer])


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A transfer in one part from a level that many streams are at, as `permit`
    lets them see it. `is_plain` says that it adds and replaces bundles and does
    nothing else."""

    have: Level
    permit: Permit
    part: Part
    after: Level
    removed: tuple[AgentName, ...]
    is_plain: bool


@dataclass(slots=True)
class _Newest:
    state: TenantState
    plans: dict[Scope, _Plans] = field(default_factory=dict[Scope, _Plans])
    steps: dict[int, Step] = field(default_factory=dict[int, Step])
    """By the identity of the level, which the step keeps."""


class Planner:
    """A memory of pure functions. It keeps transfers to the newest state of
    each tenant only, as streams go nowhere else."""

    def __init__(self, part_bytes_max: int = PART_BYTES_MAX) -> None:
        self._part_bytes_max = part_bytes_max
        self._newest: dict[TenantId, _Newest] = {}

    def transfer(self, have: Declared | Level, state: TenantState, scope: Scope) -> Transfer:
        """What brings a client from what it has to the state."""
        plans = self._plans(state, scope)
        if isinstance(have, Declared):
            found = plans.declared.get(have)
            if found is None:
                if len(plans.declared) >= DECLARED_PLANS_MAX:
                    plans.declared.clear()
                found = plans.declared[have] = self._first(have, plans.view)
            return found
        if have.view is plans.view:
            return Transfer((), have)
        found = plans.levels.get(have)
        if found is None:
            if len(plans.levels) >= PLANS_PER_VIEW_MAX:
                for memory in (plans.levels, plans.differences, plans.parts):
                    memory.clear()
            found = plans.levels[have] = self._next(have, plans)
        return found

    def steps(self, state: TenantState) -> Mapping[int, Step]:
        """What brings streams to the state, by the identity of the levels at
        which they are: to look it up takes no comparison and no hash. More may
        come."""
        return self._to(state).steps

    def remember(self, have: Level, state: TenantState, permit: Permit, transfer: Transfer) -> None:
        """That transfer is what the next streams at that level will need."""
        if len(transfer.parts) != 1:
            return
        steps = self._to(state).steps
        if len(steps) >= STEPS_MAX:
            steps.clear()
        after = transfer.after
        is_plain = have.view.epoch == after.view.epoch and not transfer.removed
        steps[id(have)] = Step(have, permit, transfer.parts[0], after, transfer.removed, is_plain)

    def forget(self, tenant_id: TenantId) -> None:
        """Let go of a tenant that nobody watches any more."""
        self._newest.pop(tenant_id, None)

    def _to(self, state: TenantState) -> _Newest:
        newest = self._newest.get(state.tenant_id)
        if newest is None or newest.state is not state:
            newest = self._newest[state.tenant_id] = _Newest(state)
        return newest

    def _plans(self, state: TenantState, scope: Scope) -> _Plans:
        newest = self._to(state)
        plans = newest.plans.get(scope)
        if plans is None:
            if len(newest.plans) >= PLANS_PER_VIEW_MAX:
                newest.plans.clear()
            plans = newest.plans[scope] = _Plans(view_of(state, scope))
        return plans

    def _first(self, have: Declared, view: View) -> Transfer:
        difference = from_declared(have, view)
        missing = missing_contents(difference, have.contents)
        parts = split(difference, missing, view, self._part_bytes_max)
        return Transfer(parts, level_after(difference, have, view), difference.removed)

    def _next(self, have: Level, plans: _Plans) -> Transfer:
        view = plans.view
        if have.view.epoch == view.epoch and view.number < have.view.number:
            return Transfer((), have)
        start = (have.view, have.told)
        difference = plans.differences.get(start)
        if difference is None:
            difference = plans.differences[start] = from_level(have, view)
        after = level_after(difference, have, view)
        if difference.is_nothing:
            return Transfer((), after)
        key = (start, missing_contents(difference, have.known))
        parts = plans.parts.get(key)
        if parts is None:
            parts = plans.parts[key] = split(difference, key[1], view, self._part_bytes_max)
        return Transfer(parts, after, difference.removed)
