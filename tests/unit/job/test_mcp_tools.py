"""Tools of real MCP servers, by both transports, over loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp, Receive, Scope, Send

from agent_node.job.tools import ToolCall, ToolSet, build_tools
from agent_node.job.tools.addresses import Gate
from agent_node.job.tools.calls import ToolFailed
from agent_node.job.tools.http_client import ANSWER_BYTES_MAX
from agent_node.providers import new_context
from tests.unit.job.tool_world import SECRET, Names, call, gate_to, secrets, site, tool
from voxplane.errors import VoxplaneError
from voxplane.v1.agent_config_pb2 import AgentConfig

PATHS = {"streamable_http": "/mcp", "sse": "/sse"}
SECONDS_MAX = 20


def shop() -> MCPServer[Any]:
    """What the server can do."""
    server = MCPServer[Any]("shop")

    @server.tool()
    def find_order(number: str, details: bool = False) -> str:
        """Finds an order."""
        return f"order {number} {'with' if details else 'without'} details"

    @server.tool()
    def break_down() -> str:
        """Fails."""
        raise ValueError("the warehouse is closed " + "x" * 5_000)

    @server.tool()
    def read_all() -> str:
        """Answers at length."""
        return "x" * (ANSWER_BYTES_MAX + 1)

    @server.tool()
    async def wait_long() -> str:
        """Never answers."""
        await asyncio.Event().wait()
        return ""

    return server


@dataclass
class McpSite:
    """A server that runs, with the headers of its requests."""

    port: int
    transport: str
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its address by name."""
        return f"http://mcp.test:{self.port}{PATHS[self.transport]}"


@asynccontextmanager
async def mcp_site(
    transport: str = "streamable_http", make: Callable[[], MCPServer[Any]] = shop, port: int = 0
) -> AsyncIterator[McpSite]:
    """A server on 127.0.0.4 for the block."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.4", port))
    made = McpSite(listening.getsockname()[1], transport)
    server = make()
    inner: ASGIApp = (
        server.sse_app(host="mcp.test") if transport == "sse" else server.streamable_http_app(host="mcp.test")
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            made.headers.append({key.decode(): value.decode() for key, value in scope["headers"]})
        await inner(scope, receive, send)

    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve(sockets=[listening]))
    while not running.started:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    try:
        yield made
    finally:
        running.should_exit = running.force_exit = True
        await asyncio.wait({task})


def gate() -> Gate:
    """A gate that knows the server by name, and lets tools in."""
    return gate_to(names=Names({"mcp.test": [["127.0.0.4"]]}), private="mcp.test")


def config(at: McpSite, *allowed: str, seconds: float = 10) -> AgentConfig:
    """A config with the server."""
    made = AgentConfig()
    server = made.mcp_servers.add(name="shop", url=at.url, transport=at.transport, allowed_tools=allowed)
    server.secret_headers["Authorization"] = "Bearer env:CRM_TOKEN"
    server.timeout.FromMilliseconds(round(seconds * 1e3))
    return made


@asynccontextmanager
async def built(
    made: AgentConfig, calls: list[ToolCall] | None = None, through: Gate | None = None
) -> AsyncIterator[ToolSet]:
    """The config's tools for the block."""
    context = new_context(secrets())
    async with asyncio.timeout(SECONDS_MAX):
        tools = await build_tools(
            made, context, gate=through or gate(), on_call=([] if calls is None else calls).append
        )
        try:
            yield tools
        finally:
            await tools.aclose()
            await context.aclose()
    assert connections() == []


def connections() -> list[str]:
    """The connections to servers that are open."""
    return [task.get_name() for task in asyncio.all_tasks() if "_run_client" in task.get_name()]


async def refusal(made: AgentConfig, through: Gate | None = None) -> tuple[str, str, str]:
    """Why the config cannot be built: the reason, the path, what is said."""
    with pytest.raises(VoxplaneError) as raised:
        async with built(made, through=through):
            pass
    (violation,) = raised.value.violations
    assert connections() == []
    return raised.value.reason_name, violation.field, violation.description


