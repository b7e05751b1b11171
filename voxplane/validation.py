"""What makes a config valid: the rules of the contract, and those beyond it."""

from __future__ import annotations

import protovalidate
from google.protobuf.message import Message

from voxplane.errors import Violation, VoxplaneError
from voxplane.prompt import check_prompt
from voxplane.schema import compile_schema
from voxplane.secrets import secret_literals
from voxplane.v1 import agent_config_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

VIOLATIONS_MAX = 100


def violations_of_message(message: Message) -> list[Violation]:
    """Where the message breaks the rules of the contract, at most
    VIOLATIONS_MAX, with paths such as `config.schema_config.fields[2].field_name`
    or `config.prompt_config.dynamic_vars["x"]`."""
    found = protovalidate.collect_violations(message)
    return [Violation(_path(each), each.proto.message) for each in found[:VIOLATIONS_MAX]]


def check_config(config: agent_config_pb2.AgentConfig, prefix: str = "") -> None:
    """Check what the contract's rules cannot say: that the prompt renders, the
    schema compiles, defaults fit, and no key stands where a reference belongs.

    Raises one VoxplaneError with all violations; their paths are those of
    AgentConfig behind `prefix`. The reason is that of the first that fails.
    """
    reason: reason_pb2.ErrorReason | None = None
    message, violations = "", list[Violation]()
    if literals := secret_literals(config):
        reason, violations = reason_pb2.ERROR_REASON_SECRET_LITERAL, literals
        message = "a config holds references to secrets, never a secret"
    for check in (_check_prompt, _check_schema):
        try:
            check(config)
        except VoxplaneError as error:
            reason, message = (reason, message) if reason else (error.reason, error.message)
            violations += error.violations
    if reason is not None:
        placed = [Violation(f"{prefix}{v.field}", v.description) for v in violations[:VIOLATIONS_MAX]]
        raise VoxplaneError(reason, message, violations=placed)


def _check_prompt(config: agent_config_pb2.AgentConfig) -> None:
    check_prompt(config.prompt_config)


def _check_schema(config: agent_config_pb2.AgentConfig) -> None:
    compile_schema(config.schema_config, first=config.tts_config.instruction_field)


def _path(violation: protovalidate.Violation) -> str:
    path = ""
    place = violation.proto.field
    for element in place.elements if place is not None else ():
        path += f".{element.field_name}" if path else element.field_name
        subscript = element.subscript
        if subscript is None:
            continue
        match subscript.field:
            case "index":
                path += f"[{subscript.value}]"
            case "string_key":
                path += f'["{subscript.value}"]'
            case _:
                path += f"[{subscript.value}]"
    return path
