"""What commands print: messages as JSON, and errors with their paths."""

from __future__ import annotations

import json
import sys
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from rich.console import Console
from rich.markup import escape

from voxplane.errors import reason_of, violations_of

EXIT_SERVER = 1
EXIT_USAGE = 2
EXIT_NOT_CONVERGED = 3

out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)


def to_dict(message: Message) -> dict[str, Any]:
    """The message as JSON values, by the names of the contract."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def print_json(value: object) -> None:
    """One JSON document on stdout, not folded or coloured."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def status_of(error: grpc.RpcError) -> status_pb2.Status:
    """The error's google.rpc.Status; a bare one where the server sent none."""
    if isinstance(error, grpc.aio.AioRpcError):
        found: status_pb2.Status | None = rpc_status.from_call(error)  # pyright: ignore[reportArgumentType]
        code = int(error.code().value[0])
        return found or status_pb2.Status(code=code, message=error.details() or error.code().name)
    return status_pb2.Status(code=2, message=str(error))


def print_error(status: status_pb2.Status, *, as_json: bool, server: str = "") -> None:
    """The error on stderr: its reason, a row for each bad field, a hint."""
    violations = violations_of(status)
    reason = reason_of(status) or grpc_code_name(status.code)
    if as_json:
        fields = [{"field": v.field, "description": v.description} for v in violations]
        shown = {"error": {"reason": reason, "message": status.message, "fields": fields}}
        sys.stderr.write(json.dumps(shown, ensure_ascii=False) + "\n")
        return
    err.print(f"[bold red]{escape(reason)}[/] {escape(status.message)}")
    for violation in violations:
        err.print(f"  [yellow]{escape(violation.field)}[/]: {escape(violation.description)}")
    if server and reason == "UNAVAILABLE":
        err.print(f"No control plane answers at {escape(server)}; start one: voxplane dev")
    for detail in status.details:
        info = error_details_pb2.RetryInfo()
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info):
            err.print(f"Try again in {info.retry_delay.ToMilliseconds() / 1000:g} s.")


def grpc_code_name(code: int) -> str:
    """The name of a gRPC code."""
    return next((c.name for c in grpc.StatusCode if c.value[0] == code), "UNKNOWN")
