"""The one error type of Voxplane, and its mapping to google.rpc.Status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from voxplane.v1 import error_reason_pb2 as reason_pb2

DOMAIN = "voxplane.dev"

_R = reason_pb2.ErrorReason
_CODES: Mapping[reason_pb2.ErrorReason, int] = {
    reason_pb2.ERROR_REASON_INVALID_REQUEST: code_pb2.INVALID_ARGUMENT,
    reason_pb2.ERROR_REASON_INVALID_PROMPT: code_pb2.INVALID_ARGUMENT,
    reason_pb2.ERROR_REASON_INVALID_SCHEMA: code_pb2.INVALID_ARGUMENT,
    reason_pb2.ERROR_REASON_SECRET_LITERAL: code_pb2.INVALID_ARGUMENT,
    reason_pb2.ERROR_REASON_AGENT_NOT_FOUND: code_pb2.NOT_FOUND,
    reason_pb2.ERROR_REASON_AGENT_EXISTS: code_pb2.ALREADY_EXISTS,
    reason_pb2.ERROR_REASON_AGENT_DELETED: code_pb2.FAILED_PRECONDITION,
    reason_pb2.ERROR_REASON_AGENT_NOT_DELETED: code_pb2.FAILED_PRECONDITION,
    reason_pb2.ERROR_REASON_VERSION_NOT_FOUND: code_pb2.NOT_FOUND,
    reason_pb2.ERROR_REASON_ALIAS_NOT_FOUND: code_pb2.NOT_FOUND,
    reason_pb2.ERROR_REASON_NO_EARLIER_VERSION: code_pb2.FAILED_PRECONDITION,
    reason_pb2.ERROR_REASON_ETAG_MISMATCH: code_pb2.ABORTED,
    reason_pb2.ERROR_REASON_REVISION_CONFLICT: code_pb2.ABORTED,
    reason_pb2.ERROR_REASON_REQUEST_ID_REUSED: code_pb2.INVALID_ARGUMENT,
    reason_pb2.ERROR_REASON_FIELD_EXISTS: code_pb2.ALREADY_EXISTS,
    reason_pb2.ERROR_REASON_FIELD_NOT_FOUND: code_pb2.NOT_FOUND,
    reason_pb2.ERROR_REASON_REVISION_COMPACTED: code_pb2.OUT_OF_RANGE,
    reason_pb2.ERROR_REASON_REVISION_IN_FUTURE: code_pb2.OUT_OF_RANGE,
    reason_pb2.ERROR_REASON_NODE_NOT_FOUND: code_pb2.NOT_FOUND,
    reason_pb2.ERROR_REASON_STREAM_NOT_FOUND: code_pb2.NOT_FOUND,
    reason_pb2.ERROR_REASON_STORE_UNAVAILABLE: code_pb2.UNAVAILABLE,
    reason_pb2.ERROR_REASON_SHUTTING_DOWN: code_pb2.UNAVAILABLE,
    reason_pb2.ERROR_REASON_LIMIT_REACHED: code_pb2.RESOURCE_EXHAUSTED,
    reason_pb2.ERROR_REASON_INTERNAL: code_pb2.INTERNAL,
    reason_pb2.ERROR_REASON_PAGE_TOKEN: code_pb2.INVALID_ARGUMENT,
    reason_pb2.ERROR_REASON_PROVIDER_UNKNOWN: code_pb2.FAILED_PRECONDITION,
    reason_pb2.ERROR_REASON_SECRET_UNAVAILABLE: code_pb2.FAILED_PRECONDITION,
    reason_pb2.ERROR_REASON_BUILD_FAILED: code_pb2.FAILED_PRECONDITION,
    reason_pb2.ERROR_REASON_NODE_REPLACED: code_pb2.ABORTED,
    reason_pb2.ERROR_REASON_STREAM_EXPIRED: code_pb2.UNAVAILABLE,
    reason_pb2.ERROR_REASON_READER_TOO_SLOW: code_pb2.RESOURCE_EXHAUSTED,
    reason_pb2.ERROR_REASON_TRANSFERS_LIMITED: code_pb2.UNAVAILABLE,
    reason_pb2.ERROR_REASON_PERMISSION_LOST: code_pb2.PERMISSION_DENIED,
    reason_pb2.ERROR_REASON_CREDENTIAL_EXPIRED: code_pb2.UNAUTHENTICATED,
    reason_pb2.ERROR_REASON_CONFIG_STALE: code_pb2.UNAVAILABLE,
    reason_pb2.ERROR_REASON_SESSION_NOT_FOUND: code_pb2.NOT_FOUND,
    reason_pb2.ERROR_REASON_SESSION_ENDED: code_pb2.FAILED_PRECONDITION,
    reason_pb2.ERROR_REASON_NODE_UNREACHABLE: code_pb2.UNAVAILABLE,
    reason_pb2.ERROR_REASON_TOOLS_UNAVAILABLE: code_pb2.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one field; `field` is its path from the request, such
    as `config.schema_config.fields[2].field_name`."""

    field: str
    description: str


class VoxplaneError(Exception):
    """An error with a reason of the contract.

    `violations` name the fields of a bad request (or of a config that a node
    cannot build), `metadata` goes to ErrorInfo, `retry_after` is in seconds.
    """

    def __init__(
        self,
        reason: reason_pb2.ErrorReason,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after

    @property
    def code(self) -> int:
        """The google.rpc code of the reason."""
        return _CODES[self.reason]

    @property
    def reason_name(self) -> str:
        """The reason without its prefix, as ErrorInfo has it."""
        return _R.Name(self.reason).removeprefix("ERROR_REASON_")


def to_status(error: VoxplaneError) -> status_pb2.Status:
    """The error as google.rpc.Status with ErrorInfo and, where they apply,
    BadRequest, PreconditionFailure and RetryInfo."""
    status = status_pb2.Status(code=error.code, message=error.message)
    _add(
        status,
        error_details_pb2.ErrorInfo(reason=error.reason_name, domain=DOMAIN, metadata=error.metadata),
    )
    if error.violations:
        fields = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
            for v in error.violations
        ]
        _add(status, error_details_pb2.BadRequest(field_violations=fields))
    if error.code in (code_pb2.FAILED_PRECONDITION, code_pb2.ABORTED):
        failure = error_details_pb2.PreconditionFailure()
        failure.violations.add(
            type=error.reason_name, subject=error.metadata.get("agent", ""), description=error.message
        )
        _add(status, failure)
    if error.retry_after is not None:
        delay = duration_pb2.Duration(nanos=0)
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def violations_of(status: status_pb2.Status) -> list[Violation]:
    """The field violations in a status; empty if it has none."""
    found: list[Violation] = []
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found += [Violation(v.field, v.description) for v in bad.field_violations]
    return found


def reason_of(status: status_pb2.Status) -> str:
    """The reason in a status' ErrorInfo, such as `AGENT_NOT_FOUND`; empty if
    it has none."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return ""


def _add(
    status: status_pb2.Status,
    detail: (
        error_details_pb2.ErrorInfo
        | error_details_pb2.BadRequest
        | error_details_pb2.PreconditionFailure
        | error_details_pb2.RetryInfo
    ),
) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)
