"""A control plane that stops answering while its connection stays open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from agent_node.upstream import DiskCache, connect
from tests.unit.node.samples import snapshot
from tests.unit.node.upstream_client import Client, Server, client_over, listening, transfer

SECONDS_MAX = 20
KEEPALIVE_MS = 200


@dataclass
class Proxy:
    """Passes bytes on, until the connections that it has go dark."""

    target: int
    dark: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])
    writers: list[asyncio.StreamWriter] = field(default_factory=list[asyncio.StreamWriter])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        dark = self.dark
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        self.writers += [writer, back]
        for source, sink in ((reader, back), (there, writer)):
            self.tasks.append(asyncio.create_task(self._pump(source, sink, dark)))

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, dark: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if not dark.is_set():
                    sink.write(data)
                    await sink.drain()

    async def close(self) -> None:
        """Leave nothing open."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for writer in self.writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def go_dark(self) -> None:
        """What is connected now hears nothing more; who comes later does."""
        self.dark.set()
        self.dark = asyncio.Event()


@asynccontextmanager
async def proxied(target: int) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy for the block, and its address."""
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield proxy, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()


async def test_a_connection_that_goes_dark_is_noticed_and_left(tmp_path: Path) -> None:
    """Within two heartbeats of silence the node is stale and asks for a new stream, and keepalive
    gives it a new connection, as the old one would swallow that stream too."""
    first, second = snapshot(1, a="one"), snapshot(2, a="two")
    server = Server([[transfer(first, "s1")], *([transfer(second, f"s{n}")] for n in range(2, 50))])
    async with (
        listening("127.0.0.1:0", server) as port,
        proxied(port) as (proxy, address),
        connect(address, keepalive_ms=KEEPALIVE_MS, keepalive_timeout_ms=KEEPALIVE_MS) as channel,
        client_over(channel, server, DiskCache(tmp_path)) as client,
    ):
        assert await asyncio.wait_for(client.got.get(), SECONDS_MAX) == first
        proxy.go_dark()
        await asyncio.wait_for(_until_stale(client), SECONDS_MAX)
        assert client.clock.monotonic() <= 61.0
        async with asyncio.timeout(SECONDS_MAX):
            while client.got.empty():
                await client.clock.advance(0.5)
                await asyncio.sleep(0.01)
        assert client.got.get_nowait() == second
        assert proxy.connections == 2


async def _until_stale(client: Client) -> None:
    while client.upstream.protocol.stale(client.clock.monotonic()) is None:
        await client.clock.advance(1.0)
