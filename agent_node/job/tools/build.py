"""All that the model of a config may call, built."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
from livekit.agents.llm import RawFunctionTool, Toolset
from livekit.agents.llm import Tool as LiveKitTool

from agent_node.job.tools.addresses import Gate, private_hosts_of
from agent_node.job.tools.calls import Calls, OnCall, ToolCall
from agent_node.job.tools.http_client import HttpClient
from agent_node.job.tools.http_tool import TIMEOUT_SECONDS, http_tool, secret_headers
from agent_node.job.tools.session_tools import session_tools
from agent_node.providers import BuildContext
from voxplane.clock import Clock, SystemClock
from voxplane.errors import Violation, VoxplaneError
from voxplane.tools import PARAMETERS_BYTES_MAX, TOOL_NAME_CHARS_MAX, is_session_tool
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.v1.tool_pb2 import McpServer

if TYPE_CHECKING:
    from agent_node.job.tools.mcp_server import HttpMcpServer

CONNECT_SECONDS_MAX = 10.0
"""Longest wait for an MCP server while a config is built; its own timeout if
that is shorter."""
CLOSE_SECONDS_MAX = 5.0
"""Longest wait for calls that run when a tool set is closed."""

Tool = RawFunctionTool[..., Any]

_NAME = re.compile(rf"[a-zA-Z0-9_-]{{1,{TOOL_NAME_CHARS_MAX}}}")

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


def _ignore(_: ToolCall) -> None:
    """Count nothing."""


@dataclass(slots=True, eq=False)
class ToolSet:
    """The tools of one config. `tools` is what LiveKit's Agent takes; it opens
    and closes nothing of them."""

    tools: list[LiveKitTool | Toolset]
    _calls: Calls
    _client: HttpClient
    _servers: Sequence[HttpMcpServer] = field(default_factory=tuple)

    @property
    def names(self) -> list[str]:
        """What the model calls them."""
        return [each.id for each in self.tools]

    def stop(self) -> None:
        """Break off the calls that run: the session is over."""
        self._calls.stop()

    async def aclose(self) -> None:
        """Wait for calls that run, to a bound, and close all connections."""
        await self._calls.idle(CLOSE_SECONDS_MAX)
        self._calls.stop()
        await asyncio.gather(self._client.aclose(), *(server.aclose() for server in self._servers))


async def build_tools(
    config: AgentConfig,
    context: BuildContext,
    *,
    announcements: Mapping[str, str] | None = None,
    on_call: OnCall = _ignore,
    gate: Gate | None = None,
    clock: Clock | None = None,
) -> ToolSet:
    """The config's HTTP tools, the tools of its MCP servers, and those of the
    session.

    announcements: what is said before a transfer, by the agent's id.
    on_call: told of each call when it has ended.
    gate: as the node's settings have it unless it is given.

    Without MCP servers it does not wait. Raises VoxplaneError with paths of
    AgentConfig: SECRET_UNAVAILABLE, TOOLS_UNAVAILABLE if an MCP server does not
    answer, BUILD_FAILED; and then leaves nothing open.
    """
    gate = gate or Gate(private_hosts_of(os.environ))
    calls, client = Calls(clock or SystemClock(), on_call), HttpClient(gate)
    named: list[tuple[str, Tool]] = [
        ("session_config", tool) for tool in session_tools(config.session_config, announcements or {}, calls)
    ]
    for index, tool in enumerate(config.tools):
        path = f"tools[{index}]"
        made = http_tool(tool, path, context.secrets, client=client, calls=calls)
        named.append((f"{path}.name", made))
    servers: list[HttpMcpServer] = []
    try:
        if config.mcp_servers:
            named += await _of_servers(config.mcp_servers, context, gate, calls=calls, servers=servers)
        _check_names(named)
    except BaseException:
        await asyncio.gather(*(server.aclose() for server in servers))
        raise
    return ToolSet([tool for _, tool in named], calls, client, servers)


async def _of_servers(
    configs: Sequence[McpServer],
    context: BuildContext,
    gate: Gate,
    *,
    calls: Calls,
    servers: list[HttpMcpServer],
) -> list[tuple[str, Tool]]:
    """The tools of all servers, with the paths to blame for their names;
    `servers` is filled with what is to be closed."""
    mcp_server = await asyncio.to_thread(_imported)
    for index, config in enumerate(configs):
        headers = secret_headers(
            config.secret_headers, f"mcp_servers[{index}].secret_headers", context.secrets
        )
        seconds = config.timeout.ToNanoseconds() / 1e9 if config.HasField("timeout") else TIMEOUT_SECONDS
        servers.append(
            mcp_server.HttpMcpServer(config.url, config.transport, headers, seconds=seconds, gate=gate)
        )
    found = await asyncio.gather(
        *(_listed(server, f"mcp_servers[{index}].url") for index, server in enumerate(servers)),
        return_exceptions=True,  # so that none is still connecting when it is closed
    )
    listed: list[list[Tool]] = []
    for each in found:
        if isinstance(each, BaseException):
            raise each
        listed.append(each)
    named: list[tuple[str, Tool]] = []
    for index, (config, server, tools) in enumerate(zip(configs, servers, listed, strict=True)):
        path = f"mcp_servers[{index}].allowed_tools"
        for tool in _allowed(tools, config.allowed_tools, path):
            _check_tool(tool, path)
            named.append((path, server.wrapped(tool, calls)))
    return named


def _imported() -> Any:
    from agent_node.job.tools import mcp_server  # heavy, and only for configs with such servers

    return mcp_server


async def _listed(server: HttpMcpServer, path: str) -> list[Tool]:
    bound = min(server.seconds, CONNECT_SECONDS_MAX)
    try:
        async with asyncio.timeout(bound):
            await server.connect()
            return await server.tools()
    except TimeoutError:
        said = f"the server did not answer within {bound:g} s"
    except Exception as error:
        from agent_node.job.tools.mcp_server import failed_connection

        failed = failed_connection(error)
        _log.warning(
            "an MCP server cannot be used", path=path, status=failed.status, error=type(error).__name__
        )
        said = _UNUSABLE.get(failed.status, "the server cannot be reached, or does not speak MCP")
    raise _refused(reason_pb2.ERROR_REASON_TOOLS_UNAVAILABLE, path, said)


_UNUSABLE: Mapping[str, str] = {
    "address_refused": "the server is on a private network, which the node does not allow"
}


def _allowed(tools: Sequence[Tool], allowed: Sequence[str], path: str) -> list[Tool]:
    if not allowed:
        return list(tools)
    by_name = {tool.info.name: tool for tool in tools}
    for index, name in enumerate(allowed):
        if name not in by_name:
            raise _refused(
                reason_pb2.ERROR_REASON_TOOLS_UNAVAILABLE, f"{path}[{index}]", "the server has no such tool"
            )
    return [by_name[name] for name in allowed]


def _check_tool(tool: Tool, path: str) -> None:
    name, schema = tool.info.name, tool.info.raw_schema
    if not _NAME.fullmatch(name):
        said = f"models cannot call a tool {name[:TOOL_NAME_CHARS_MAX]!r}; name those that they may call"
        raise _refused(reason_pb2.ERROR_REASON_BUILD_FAILED, path, said)
    if is_session_tool(name):
        raise _refused(
            reason_pb2.ERROR_REASON_BUILD_FAILED, path, f"{name} is the name of a tool of the session's own"
        )
    if len(repr(schema)) > PARAMETERS_BYTES_MAX:
        said = f"the tool {name} has a description of more than {PARAMETERS_BYTES_MAX} bytes"
        raise _refused(reason_pb2.ERROR_REASON_BUILD_FAILED, path, said)


def _check_names(named: Sequence[tuple[str, Tool]]) -> None:
    seen: dict[str, str] = {}
    for path, tool in named:
        name = tool.info.name
        if name in seen:
            said = f"two tools are called {name}; the other is of {seen[name]}"
            raise _refused(reason_pb2.ERROR_REASON_BUILD_FAILED, path, said)
        seen[name] = path


def _refused(reason: reason_pb2.ErrorReason, path: str, said: str) -> VoxplaneError:
    return VoxplaneError(reason, f"{path}: {said}", violations=[Violation(path, said)])
