"""Tenant state: the log applied, and the one way to change it."""

from control_plane.state.beside import BesideLoop
from control_plane.state.decision import Act, Decide, Decision, Postponed
from control_plane.state.pipeline import Change
from control_plane.state.tenant_state import (
    AgentRecord,
    BundleRecord,
    TenantState,
    apply,
    empty,
    from_snapshot,
    to_snapshot,
)
from control_plane.state.tenants import Tenants

__all__ = [
    "Act",
    "AgentRecord",
    "BesideLoop",
    "BundleRecord",
    "Change",
    "Decide",
    "Decision",
    "Postponed",
    "TenantState",
    "Tenants",
    "apply",
    "empty",
    "from_snapshot",
    "to_snapshot",
]
