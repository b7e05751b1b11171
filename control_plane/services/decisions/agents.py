"""Decisions that make an agent and take it in and out of use."""

from __future__ import annotations

import json

from control_plane.services.decisions.change import AgentChange, check_etag, find, find_for_change
from control_plane.services.decisions.check import check, check_words
from control_plane.state import Act, AgentRecord, Decision, TenantState
from voxplane.digest import content_hash
from voxplane.errors import VoxplaneError
from voxplane.names import LIVE, AgentId, agent_name
from voxplane.secrets import has_known_key
from voxplane.v1 import agent_pb2
from voxplane.v1 import agent_service_pb2 as service_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

AGENTS_PER_TENANT_MAX = 5_000


def create_agent(
    state: TenantState, request: service_pb2.CreateAgentRequest, act: Act
) -> Decision[service_pb2.CreateAgentResponse]:
    """A new agent whose first version is live. Raises VoxplaneError
    AGENT_EXISTS, LIMIT_REACHED and what a bad config is."""
    name = agent_name(request.tenant_id, request.agent_id)
    taken = state.agents.get(AgentId(request.agent_id))
    if taken is not None:
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_AGENT_EXISTS,
            f"{name} exists and is deleted; undelete it" if taken.deleted else f"{name} exists",
            metadata={"agent": name},
        )
    if len(state.agents) >= AGENTS_PER_TENANT_MAX:
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_LIMIT_REACHED,
            f"a tenant has at most {AGENTS_PER_TENANT_MAX} agents, deleted ones included",
        )
    check(request.config)
    check_words({"display_name": request.display_name, "note": request.note, **_labels(request)})
    agent = agent_pb2.Agent(
        tenant_id=request.tenant_id,
        agent_id=request.agent_id,
        display_name=request.display_name or request.agent_id,
        labels=request.labels,
    )
    agent.create_time.FromNanoseconds(round(act.now * 1e9))
    change = AgentChange(state, AgentRecord(agent, {}), act)
    version = change.publish(request.config, content_hash(request.config), request.note)
    change.point(LIVE, version.number)
    mutations = change.mutations()
    response = service_pb2.CreateAgentResponse(
        agent=change.agent, version=version, revision=change.revision()
    )
    return Decision(mutations, response)


def _labels(request: service_pb2.CreateAgentRequest) -> dict[str, str]:
    """Keys and values of the labels by their paths. No path has a key that is
    a secret."""
    values = {
        f"labels[{json.dumps(key)}]": value for key, value in request.labels.items() if not has_known_key(key)
    }
    return {"labels": " ".join(request.labels), **values}


def delete_agent(
    state: TenantState, request: service_pb2.DeleteAgentRequest, act: Act
) -> Decision[service_pb2.DeleteAgentResponse]:
    """Take an agent out of use. Raises VoxplaneError AGENT_NOT_FOUND,
    AGENT_DELETED, ETAG_MISMATCH."""
    change = AgentChange(state, find_for_change(state, request.agent_id, request.etag), act)
    change.delete()
    mutations = change.mutations()
    response = service_pb2.DeleteAgentResponse(agent=change.agent, revision=change.revision())
    return Decision(mutations, response, urgent=True)


def undelete_agent(
    state: TenantState, request: service_pb2.UndeleteAgentRequest, act: Act
) -> Decision[service_pb2.UndeleteAgentResponse]:
    """Bring an agent back. Raises VoxplaneError AGENT_NOT_FOUND,
    AGENT_NOT_DELETED, ETAG_MISMATCH."""
    record = find(state, request.agent_id)
    check_etag(state, record, request.etag)
    if not record.deleted:
        name = agent_name(state.tenant_id, request.agent_id)
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_AGENT_NOT_DELETED, f"{name} is not deleted", metadata={"agent": name}
        )
    change = AgentChange(state, record, act)
    change.agent.ClearField("delete_time")
    mutations = change.mutations()
    response = service_pb2.UndeleteAgentResponse(agent=change.agent, revision=change.revision())
    return Decision(mutations, response)
