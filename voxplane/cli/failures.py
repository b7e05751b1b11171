"""What went wrong, for people and for programs; never a traceback."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from voxplane.errors import Violation, reason_of, violations_of

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_CONVERGED = 3

STATUS_DETAILS_KEY = "grpc-status-details-bin"
_HINTS = {
    "ETAG_MISMATCH": "somebody was faster: read the agent again, and retry",
    "REVISION_CONFLICT": "others changed the tenant at the same time: retry",
    "AGENT_DELETED": "bring it back by `voxplane agents undelete`",
    "AGENT_EXISTS": "change it by `voxplane agents update`",
    "AGENT_NOT_FOUND": "`voxplane agents list` shows what there is",
    "SESSION_NOT_FOUND": "`voxplane sessions list` shows what there is",
    "NODE_UNREACHABLE": "`voxplane nodes list` shows which nodes are there",
    "SECRET_LITERAL": "give a reference to the key: env:NAME or file:/path",
}


class UsageError(Exception):
    """The command was told something that cannot be; exit code 2."""

    def __init__(self, message: str, violations: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.violations = tuple(violations)


class CommandError(Exception):
    """The command cannot do what it was told; exit code 1."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class StatusError(Exception):
    """A google.rpc.Status that came as a message, not as a call's end."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Failure:
    """What is shown of an error. `retry_after` is in seconds."""

    message: str
    reason: str = ""
    code: str = ""
    violations: tuple[Violation, ...] = ()
    hint: str = ""
    retry_after: float | None = None
    exit_code: int = EXIT_FAILED

    def as_json(self) -> dict[str, Any]:
        """The failure as JSON; what is empty is left out."""
        found = {
            "code": self.code,
            "reason": self.reason,
            "message": self.message,
            "violations": [{"field": v.field, "description": v.description} for v in self.violations],
            "hint": self.hint,
            "retry_after_seconds": self.retry_after,
        }
        return {"error": {name: value for name, value in found.items() if value not in ("", [], None)}}


def failure_of(error: Exception, server: str = "") -> Failure | None:
    """What is to be shown of an error; None if it is a fault of ours."""
    match error:
        case UsageError():
            return Failure(error.message, violations=error.violations, exit_code=EXIT_USAGE)
        case CommandError():
            return Failure(error.message, hint=error.hint)
        case StatusError():
            return of_status(error.status)
        case grpc.aio.AioRpcError():
            return _of_call(error, server)
        case _:
            return None


def of_status(status: status_pb2.Status) -> Failure:
    """What is to be shown of a google.rpc.Status."""
    reason = reason_of(status)
    return Failure(
        status.message,
        reason=reason,
        code=code_pb2.Code.Name(code_pb2.Code.ValueType(status.code)) if status.code else "",
        violations=tuple(violations_of(status)),
        hint=_HINTS.get(reason, ""),
        retry_after=_retry_after(status),
    )


def _of_call(error: grpc.aio.AioRpcError, server: str) -> Failure:
    status = _status_of(error)
    if status is not None:
        return of_status(status)
    if error.code() is grpc.StatusCode.UNAVAILABLE and "connect" in (error.details() or ""):
        return Failure(
            f"nobody answers at {server}" if server else "nobody answers",
            code=error.code().name,
            hint="start one by `voxplane dev` or `voxplane serve`, or name another by --server",
        )
    return Failure(error.details() or "the call failed", code=error.code().name)


def _status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _retry_after(status: status_pb2.Status) -> float | None:
    for detail in status.details:
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return info.retry_delay.ToNanoseconds() / 1e9
    return None


def show(failure: Failure, console: Console, *, as_json: bool) -> None:
    """Print a failure: one red line, a line for each field, a hint."""
    if as_json:
        console.file.write(json.dumps(failure.as_json()) + "\n")
        return
    console.print(headline(failure), soft_wrap=True)
    for violation in failure.violations:
        field = f"[yellow]{escape(violation.field)}[/]: " if violation.field else ""
        console.print(f"  {field}{escape(violation.description)}", soft_wrap=True, highlight=False)
    if failure.retry_after is not None:
        console.print(f"  [dim]retry in {failure.retry_after:g} s[/]")
    if failure.hint:
        console.print(f"  [dim]{escape(failure.hint)}[/]", soft_wrap=True)


def headline(failure: Failure) -> Text:
    """The failure as one red line."""
    label = failure.reason or failure.code
    return Text(f"✗ {label}: {failure.message}" if label else f"✗ {failure.message}", style="red")
