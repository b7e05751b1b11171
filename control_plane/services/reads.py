"""The answers of AgentService that change nothing, as pure functions of
(state, request)."""

from __future__ import annotations

from control_plane.services.decisions.change import aliased_version, find, version_of
from control_plane.services.pages import last_key, last_number, page
from control_plane.state import TenantState
from voxplane.errors import Violation, VoxplaneError
from voxplane.names import LIVE
from voxplane.prompt import is_long_to_check
from voxplane.prompt import render_prompt as render
from voxplane.v1 import agent_config_pb2, agent_pb2
from voxplane.v1 import agent_service_pb2 as service_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

PREVIEW = "preview"


def get_agent(state: TenantState, request: service_pb2.GetAgentRequest) -> service_pb2.GetAgentResponse:
    """One agent, also a deleted one. Raises VoxplaneError AGENT_NOT_FOUND."""
    return service_pb2.GetAgentResponse(
        agent=find(state, request.agent_id).agent, revision=state.revision_message()
    )


def list_agents(state: TenantState, request: service_pb2.ListAgentsRequest) -> service_pb2.ListAgentsResponse:
    """Agents by ascending id. Raises VoxplaneError PAGE_TOKEN."""
    binding = f"agents {request.tenant_id} {request.show_deleted}"
    after = last_key(request.page_token, binding)
    agents = (
        record.agent
        for agent_id, record in sorted(state.agents.items())
        if agent_id > after and (request.show_deleted or not record.deleted)
    )
    found, token = page(agents, request.page_size, lambda agent: agent.agent_id, binding)
    return service_pb2.ListAgentsResponse(
        agents=found, next_page_token=token, revision=state.revision_message()
    )


def get_agent_version(
    state: TenantState, request: service_pb2.GetAgentVersionRequest
) -> service_pb2.GetAgentVersionResponse:
    """One version, by number or alias. Raises VoxplaneError AGENT_NOT_FOUND,
    VERSION_NOT_FOUND, ALIAS_NOT_FOUND."""
    record = find(state, request.agent_id)
    if request.HasField("number"):
        version = version_of(record, request.number)
    else:
        version = aliased_version(record, request.alias or LIVE)
    return service_pb2.GetAgentVersionResponse(version=version, revision=state.revision_message())


def list_agent_versions(
    state: TenantState, request: service_pb2.ListAgentVersionsRequest
) -> service_pb2.ListAgentVersionsResponse:
    """Versions, newest first. Raises VoxplaneError AGENT_NOT_FOUND,
    PAGE_TOKEN."""
    record = find(state, request.agent_id)
    binding = f"versions {request.tenant_id} {request.agent_id}"
    before = last_number(request.page_token, binding)
    numbers = sorted(record.versions, reverse=True)
    versions = (record.versions[n] for n in numbers if before is None or n < before)
    found, token = page(versions, request.page_size, _number, binding)
    return service_pb2.ListAgentVersionsResponse(
        versions=found, next_page_token=token, revision=state.revision_message()
    )


def is_long_to_render(state: TenantState, request: service_pb2.RenderPromptRequest) -> bool:
    """Whether render_prompt may take more than a few milliseconds. Raises what
    it raises for a version that is not there."""
    return is_long_to_check(_source(state, request).prompt_config)


def render_prompt(
    state: TenantState, request: service_pb2.RenderPromptRequest
) -> service_pb2.RenderPromptResponse:
    """The instructions as a call would get them. session_id and user_id are
    PREVIEW unless the variables name them. Raises VoxplaneError
    INVALID_PROMPT, and AGENT_NOT_FOUND, VERSION_NOT_FOUND, ALIAS_NOT_FOUND."""
    config = _source(state, request)
    variables = dict(request.variables)
    builtins = {"tenant_id": request.tenant_id, "agent_id": request.agent_id}
    builtins |= {name: variables.pop(name, PREVIEW) for name in ("session_id", "user_id")}
    try:
        rendered = render(config.prompt_config, variables, builtins)
    except VoxplaneError as error:
        where = "config." if request.HasField("config") else ""
        violations = [Violation(where + each.field, each.description) for each in error.violations]
        raise VoxplaneError(error.reason, error.message, violations=violations) from error
    return service_pb2.RenderPromptResponse(
        instructions=rendered.text, defaulted=rendered.defaulted, revision=state.revision_message()
    )


def _source(state: TenantState, request: service_pb2.RenderPromptRequest) -> agent_config_pb2.AgentConfig:
    source = request.WhichOneof("source")
    if source == "config":
        return request.config
    if not request.agent_id:
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_INVALID_REQUEST,
            "either an agent or a config must be named",
            violations=[Violation("agent_id", "is required without config")],
        )
    record = find(state, request.agent_id)
    if source == "number":
        return version_of(record, request.number).config
    return aliased_version(record, request.alias or LIVE).config


def _number(version: agent_pb2.AgentVersion) -> str:
    return str(version.number)
