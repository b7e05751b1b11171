"""What makes a tool callable, beyond the contract's rules: its parameters are a
JSON Schema of an object, and its address names only parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from voxplane.errors import Violation, VoxplaneError
from voxplane.v1 import agent_config_pb2, tool_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

PARAMETERS_BYTES_MAX = 16 * 1024
OPTIONS_BYTES_MAX = 8 * 1024
END_SESSION = "end_session"
TRANSFER_PREFIX = "transfer_to_"

_NAMED = re.compile(r"\{([^{}]*)\}")


def parameters_of(tool: tool_pb2.HttpTool) -> dict[str, Any]:
    """The JSON Schema of a tool's parameters; one without parameters if it is
    not set."""
    if not tool.parameters.fields:
        return {"type": "object", "properties": {}}
    return json_format.MessageToDict(tool.parameters)


def named_in_url(tool: tool_pb2.HttpTool) -> list[str]:
    """The parameters that a tool's address names, in order."""
    return _NAMED.findall(tool.url)


def check_tools(config: agent_config_pb2.AgentConfig) -> None:
    """Raises VoxplaneError(INVALID_REQUEST) with a violation for each fault of
    a tool, and for options that are too large."""
    violations = [*_faults_of_tools(config), *_large_options(config)]
    if violations:
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_INVALID_REQUEST,
            "a tool cannot be called, or options are too large",
            violations=violations,
        )


def _faults_of_tools(config: agent_config_pb2.AgentConfig) -> Iterator[Violation]:
    for index, tool in enumerate(config.tools):
        path = f"tools[{index}]"
        if tool.name == END_SESSION or tool.name.startswith(TRANSFER_PREFIX):
            yield Violation(f"{path}.name", "is the name of a tool of the session's own")
        yield from _faults_of_parameters(tool, path)


def _faults_of_parameters(tool: tool_pb2.HttpTool, path: str) -> Iterator[Violation]:
    if tool.parameters.ByteSize() > PARAMETERS_BYTES_MAX:
        yield Violation(f"{path}.parameters", f"must have at most {PARAMETERS_BYTES_MAX} bytes")
        return
    schema = parameters_of(tool)
    try:
        Draft202012Validator.check_schema(schema)
    except (SchemaError, RecursionError):
        yield Violation(f"{path}.parameters", "is not a JSON Schema")
        return
    properties: object = schema.get("properties", {})
    if schema.get("type") != "object" or not isinstance(properties, dict):
        yield Violation(f"{path}.parameters", "must be the JSON Schema of an object")
        return
    for name in named_in_url(tool):
        if name not in properties:
            yield Violation(f"{path}.url", "names a parameter that parameters does not have")


def _large_options(config: agent_config_pb2.AgentConfig) -> Iterator[Violation]:
    for field, value in config.ListFields():
        if field.is_repeated or field.message_type is None:
            continue
        yield from large_options(field.name, value)


def large_options(path: str, block: Any) -> Iterator[Violation]:
    """The options of a block at `path`, and of its fallbacks, that are too large."""
    if "options" in block.DESCRIPTOR.fields_by_name and block.options.ByteSize() > OPTIONS_BYTES_MAX:
        yield Violation(f"{path}.options", f"must have at most {OPTIONS_BYTES_MAX} bytes")
    for index, fallback in enumerate(getattr(block, "fallbacks", ())):
        yield from large_options(f"{path}.fallbacks[{index}]", fallback)
