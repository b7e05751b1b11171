"""Decisions that make a version."""

from __future__ import annotations

from typing import NamedTuple

from control_plane.services.decisions.change import AgentChange, aliased_version, find_for_change
from control_plane.services.decisions.check import check, check_words
from control_plane.services.decisions.mask import merge
from control_plane.state import Act, AgentRecord, Decision, TenantState
from voxplane.digest import content_hash
from voxplane.errors import Violation, VoxplaneError
from voxplane.names import LIVE
from voxplane.storage.v1 import log_pb2
from voxplane.v1 import agent_config_pb2, agent_pb2, revision_pb2, schema_pb2
from voxplane.v1 import agent_service_pb2 as service_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2


class _Published(NamedTuple):
    mutations: list[log_pb2.Mutation]
    agent: agent_pb2.Agent
    version: agent_pb2.AgentVersion
    revision: revision_pb2.Revision


def update_agent_config(
    state: TenantState, request: service_pb2.UpdateAgentConfigRequest, act: Act
) -> Decision[service_pb2.UpdateAgentConfigResponse]:
    """A version out of the alias' one and the masked fields. Raises
    VoxplaneError AGENT_NOT_FOUND, AGENT_DELETED, ETAG_MISMATCH,
    ALIAS_NOT_FOUND and what a bad config or mask is."""
    record = find_for_change(state, request.agent_id, request.etag)
    alias = request.alias or LIVE
    base = aliased_version(record, alias)
    config = merge(base.config, request.config, request.update_mask.paths, "update_mask")
    made = _publish(state, record, act, base, config, request.note, None if request.draft else alias)
    response = service_pb2.UpdateAgentConfigResponse(revision=made.revision)
    response.agent.CopyFrom(made.agent)
    response.version.CopyFrom(made.version)
    return Decision(made.mutations, response)


def add_schema_field(
    state: TenantState, request: service_pb2.AddSchemaFieldRequest, act: Act
) -> Decision[service_pb2.AddSchemaFieldResponse]:
    """A version with one more field. Raises VoxplaneError FIELD_EXISTS and
    what update_agent_config raises; what is wrong with the field has a path
    that begins at `field`."""
    record = find_for_change(state, request.agent_id, request.etag)
    alias = request.alias or LIVE
    base = aliased_version(record, alias)
    fields = list(base.config.schema_config.fields)
    if any(field.field_name == request.field.field_name for field in fields):
        raise _field_error(reason_pb2.ERROR_REASON_FIELD_EXISTS, "has", request.field.field_name)
    position = request.position if request.HasField("position") else len(fields)
    if position > len(fields):
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_INVALID_REQUEST,
            "the position is beyond the end of the schema",
            violations=[Violation("position", f"must be at most {len(fields)}")],
        )
    fields.insert(position, request.field)
    try:
        made = _publish(state, record, act, base, _with_fields(base.config, fields), request.note, alias)
    except VoxplaneError as error:
        raise _as_of_request(error, f"config.schema_config.fields[{position}]", "field") from error
    response = service_pb2.AddSchemaFieldResponse(
        agent=made.agent, version=made.version, revision=made.revision
    )
    return Decision(made.mutations, response)


def remove_schema_field(
    state: TenantState, request: service_pb2.RemoveSchemaFieldRequest, act: Act
) -> Decision[service_pb2.RemoveSchemaFieldResponse]:
    """A version without a field. Raises VoxplaneError FIELD_NOT_FOUND and what
    update_agent_config raises, as when another block names the field."""
    record = find_for_change(state, request.agent_id, request.etag)
    alias = request.alias or LIVE
    base = aliased_version(record, alias)
    before = base.config.schema_config.fields
    fields = [field for field in before if field.field_name != request.field_name]
    if len(fields) == len(before):
        raise _field_error(reason_pb2.ERROR_REASON_FIELD_NOT_FOUND, "has no", request.field_name)
    made = _publish(state, record, act, base, _with_fields(base.config, fields), request.note, alias)
    response = service_pb2.RemoveSchemaFieldResponse(
        agent=made.agent, version=made.version, revision=made.revision
    )
    return Decision(made.mutations, response)


def set_tracing(
    state: TenantState, request: service_pb2.SetTracingRequest, act: Act
) -> Decision[service_pb2.SetTracingResponse]:
    """A version with tracing on or off. Raises what update_agent_config
    raises."""
    record = find_for_change(state, request.agent_id, request.etag)
    alias = request.alias or LIVE
    base = aliased_version(record, alias)
    config = agent_config_pb2.AgentConfig()
    config.CopyFrom(base.config)
    config.tracing_config.enabled = request.enabled
    if request.HasField("sample_rate"):
        config.tracing_config.sample_rate = request.sample_rate
    made = _publish(state, record, act, base, config, request.note, alias)
    response = service_pb2.SetTracingResponse(agent=made.agent, version=made.version, revision=made.revision)
    return Decision(made.mutations, response)


def _publish(
    state: TenantState,
    record: AgentRecord,
    act: Act,
    base: agent_pb2.AgentVersion,
    config: agent_config_pb2.AgentConfig,
    note: str,
    alias: str | None,
) -> _Published:
    """Publish `config`, which was made out of `base`, unless it is the same."""
    content = content_hash(config)
    if content == base.content_hash:
        return _Published([], record.agent, base, state.revision_message())
    check(config)
    check_words({"note": note})
    change = AgentChange(state, record, act)
    version = change.publish(config, content, note)
    if alias is not None:
        change.point(alias, version.number)
    return _Published(change.mutations(), change.agent, version, change.revision())


def _with_fields(
    base: agent_config_pb2.AgentConfig, fields: list[schema_pb2.SchemaField]
) -> agent_config_pb2.AgentConfig:
    config = agent_config_pb2.AgentConfig()
    config.CopyFrom(base)
    config.schema_config.ClearField("fields")
    config.schema_config.fields.extend(fields)
    return config


def _field_error(reason: reason_pb2.ErrorReason, verb: str, name: str) -> VoxplaneError:
    return VoxplaneError(reason, f"the schema {verb} field {name!r}", metadata={"field": name})


def _as_of_request(error: VoxplaneError, inner: str, outer: str) -> VoxplaneError:
    """The error with paths below `inner` of the config put below `outer` of
    the request."""
    violations = [
        Violation(outer + v.field.removeprefix(inner), v.description) if v.field.startswith(inner) else v
        for v in error.violations
    ]
    return VoxplaneError(error.reason, error.message, violations=violations, metadata=error.metadata)
