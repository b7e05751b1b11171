"""The tools of an agent. Their code stays where it is: a config can only say how
to call it, by HTTP or MCP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import json_format
from livekit.agents import llm
from livekit.agents.llm.utils import build_legacy_openai_schema

from voxplane.v1.agent_config_pb2 import AgentConfig

Notes = list[str]


def read_tools(
    tools: Iterable[Any], servers: Iterable[Any], url: str, config: AgentConfig, notes: Notes
) -> None:
    """The agent's tools and MCP servers. With `url` each function is declared as a POST to url/name."""
    for tool in tools:
        match tool:
            case llm.FunctionTool() | llm.RawFunctionTool() if url:
                _declare(tool, url, config)
            case llm.FunctionTool() | llm.RawFunctionTool():
                notes.append(
                    f"tool {tool.id}: it is Python. Serve it over HTTP and give --tools-url, "
                    "or use a tool of the config's own"
                )
            case llm.Toolset() if hasattr(tool, "_mcp_server"):
                _add_server(getattr(tool, "_mcp_server", None), tool.id, config, notes)
            case llm.Toolset():
                read_tools(tool.tools, (), url, config, notes)
            case _:
                notes.append(f"tool {getattr(tool, 'id', tool)}: {type(tool).__name__} has no counterpart")
    for number, server in enumerate(servers, 1):
        _add_server(server, f"server-{number}", config, notes)


def _declare(tool: Any, url: str, config: AgentConfig) -> None:
    if isinstance(tool, llm.RawFunctionTool):
        said = tool.info.raw_schema
    else:
        said = build_legacy_openai_schema(tool)["function"]
    declared = config.tools.add(name=tool.id, url=f"{url.rstrip('/')}/{tool.id}")
    declared.description = (said.get("description") or f"Calls {tool.id}.").strip()
    json_format.ParseDict(_bare(said["parameters"]), declared.parameters)


def _bare(schema: Any) -> Any:
    """The schema without the titles that pydantic gives to everything."""
    if not isinstance(schema, dict):
        return [_bare(each) for each in schema] if isinstance(schema, list) else schema
    properties = schema.get("properties")
    bare = {name: _bare(value) for name, value in schema.items() if name not in ("title", "properties")}
    if properties is not None:
        bare["properties"] = {name: _bare(value) for name, value in properties.items()}
    return bare


def _add_server(server: Any, name: str, config: AgentConfig, notes: Notes) -> None:
    url = getattr(server, "url", "")
    if not url:
        notes.append(f"MCP server {name}: only servers with an address can be named in a config")
        return
    declared = config.mcp_servers.add(name=name.lower().replace("_", "-"), url=url)
    if not getattr(server, "_use_streamable_http", True):
        declared.transport = "sse"
    if allowed := getattr(server, "_allowed_tools", None):
        declared.allowed_tools.extend(sorted(allowed))
    if getattr(server, "_headers", None):
        notes.append(
            f"MCP server {name}: its headers may hold a secret and are not read; give secret_headers"
        )
