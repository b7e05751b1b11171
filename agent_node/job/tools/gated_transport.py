"""httpx2's requests to addresses that the gate allows, with bounded answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import cast

import httpcore2
import httpx2

from agent_node.job.tools.addresses import Gate
from agent_node.providers.context import ssl_context

MESSAGE_BYTES_MAX = 1024 * 1024
"""Of an answer that is no stream of events; of these each is bounded by the
protocol's client, by as much."""
CONNECTIONS_MAX = 10
KEEPALIVE_SECONDS = 4

_EVENTS = "text/event-stream"


class _GatedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to what the gate gives."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        # its type is that of the stand-in that httpcore2 has where anyio is missing
        self._network = cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        failed: Exception | None = None
        for address in await self._gate.addresses(host, port):
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        assert failed is not None
        raise failed

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        raise httpcore2.UnsupportedProtocol(path)

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class GatedTransport(httpx2.AsyncBaseTransport):
    """A transport without a proxy and without compression. `lost` is called
    when a request fails, and with `one_stream` when a stream of events ends."""

    def __init__(self, gate: Gate, lost: Callable[[], None], *, one_stream: bool) -> None:
        self._lost = lost
        self._one_stream = one_stream
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context(),
            max_connections=CONNECTIONS_MAX,
            keepalive_expiry=KEEPALIVE_SECONDS,
            network_backend=_GatedNetwork(gate),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See httpx2. Raises TransportError, and what the gate raises."""
        request.headers["Accept-Encoding"] = "identity"
        asked = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        try:
            got = await self._pool.handle_async_request(asked)
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
            self._lost()
            raise httpx2.TransportError(type(error).__name__) from error
        headers = httpx2.Headers(got.headers)
        events = headers.get("Content-Type", "").lower().startswith(_EVENTS)
        body = _Body(got, bounded=not events, ended=self._lost if events and self._one_stream else None)
        response = httpx2.Response(got.status, headers=got.headers, stream=body)
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            await response.aclose()
            raise httpx2.TransportError("the answer is in an encoding that was not asked for")
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._pool.aclose()


class _Body(httpx2.AsyncByteStream):
    """A body; one that is bounded breaks off when it becomes too long."""

    def __init__(
        self, response: httpcore2.Response, *, bounded: bool, ended: Callable[[], None] | None
    ) -> None:
        self._response = response
        self._bounded = bounded
        self._ended = ended

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for chunk in self._response.aiter_stream():
                size += len(chunk)
                if self._bounded and size > MESSAGE_BYTES_MAX:
                    raise httpx2.StreamError(f"the answer has more than {MESSAGE_BYTES_MAX} bytes")
                yield chunk
        finally:
            if self._ended is not None:
                self._ended()

    async def aclose(self) -> None:
        await self._response.aclose()
