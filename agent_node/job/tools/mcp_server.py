"""One server of the Model Context Protocol, held for a session. Importing it
takes half a second and 20 MB: only where a config has such servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, cast

import httpx2
import mcp.types
from livekit.agents import ToolError
from livekit.agents.llm import RawFunctionTool, function_tool
from livekit.agents.llm.mcp import MCPServer, MCPToolResultContext
from mcp import MCPError
from mcp.client.sse import sse_client
from mcp.client.streamable_http import MCP_SESSION_ID, streamable_http_client

from agent_node.job.tools.addresses import Gate, was_refused
from agent_node.job.tools.calls import Calls, ToolFailed
from agent_node.job.tools.gated_transport import GatedTransport
from agent_node.job.tools.http_client import (
    ADDRESS_REFUSED,
    ANSWER_BYTES_MAX,
    TIMEOUT,
    TOO_LARGE,
    UNREACHABLE,
)

TOOLS_MAX = 500
"""Of one server, before allowed_tools."""
SILENCE_SECONDS_MAX = 300.0
"""Longest silence of a stream that the server keeps open."""
CLOSE_SECONDS_MAX = 2.0
ERROR_CHARS_MAX = 1_000

SSE = "sse"
NOT_FOUND = 404
REFUSED_BY_SERVER = "tool_error"

Tool = RawFunctionTool[..., Any]


class HttpMcpServer(MCPServer):
    """LiveKit's MCP server, over connections that the gate allows. One that is
    lost is made again by the next call."""

    def __init__(
        self, url: str, transport: str, headers: Mapping[str, str], *, seconds: float, gate: Gate
    ) -> None:
        # the bound of a call is kept here, so that its end is told to the server
        super().__init__(client_session_timeout_seconds=seconds + 1, tool_result_resolver=_text_of)
        self._url = url
        self._transport = transport
        self._headers = dict(headers)
        self._gate = gate
        self._connecting = asyncio.Lock()
        self._lost = asyncio.Event()
        self._forgotten = False
        self.seconds = seconds

    def client_streams(self) -> AbstractAsyncContextManager[Any]:
        """See MCPServer."""
        if self._transport == SSE:
            return sse_client(
                self._url,
                headers=self._headers,
                timeout=self.seconds,
                sse_read_timeout=SILENCE_SECONDS_MAX,
                httpx_client_factory=self._http_client,
            )
        return self._streamable()

    @asynccontextmanager
    async def _streamable(self) -> AsyncGenerator[Any]:
        timeout = httpx2.Timeout(self.seconds, read=SILENCE_SECONDS_MAX)
        async with (
            self._http_client(self._headers, timeout) as client,
            streamable_http_client(self._url, http_client=client) as streams,
        ):
            yield streams

    def _http_client(
        self,
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
    ) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            headers=headers,
            timeout=timeout,
            auth=auth,
            transport=GatedTransport(self._gate, self._lost.set, one_stream=self._transport == SSE),
            trust_env=False,
            follow_redirects=False,
            event_hooks={"response": [self._look_at]},
        )

    async def _look_at(self, response: httpx2.Response) -> None:
        """A server that does not know the session any more answers so."""
        if response.status_code == NOT_FOUND and MCP_SESSION_ID in response.request.headers:
            self._forgotten = True
            self._lost.set()

    async def connect(self) -> None:
        """Be connected. Raises what the connection raises."""
        async with self._connecting:
            if self._lost.is_set():
                await self.aclose()
                self._lost.clear()
                self._forgotten = False
            if not self.initialized:
                await self.initialize()

    async def aclose(self) -> None:
        """Close the connection, or leave it after a bound."""
        task, self._client_task = self._client_task, None
        if task is None:
            return
        self._closing_ev.set()
        await asyncio.wait({task}, timeout=CLOSE_SECONDS_MAX)
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task
        self._closing_ev.clear()

    async def tools(self) -> list[Tool]:
        """What the server has, once it is connected."""
        return list(await self.list_tools())  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]

    async def _list_raw_tools(self) -> list[mcp.types.Tool]:
        """See MCPServer; all pages."""
        assert self._client is not None
        found: list[mcp.types.Tool] = []
        params: mcp.types.PaginatedRequestParams | None = None
        while len(found) < TOOLS_MAX:
            page = await self._client.list_tools(params=params)
            found += page.tools
            if not page.next_cursor:
                break
            params = mcp.types.PaginatedRequestParams(cursor=page.next_cursor)
        return found[:TOOLS_MAX]

    def wrapped(self, tool: Tool, calls: Calls) -> Tool:
        """A tool of this server as what a model may call."""

        async def call(raw_arguments: dict[str, Any]) -> str:
            return await calls.run(tool.info.name, "mcp", self._call(tool, raw_arguments))

        return function_tool(call, raw_schema=tool.info.raw_schema)

    async def _call(self, tool: Tool, arguments: dict[str, Any]) -> str:
        try:
            async with asyncio.timeout(self.seconds):
                said = await self._ask(tool, arguments)
        except TimeoutError:
            raise ToolFailed(
                TIMEOUT, f"There was no answer within {self.seconds:g} s. Whether it was done is not known."
            ) from None
        if len(said.encode(errors="replace")) > ANSWER_BYTES_MAX:
            raise ToolFailed(TOO_LARGE, f"The answer has more than {ANSWER_BYTES_MAX} bytes. Ask for less.")
        return said

    async def _ask(self, tool: Tool, arguments: dict[str, Any], *, again: bool = True) -> str:
        try:
            await self.connect()
        except Exception as error:
            raise failed_connection(error) from None
        try:
            return await self._unless_lost(tool(raw_arguments=arguments))
        except MCPError as error:
            if self._forgotten and again:
                # what the server does not know it has not done
                return await self._ask(tool, arguments, again=False)
            if error.error.code == mcp.types.CONNECTION_CLOSED:
                self._lost.set()
                raise _lost_connection() from None
            raise ToolFailed(REFUSED_BY_SERVER, _short(f"The tool failed: {error}")) from None
        except ToolFailed:
            raise
        except ToolError as error:
            raise ToolFailed(REFUSED_BY_SERVER, _short(error.message)) from None

    async def _unless_lost(self, work: Coroutine[Any, Any, str]) -> str:
        """The outcome of the work. Raises ToolFailed when the connection goes:
        by SSE nothing else would end the work."""
        task, lost = asyncio.create_task(work), asyncio.create_task(self._lost.wait())
        try:
            await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and not self._forgotten:
                raise _lost_connection()
            return await task
        finally:
            lost.cancel()
            task.cancel()


def _lost_connection() -> ToolFailed:
    return ToolFailed(UNREACHABLE, "The connection to the tool's server was lost.")


def failed_connection(error: Exception) -> ToolFailed:
    """Why there is no connection, without the library's words."""
    if any(was_refused(each) for each in _leaves(error)):
        return ToolFailed(ADDRESS_REFUSED, "The tool's address is not allowed.")
    return ToolFailed(UNREACHABLE, "The tool's server cannot be reached.")


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    within = cast("BaseExceptionGroup[BaseException]", error).exceptions
    return [leaf for each in within for leaf in _leaves(each)]


def _text_of(context: MCPToolResultContext) -> str:
    parts = [
        each.text if isinstance(each, mcp.types.TextContent) else f"[{each.type}]"
        for each in context.result.content
    ]
    if not parts and context.result.structured_content is not None:
        return json.dumps(context.result.structured_content, ensure_ascii=False)
    return "\n".join(parts) or "Done, without content."


def _short(text: str) -> str:
    return text if len(text) <= ERROR_CHARS_MAX else f"{text[:ERROR_CHARS_MAX]}…"
