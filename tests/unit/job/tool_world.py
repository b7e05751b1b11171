"""Servers on this machine that tools call, each on a loopback address of its
own and under a name that only the test's lookup knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from livekit.agents.llm import RawFunctionTool

from agent_node.job.tools import OnCall, ToolSet, build_tools
from agent_node.job.tools.addresses import Gate, private_hosts
from agent_node.providers import SecretResolver, new_context
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.v1.tool_pb2 import HttpTool

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SECRET = "top-secret-value"


@dataclass
class Seen:
    """A request as the server got it."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Site:
    """A server; `answer` says what it answers."""

    name: str
    address: str
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    answer: Handler | None = None

    @property
    def url(self) -> str:
        """Its address by name."""
        return f"http://{self.name}:{self.port}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Record the request and answer it."""
        self.seen.append(Seen(request.method, request.raw_path, dict(request.headers), await request.read()))
        if self.answer is None:
            return web.json_response({"name": self.name})
        return await self.answer(request)


@asynccontextmanager
async def site(name: str, address: str) -> AsyncIterator[Site]:
    """A server that runs for the block."""
    made = Site(name, address)
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    place = web.TCPSite(runner, address, 0)
    await place.start()
    made.port = runner.addresses[0][1]
    try:
        yield made
    finally:
        await runner.cleanup()


class Names:
    """A lookup: each name has the addresses of its turns, the last for ever."""

    def __init__(self, names: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self._names = names
        self.asked: Counter[str] = Counter()

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses of the name's next turn."""
        turns = self._names.get(host)
        if turns is None:
            raise OSError(f"no such host: {host}")
        self.asked[host] += 1
        return turns[min(self.asked[host], len(turns)) - 1]


def gate_to(*sites: Site, private: str | None = None, names: Names | None = None) -> Gate:
    """A gate that knows the sites by name; all may be private unless `private` says which."""
    known = names or Names({each.name: [[each.address]] for each in sites})
    allowed = ",".join(each.name for each in sites) if private is None else private
    return Gate(private_hosts(allowed), known)


def tool(url: str, **fields: Any) -> HttpTool:
    """A tool with the parameters id and note, of which id is required."""
    parameters = fields.pop("parameters", None)
    headers = fields.pop("headers", {})
    secret_headers = fields.pop("secret_headers", {})
    made = HttpTool(name="look_up", description="Looks up.", url=url, **fields)
    made.headers.update(headers)
    made.secret_headers.update(secret_headers)
    made.parameters.update(
        parameters
        or {
            "type": "object",
            "properties": {"id": {"type": "string"}, "note": {"type": "string"}},
            "required": ["id"],
        }
    )
    return made


def secrets() -> SecretResolver:
    """A node that has one secret."""
    return SecretResolver(environ={"CRM_TOKEN": SECRET})


@asynccontextmanager
async def tool_set(*tools: HttpTool, gate: Gate, on_call: OnCall = lambda _: None) -> AsyncIterator[ToolSet]:
    """The tools, built for the block."""
    context = new_context(secrets())
    made = await build_tools(AgentConfig(tools=tools), context, gate=gate, on_call=on_call)
    try:
        yield made
    finally:
        await made.aclose()
        await context.aclose()


async def call(tools: ToolSet, /, name: str = "look_up", **arguments: Any) -> Any:
    """What LiveKit does when the model calls a tool."""
    found = next(each for each in tools.tools if each.id == name)
    assert isinstance(found, RawFunctionTool)
    return await found(raw_arguments=arguments)
