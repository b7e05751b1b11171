"""Requests that the tests of the control plane share."""

from __future__ import annotations

from control_plane.services import decisions
from control_plane.state import Act, Decision, TenantState, apply, empty
from control_plane.store import CommitMeta
from control_plane.store.chain import make_entry
from voxplane.names import TenantId
from voxplane.storage.v1 import log_pb2
from voxplane.v1 import agent_config_pb2
from voxplane.v1 import agent_service_pb2 as service_pb2

TENANT = TenantId("acme")
AGENT = "support"
NOW = 1_700_000_000.0


def config(instructions: str = "Be kind.") -> agent_config_pb2.AgentConfig:
    """A config with an LLM, a prompt and two fields."""
    made = agent_config_pb2.AgentConfig()
    made.llm_config.provider = "offline"
    made.llm_config.temperature = 0.5
    made.prompt_config.instructions = instructions
    made.schema_config.fields.add(field_name="reply", field_type="string", required=True)
    made.schema_config.fields.add(field_name="mood", field_type="string")
    return made


def create(agent_id: str = AGENT, **more: str) -> service_pb2.CreateAgentRequest:
    """A request for a new agent."""
    return service_pb2.CreateAgentRequest(
        tenant_id=TENANT, agent_id=agent_id, config=config(more.pop("instructions", "Be kind.")), **more
    )


def update(instructions: str, agent_id: str = AGENT, **more: str) -> service_pb2.UpdateAgentConfigRequest:
    """A request for other instructions."""
    request = service_pb2.UpdateAgentConfigRequest(tenant_id=TENANT, agent_id=agent_id, **more)
    request.config.prompt_config.instructions = instructions
    request.update_mask.paths.append("prompt_config.instructions")
    return request


def act(now: float = NOW) -> Act:
    """Who decides when."""
    return Act("tester", now)


def commit(state: TenantState, decision: Decision) -> TenantState:  # type: ignore[type-arg]
    """The state after a decision."""
    if not decision.mutations:
        return state
    return apply(state, entry_of(state, decision))


def entry_of(state: TenantState, decision: Decision) -> log_pb2.LogEntry:  # type: ignore[type-arg]
    """The entry of a decision on a state."""
    meta = CommitMeta("tester", "/test", NOW)
    return make_entry(state.tenant_id, state.revision + 1, decision.mutations, meta, state.head_hash).decode()


def with_agent(agent_id: str = AGENT, state: TenantState | None = None) -> TenantState:
    """A tenant with an agent."""
    before = state or empty(TENANT, "epoch")
    return commit(before, decisions.create_agent(before, create(agent_id), act()))