@pytest.mark.parametrize("transport", ["streamable_http", "sse"])
async def test_the_model_calls_the_tools_of_a_server(transport: str) -> None:
    """All tools are there with their schemas; a call has its answer, and every
    request has the secret header."""
    calls: list[ToolCall] = []
    async with mcp_site(transport) as at:
        async with built(config(at), calls) as tools:
            assert tools.names == ["find_order", "break_down", "read_all", "wait_long"]
            assert await call(tools, "find_order", number="7", details=True) == "order 7 with details"
            assert await call(tools, "find_order", number="8") == "order 8 without details"
        assert {each["authorization"] for each in at.headers} == {f"Bearer {SECRET}"}
    assert [(each.tool, each.kind, each.status) for each in calls] == [("find_order", "mcp", "ok")] * 2


async def test_only_allowed_tools_are_there_in_their_order() -> None:
    """allowed_tools chooses; one that the server has not got fails the build by its path."""
    async with mcp_site() as at:
        async with built(config(at, "read_all", "find_order")) as tools:
            assert tools.names == ["read_all", "find_order"]
        assert await refusal(config(at, "find_order", "refund")) == (
            "TOOLS_UNAVAILABLE",
            "mcp_servers[0].allowed_tools[1]",
            "the server has no such tool",
        )


@pytest.mark.parametrize(
    ("name", "arguments", "status"),
    [
        ("break_down", {}, "tool_error"),
        ("find_order", {"number": [1]}, "tool_error"),
        ("read_all", {}, "too_large"),
        ("wait_long", {}, "timeout"),
    ],
)
async def test_a_failure_at_the_server_is_an_error_of_that_call(
    name: str, arguments: dict[str, Any], status: str
) -> None:
    """What the server refuses, answers too long or not at all is told to the
    model in bounds, and the next call works."""
    calls: list[ToolCall] = []
    async with mcp_site() as at, built(config(at, seconds=0.5), calls) as tools:
        with pytest.raises(ToolFailed) as failed:
            await call(tools, name, **arguments)
        assert len(failed.value.message) < 1_100
        assert await call(tools, "find_order", number="7") == "order 7 without details"
    assert [each.status for each in calls] == [status, "ok"]


@pytest.mark.parametrize("transport", ["streamable_http", "sse"])
async def test_a_server_that_goes_and_comes_back_is_called_again(transport: str) -> None:
    """While it is away a call is an error; when it is back it is connected to
    anew, though it knows nothing of the session."""
    calls: list[ToolCall] = []
    async with AsyncExitStack() as held:
        async with mcp_site(transport) as at:
            tools = await held.enter_async_context(built(config(at, seconds=3), calls))
            assert await call(tools, "find_order", number="1")
        with pytest.raises(ToolFailed):
            await call(tools, "find_order", number="2")
        async with mcp_site(transport, port=at.port):
            assert await call(tools, "find_order", number="3") == "order 3 without details"
            await held.aclose()
    assert [each.status for each in calls] == ["ok", "unreachable", "ok"]


async def test_a_session_that_the_server_has_forgotten_is_made_anew() -> None:
    """What a server does not know it has not done: the call is made again in
    a new session, and the model sees nothing of it."""
    calls: list[ToolCall] = []
    async with mcp_site() as at, built(config(at), calls) as tools:
        await call(tools, "find_order", number="1")
        session = next(each["mcp-session-id"] for each in at.headers if "mcp-session-id" in each)
        headers = {"mcp-session-id": session, "accept": "application/json, text/event-stream"}
        async with httpx2.AsyncClient() as client:
            ended = await client.delete(at.url.replace("mcp.test", "127.0.0.4"), headers=headers)
        assert ended.status_code == 200
        assert await call(tools, "find_order", number="2") == "order 2 without details"
    assert [each.status for each in calls] == ["ok", "ok"]


async def test_a_server_that_is_not_there_fails_the_build() -> None:
    """A closed port, and a server that speaks another protocol, are errors of
    the server's address."""
    said = "the server cannot be reached, or does not speak MCP"
    async with mcp_site() as at:
        pass
    assert await refusal(config(at)) == ("TOOLS_UNAVAILABLE", "mcp_servers[0].url", said)
    async with site("mcp.test", "127.0.0.4") as web:
        at.port = web.port
        assert await refusal(config(at)) == ("TOOLS_UNAVAILABLE", "mcp_servers[0].url", said)
        at.transport = "sse"
        assert await refusal(config(at)) == ("TOOLS_UNAVAILABLE", "mcp_servers[0].url", said)


