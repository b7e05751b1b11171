"""What makes a tool callable, beyond the contract's rules: its parameters are a
JSON Schema of an object, its address names only parameters, its headers are
not those of the connection, and its name is its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from voxplane.errors import Violation, VoxplaneError
from voxplane.tool_schemas import fault_of_schema, parameters_of
from voxplane.tool_urls import ToolUrl, named_in, split_url
from voxplane.v1 import agent_config_pb2, tool_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

PARAMETERS_BYTES_MAX = 16 * 1024
OPTIONS_BYTES_MAX = 8 * 1024
TOOL_NAME_CHARS_MAX = 64
"""What models take."""
END_SESSION = "end_session"
TRANSFER_PREFIX = "transfer_to_"
SHOW_FIELDS = "show_fields"
"""By which a realtime model tells the fields of its reply."""
METHODS_WITHOUT_BODY = ("GET", "DELETE")
_SESSIONS_OWN = "is the name of a tool of the session's own"

CONNECTION_HEADERS = frozenset(
    (
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
"""Headers that say how a request travels, and to whom; they are the node's."""


def method_of(tool: tool_pb2.HttpTool) -> str:
    """The method of a tool's request."""
    return tool.method or "POST"


def named_in_url(tool: tool_pb2.HttpTool) -> list[str]:
    """The parameters that a tool's address names, in order."""
    return named_in(tool.url)


def check_tools(config: agent_config_pb2.AgentConfig) -> None:
    """Raises VoxplaneError(INVALID_REQUEST) with a violation for each fault of
    a tool, and for options that are too large."""
    violations = [
        *_faults_of_tools(config),
        *_faults_of_servers(config),
        *_faults_of_transfers(config),
        *_large_options(config),
    ]
    if violations:
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_INVALID_REQUEST,
            "a tool cannot be called, or options are too large",
            violations=violations,
        )


def _faults_of_tools(config: agent_config_pb2.AgentConfig) -> Iterator[Violation]:
    for index, tool in enumerate(config.tools):
        path = f"tools[{index}]"
        if is_session_tool(tool.name):
            yield Violation(f"{path}.name", _SESSIONS_OWN)
        yield from _faults_of_parameters(tool, path)
        yield from _faults_of_headers(tool.headers, f"{path}.headers")
        yield from _faults_of_headers(tool.secret_headers, f"{path}.secret_headers", tool.headers)


def is_session_tool(name: str) -> bool:
    """Whether only a session's own tools are called so."""
    return name in (END_SESSION, SHOW_FIELDS) or name.startswith(TRANSFER_PREFIX)


def _faults_of_parameters(tool: tool_pb2.HttpTool, path: str) -> Iterator[Violation]:
    if tool.parameters.ByteSize() > PARAMETERS_BYTES_MAX:
        yield Violation(f"{path}.parameters", f"must have at most {PARAMETERS_BYTES_MAX} bytes")
        return
    schema = parameters_of(tool)
    if (said := fault_of_schema(schema)) is not None:
        yield Violation(f"{path}.parameters", said)
        return
    try:
        url = split_url(tool.url)
    except ValueError as error:
        yield Violation(f"{path}.url", str(error))
        return
    for said in _faults_of_names(url, schema.get("properties", {}), method_of(tool)):
        yield Violation(f"{path}.url", said)


def _faults_of_names(url: ToolUrl, properties: dict[str, Any], method: str) -> Iterator[str]:
    if not set(url.names) <= set(properties):
        yield "names a parameter that parameters does not have"
    rest = set(properties) - set(url.names)
    if method in METHODS_WITHOUT_BODY and rest & url.query_names:
        yield "has a name in its query that is a parameter too; write its value as {name}"


def _faults_of_headers(headers: Iterable[str], path: str, others: Iterable[str] = ()) -> Iterator[Violation]:
    seen = {name.lower() for name in others}
    for name in sorted(headers):
        if name.lower() in CONNECTION_HEADERS:
            yield Violation(f"{path}.{name}", "is a header that the node sets itself")
        if name.lower() in seen:
            yield Violation(f"{path}.{name}", "is a header that is there twice")
        seen.add(name.lower())


def _faults_of_servers(config: agent_config_pb2.AgentConfig) -> Iterator[Violation]:
    for index, server in enumerate(config.mcp_servers):
        path = f"mcp_servers[{index}]"
        try:
            if split_url(server.url).names:
                yield Violation(f"{path}.url", "must be without {parameters}")
        except ValueError as error:
            yield Violation(f"{path}.url", str(error))
        yield from _faults_of_headers(server.secret_headers, f"{path}.secret_headers")
        for place, name in enumerate(server.allowed_tools):
            if is_session_tool(name):
                yield Violation(
                    f"{path}.allowed_tools[{place}]", "is the name of a tool of the session's own"
                )


def _faults_of_transfers(config: agent_config_pb2.AgentConfig) -> Iterator[Violation]:
    most = TOOL_NAME_CHARS_MAX - len(TRANSFER_PREFIX)
    for index, target in enumerate(config.session_config.transfers):
        if len(target.agent_id) > most:
            yield Violation(
                f"session_config.transfers[{index}].agent_id",
                f"must have at most {most} characters: models do not take longer names of tools",
            )


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
