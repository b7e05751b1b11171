"""The requests of tools: one after the other where it is redirected, to
addresses that the gate allows, bounded in time and in size."""

from __future__ import annotations

import asyncio
import codecs
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from agent_node.job.tools.addresses import Gate, GateResolver, was_refused
from agent_node.job.tools.calls import ToolFailed
from agent_node.providers.context import ssl_context
from voxplane.tool_urls import PORTS, Origin

ANSWER_BYTES_MAX = 32 * 1024
"""Of a body, as it is after decompression."""
CHUNK_BYTES = 16 * 1024
REDIRECTS_MAX = 3
CONNECTIONS_MAX = 20
KEEPALIVE_SECONDS = 4
"""Shorter than most servers' own: a POST must not meet a connection that its
server is about to close."""

TIMEOUT = "timeout"
UNREACHABLE = "unreachable"
ADDRESS_REFUSED = "address_refused"
REDIRECT_REFUSED = "redirect_refused"
TOO_LARGE = "too_large"
UNREADABLE = "unreadable"

_MOVED = (301, 302, 303, 307, 308)
_BECOMES_GET = {301: ("POST",), 302: ("POST",), 303: ("POST", "PUT", "PATCH", "DELETE")}
_CHARSETS = ("utf-8", "ascii", "iso8859-1", "iso8859-15", "cp1252", "utf-16")
_CREDENTIALS = ("authorization", "cookie")


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What is asked.

    target: encoded path and query. secret_headers go to the origin alone.
    redirect_hosts: HOST or HOST:PORT, to which it may be redirected besides.
    """

    method: str
    origin: Origin
    target: str
    headers: Mapping[str, str]
    secret_headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    seconds: float = 10.0
    redirect_hosts: frozenset[str] = frozenset()

    @property
    def url(self) -> URL:
        """The whole address."""
        scheme, host, port = self.origin
        shown = f"[{host}]" if ":" in host else host
        where = shown if port == PORTS[scheme] else f"{shown}:{port}"
        return URL(f"{scheme}://{where}{self.target}", encoded=True)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came back. `whole` is false if the text was longer."""

    status: int
    text: str
    whole: bool


class HttpClient:
    """The connections of one tool set; none is made before the first request.

    It keeps no cookies, uses no proxy, and takes nothing from the environment.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._session: aiohttp.ClientSession | None = None

    async def send(self, request: HttpRequest) -> HttpAnswer:
        """The answer, whatever its status. Raises ToolFailed."""
        try:
            async with asyncio.timeout(request.seconds):
                return await self._follow(request)
        except TimeoutError:
            raise ToolFailed(
                TIMEOUT,
                f"There was no answer within {request.seconds:g} s. Whether it was done is not known.",
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            if was_refused(error):
                raise ToolFailed(ADDRESS_REFUSED, "The tool's address is not allowed.") from None
            raise ToolFailed(UNREACHABLE, "The tool's server cannot be reached.") from None
        except (zlib.error, ValueError):
            raise ToolFailed(UNREADABLE, "The answer cannot be read.") from None

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _follow(self, request: HttpRequest) -> HttpAnswer:
        method, url, body = request.method, request.url, request.body
        for _ in range(REDIRECTS_MAX + 1):
            self._gate.check(url.host or "", url.port or 0)
            headers = _headers(request, origin_of(url))
            async with self._opened().request(
                method, url, headers=headers, data=body, allow_redirects=False
            ) as response:
                if response.status not in _MOVED or "Location" not in response.headers:
                    return await _answer(response)
                url = next_url(request, url, response.headers["Location"])
                if method in _BECOMES_GET.get(response.status, ()):
                    method, body = "GET", None
        raise ToolFailed(REDIRECT_REFUSED, f"The server redirects more than {REDIRECTS_MAX} times.")

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=GateResolver(self._gate),
                ssl=ssl_context(),
                limit=CONNECTIONS_MAX,
                keepalive_timeout=KEEPALIVE_SECONDS,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
                headers={"User-Agent": "voxplane", "Accept-Encoding": "gzip"},
            )
        return self._session


def origin_of(url: URL) -> Origin:
    """Whose address it is, as Origin has it."""
    return Origin(url.scheme, (url.host or "").lower().rstrip("."), url.port or 0)


def next_url(request: HttpRequest, current: URL, location: str) -> URL:
    """Where a redirect leads. Raises ToolFailed if it must not be followed."""
    url = current.join(URL(location)).with_fragment(None)
    origin, before = origin_of(url), origin_of(current)
    if url.scheme not in PORTS or url.user or url.password or not origin.host:
        raise ToolFailed(REDIRECT_REFUSED, "The server redirects to what is no plain http or https address.")
    if before.scheme == "https" and origin.scheme == "http":
        raise ToolFailed(REDIRECT_REFUSED, "The server redirects from https to http.")
    if not (_is_same(request.origin, origin) or _is_listed(origin, request.redirect_hosts)):
        raise ToolFailed(REDIRECT_REFUSED, f"The server redirects to {origin.host}, which is not allowed.")
    return url


def _is_same(own: Origin, other: Origin) -> bool:
    """Whether it is the origin, or the same host with TLS on the usual ports."""
    upgraded = Origin("https", own.host, PORTS["https"])
    return other == own or (own.port == PORTS["http"] and other == upgraded)


def _is_listed(origin: Origin, hosts: frozenset[str]) -> bool:
    if f"{origin.host}:{origin.port}" in hosts:
        return True
    return origin.host in hosts and origin.port == PORTS[origin.scheme]


def _headers(request: HttpRequest, to: Origin) -> dict[str, str]:
    if _is_same(request.origin, to):
        return {**request.headers, **request.secret_headers}
    return {name: value for name, value in request.headers.items() if name.lower() not in _CREDENTIALS}


async def _answer(response: aiohttp.ClientResponse) -> HttpAnswer:
    body, whole = await _body(response)
    if body and not _is_text(response.headers.get("Content-Type", "")):
        raise ToolFailed(UNREADABLE, f"HTTP {response.status}: the answer is neither text nor JSON.")
    return HttpAnswer(response.status, body.decode(_charset(response), errors="replace"), whole)


async def _body(response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """The body up to ANSWER_BYTES_MAX, and whether that is all of it."""
    inflate = _inflater(response.headers.get("Content-Encoding", ""))
    content = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        # at most one byte too much is ever unpacked
        content += inflate(chunk, ANSWER_BYTES_MAX + 1 - len(content)) if inflate else chunk
        if len(content) > ANSWER_BYTES_MAX:
            return bytes(content[:ANSWER_BYTES_MAX]), False
    return bytes(content), True


def _inflater(encoding: str) -> Callable[[bytes, int], bytes] | None:
    match encoding.strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip" | "deflate":
            return zlib.decompressobj(wbits=32 + zlib.MAX_WBITS).decompress
        case _:
            raise ToolFailed(UNREADABLE, "The answer is in an encoding that was not asked for.")


def _is_text(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return not kind or kind.startswith("text/") or kind == "application/json" or kind.endswith("+json")


def _charset(response: aiohttp.ClientResponse) -> str:
    name = response.charset or "utf-8"
    try:
        return name if codecs.lookup(name).name in _CHARSETS else "utf-8"
    except LookupError:
        return "utf-8"
