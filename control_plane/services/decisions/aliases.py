"""Decisions that move an alias."""

from __future__ import annotations

from control_plane.services.decisions.change import (
    AgentChange,
    aliased_version,
    find_for_change,
    version_of,
)
from control_plane.state import Act, Decision, TenantState
from voxplane.errors import VoxplaneError
from voxplane.names import LIVE, agent_name
from voxplane.v1 import agent_service_pb2 as service_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2


def set_alias(
    state: TenantState, request: service_pb2.SetAliasRequest, act: Act
) -> Decision[service_pb2.SetAliasResponse]:
    """Point an alias at a version. Raises VoxplaneError AGENT_NOT_FOUND,
    AGENT_DELETED, ETAG_MISMATCH, VERSION_NOT_FOUND, LIMIT_REACHED."""
    record = find_for_change(state, request.agent_id, request.etag)
    version_of(record, request.version)
    aliases = record.agent.aliases
    if request.alias in aliases and aliases[request.alias].version == request.version:
        unchanged = service_pb2.SetAliasResponse(agent=record.agent, revision=state.revision_message())
        return Decision([], unchanged)
    change = AgentChange(state, record, act)
    change.point(request.alias, request.version)
    mutations = change.mutations()
    return Decision(mutations, service_pb2.SetAliasResponse(agent=change.agent, revision=change.revision()))


def rollback_alias(
    state: TenantState, request: service_pb2.RollbackAliasRequest, act: Act
) -> Decision[service_pb2.RollbackAliasResponse]:
    """Point an alias where it pointed before. Raises VoxplaneError
    AGENT_NOT_FOUND, AGENT_DELETED, ETAG_MISMATCH, ALIAS_NOT_FOUND,
    NO_EARLIER_VERSION."""
    record = find_for_change(state, request.agent_id, request.etag)
    alias = request.alias or LIVE
    aliased_version(record, alias)
    change = AgentChange(state, record, act)
    target = change.agent.aliases[alias]
    if not target.history:
        name = agent_name(state.tenant_id, request.agent_id)
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_NO_EARLIER_VERSION,
            f"{alias!r} of {name} has not pointed at another version before",
            metadata={"agent": name, "alias": alias},
        )
    target.version = target.history.pop()
    mutations = change.mutations()
    response = service_pb2.RollbackAliasResponse(
        agent=change.agent, version=version_of(record, target.version), revision=change.revision()
    )
    return Decision(mutations, response, urgent=True)
