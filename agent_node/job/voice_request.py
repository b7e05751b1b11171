"""Who calls whom: the JSON in a LiveKit job's metadata."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from voxplane.errors import Violation, VoxplaneError
from voxplane.node.v1.relay_service_pb2 import CallerContext
from voxplane.v1 import error_reason_pb2 as reason_pb2

METADATA_CHARS_MAX = 64 * 1024

_Id = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
_VariableName = Annotated[str, Field(max_length=63)]
_VariableValue = Annotated[str, Field(max_length=4000)]


class _Metadata(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    tenant: _Id
    agent: _Id
    user: Annotated[str, Field(max_length=200)] = ""
    alias: Annotated[str, Field(pattern=r"^([a-z][a-z0-9_-]{0,62})?$")] = ""
    variables: Annotated[dict[_VariableName, _VariableValue], Field(max_length=100)] = Field(
        default_factory=dict[str, str]
    )
    session: Annotated[str, Field(pattern=r"^([a-zA-Z0-9][a-zA-Z0-9_.:-]{0,127})?$")] = ""
    node: Annotated[str, Field(max_length=128)] = ""


@dataclass(frozen=True, slots=True)
class VoiceRequest:
    """What a job is for. `node` is the only node that is to take it; empty means any."""

    caller: CallerContext
    node: str = ""


def caller_of(metadata: str, job_id: str) -> CallerContext:
    """The caller of a job; see request_of."""
    return request_of(metadata, job_id).caller


def request_of(metadata: str, job_id: str) -> VoiceRequest:
    """What the job's metadata asks for: {"tenant", "agent", "user", "alias",
    "variables", "session", "node"}; tenant and agent are required. Without a
    session the job's id is the session's.

    Raises VoxplaneError(INVALID_REQUEST) with paths such as `metadata.tenant`;
    it repeats nothing of what the caller sent.
    """
    if len(metadata) > METADATA_CHARS_MAX:
        raise _refused([Violation("metadata", f"has more than {METADATA_CHARS_MAX} characters")])
    try:
        parsed = _Metadata.model_validate_json(metadata)
    except ValidationError as error:
        # a location may end with the caller's own key, as a variable's name
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise _refused(
            [Violation(".".join(["metadata", *map(str, each["loc"][:1])]), each["msg"]) for each in found]
        ) from None
    caller = CallerContext(
        session_id=parsed.session or job_id,
        tenant_id=parsed.tenant,
        agent_id=parsed.agent,
        user_id=parsed.user,
        alias=parsed.alias,
        variables=parsed.variables,
    )
    return VoiceRequest(caller, parsed.node)


def metadata_of(request: VoiceRequest) -> str:
    """The metadata of a job that takes a session over."""
    caller = request.caller
    metadata = {
        "tenant": caller.tenant_id,
        "agent": caller.agent_id,
        "user": caller.user_id,
        "alias": caller.alias,
        "variables": dict(caller.variables),
        "session": caller.session_id,
        "node": request.node,
    }
    return json.dumps({key: value for key, value in metadata.items() if value}, ensure_ascii=False)


def _refused(violations: list[Violation]) -> VoxplaneError:
    said = "; ".join(f"{each.field}: {each.description}" for each in violations[:5])
    return VoxplaneError(
        reason_pb2.ERROR_REASON_INVALID_REQUEST,
        f"the job's metadata must be a JSON object with tenant and agent: {said}",
        violations=violations,
    )