async def test_a_server_that_hangs_fails_the_build_after_a_bound() -> None:
    """Building does not wait longer than the server's timeout."""
    async with site("mcp.test", "127.0.0.4") as web:

        async def hang(_: Any) -> Any:
            await asyncio.Event().wait()

        web.answer = hang
        at = McpSite(web.port, "streamable_http")
        assert await refusal(config(at, seconds=0.2)) == (
            "TOOLS_UNAVAILABLE",
            "mcp_servers[0].url",
            "the server did not answer within 0.2 s",
        )


@pytest.mark.parametrize("transport", ["streamable_http", "sse"])
async def test_a_private_server_is_refused(transport: str) -> None:
    """The rule for addresses holds for MCP servers too."""
    async with mcp_site(transport) as at:
        closed = gate_to(names=Names({"mcp.test": [["127.0.0.4"]]}), private="")
        assert await refusal(config(at), closed) == (
            "TOOLS_UNAVAILABLE",
            "mcp_servers[0].url",
            "the server is on a private network, which the node does not allow",
        )
        assert at.headers == []


async def test_an_answer_without_bound_is_broken_off() -> None:
    """A server that sends without end fails the build, and memory stays."""

    async def flood(request: Any) -> Any:
        from aiohttp import web

        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for _ in range(10_000):
            await response.write(b" " * 65_536)
        return response

    async with site("mcp.test", "127.0.0.4") as web:
        web.answer = flood
        reason, path, _ = await refusal(config(McpSite(web.port, "streamable_http")))
        assert (reason, path) == ("TOOLS_UNAVAILABLE", "mcp_servers[0].url")


async def test_names_that_collide_fail_the_build() -> None:
    """A tool of a server that is called as another is blamed on the server;
    with allowed_tools the two can live together."""
    async with mcp_site() as at:
        made = config(at)
        taken = made.tools.add()
        taken.CopyFrom(tool("https://crm.test/{id}"))
        taken.name = "read_all"
        reason, path, said = await refusal(made)
        assert (reason, path) == ("BUILD_FAILED", "mcp_servers[0].allowed_tools")
        assert said == "two tools are called read_all; the other is of tools[0].name"
        made.mcp_servers[0].allowed_tools.append("find_order")
        async with built(made) as tools:
            assert tools.names == ["read_all", "find_order"]


@pytest.mark.parametrize("name", ["orders.find", "end_session", "transfer_to_sales"])
async def test_a_name_that_cannot_be_fails_the_build(name: str) -> None:
    """A name that no model takes, or that is of the session's own tools: the
    operator is told to choose among the server's."""

    def odd() -> MCPServer[Any]:
        server = MCPServer[Any]("odd")
        server.add_tool(lambda: "x", name=name, description="Finds.")
        server.add_tool(lambda: "x", name="good", description="Finds.")
        return server

    async with mcp_site(make=odd) as at:
        reason, path, said = await refusal(config(at))
        assert (reason, path) == ("BUILD_FAILED", "mcp_servers[0].allowed_tools")
        assert name in said
        async with built(config(at, "good")) as tools:
            assert tools.names == ["good"]


async def test_one_server_that_fails_closes_the_others() -> None:
    """A config with a good and a bad server is refused for the bad one, and
    nothing stays open."""
    async with mcp_site() as at, mcp_site() as gone:
        assert connections() == []
        made = config(at)
        made.mcp_servers.add(name="gone", url=gone.url.replace("/mcp", "/nowhere"))
        reason, path, _ = await refusal(made)
        assert (reason, path) == ("TOOLS_UNAVAILABLE", "mcp_servers[1].url")


async def test_a_missing_secret_fails_the_build_by_its_path() -> None:
    """No connection is made without the secret."""
    async with mcp_site() as at:
        made = config(at)
        made.mcp_servers[0].secret_headers["Authorization"] = "env:OTHER_TOKEN"
        reason, path, _ = await refusal(made)
        assert (reason, path) == ("SECRET_UNAVAILABLE", "mcp_servers[0].secret_headers.Authorization")
        assert at.headers == []
