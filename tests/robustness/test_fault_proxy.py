"""The fault proxy does to a connection what it says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from tests.robustness.faults.proxy import (
    BLACKHOLE,
    HALF_OPEN,
    QUEUED_BYTES_MAX,
    TRICKLE,
    Direction,
    FaultProxy,
    Mode,
    fault_proxy,
)

SILENCE_SECONDS = 0.15
SOON_SECONDS = 5.0
MANY_BYTES = 8 * 1024 * 1024

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Server:
    """Answers every byte with itself, unless told to read nothing."""

    def __init__(self) -> None:
        self.address = ""
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.reading = asyncio.Event()
        self.reading.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while True:
                await self.reading.wait()
                data = await reader.read(65_536)
                if not data:
                    self.ended.put_nowait("FIN")
                    return
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            self.ended.put_nowait("RST")
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncGenerator[Server]:
    """A server that answers."""
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield made
    listening.close()


@pytest.fixture
async def proxy(server: Server) -> AsyncGenerator[FaultProxy]:
    """A proxy before the server."""
    async with fault_proxy(server.address) as made:
        yield made


@asynccontextmanager
async def client(proxy: FaultProxy) -> AsyncGenerator[Client]:
    """A connection through the proxy that has had its first answer."""
    host, _, port = proxy.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), SOON_SECONDS) == b"hello"
        yield reader, writer
    finally:
        writer.close()


async def silent(reader: asyncio.StreamReader) -> bool:
    """Whether nothing comes, and no end."""
    try:
        await asyncio.wait_for(reader.read(1), SILENCE_SECONDS)
    except TimeoutError:
        return True
    return False


async def test_everything_passes_in_order(proxy: FaultProxy) -> None:
    """Megabytes come back as they were sent, and the end after them."""
    data = bytes(range(256)) * 8192
    async with client(proxy) as (reader, writer):
        writer.write(data)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(-1), SOON_SECONDS) == data
    assert proxy.queued_bytes == 0


async def test_latency_delays_each_way(proxy: FaultProxy) -> None:
    """With latency both ways an answer takes two of them, and many that are on
    their way together take no longer."""
    async with client(proxy) as (reader, writer):
        with proxy.fault(Mode(latency_seconds=0.05)):
            began = time.monotonic()
            for _ in range(5):
                writer.write(b"x")
                await asyncio.sleep(0.005)
            await asyncio.wait_for(reader.readexactly(5), SOON_SECONDS)
            assert 0.1 <= time.monotonic() - began < 0.3


async def test_a_trickle_is_as_slow_as_it_says(proxy: FaultProxy) -> None:
    """One byte a second: one comes at once, the next not soon; when it is
    lifted the rest comes whole."""
    async with client(proxy) as (reader, writer):
        with proxy.fault(TRICKLE, Direction.DOWN):
            writer.write(b"slowly")
            assert await asyncio.wait_for(reader.read(100), SOON_SECONDS) == b"s"
            assert await silent(reader)
        assert await asyncio.wait_for(reader.readexactly(5), SOON_SECONDS) == b"lowly"


async def test_a_rate_holds_on_the_whole(proxy: FaultProxy) -> None:
    """At 10,000 bytes a second 2,000 take a fifth of a second."""
    async with client(proxy) as (reader, writer):
        with proxy.fault(Mode(bytes_per_second=10_000), Direction.UP):
            began = time.monotonic()
            writer.write(bytes(3_000))
            await asyncio.wait_for(reader.readexactly(3_000), SOON_SECONDS)
            assert 0.15 <= time.monotonic() - began < 1.0


async def test_half_open_holds_one_way_and_loses_nothing(proxy: FaultProxy) -> None:
    """What comes one way is held, the other way goes on, and all of it comes
    when the fault is over."""
    async with client(proxy) as (reader, writer):
        with proxy.fault(HALF_OPEN, Direction.DOWN):
            writer.write(b"held")
            assert await silent(reader)
        assert await asyncio.wait_for(reader.readexactly(4), SOON_SECONDS) == b"held"


async def test_a_paused_direction_pushes_back(proxy: FaultProxy) -> None:
    """Nothing is read while a direction is held: the sender cannot write on,
    and the proxy holds no more than its bound."""
    async with client(proxy) as (reader, writer):
        with proxy.fault(HALF_OPEN, Direction.UP):
            writer.write(bytes(MANY_BYTES))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(writer.drain(), SILENCE_SECONDS)
            assert proxy.queued_bytes == 0
        got = asyncio.create_task(reader.readexactly(MANY_BYTES))
        assert len(await asyncio.wait_for(got, SOON_SECONDS)) == MANY_BYTES


async def test_a_peer_that_does_not_read_pushes_back(proxy: FaultProxy, server: Server) -> None:
    """A server that stops reading stops the client, and the proxy keeps to its
    bound."""
    async with client(proxy) as (_, writer):
        server.reading.clear()
        writer.write(bytes(4 * MANY_BYTES))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), SILENCE_SECONDS)
        assert proxy.queued_bytes <= QUEUED_BYTES_MAX + 16_384
        server.reading.set()


async def test_a_blackhole_swallows_and_never_gives_back(proxy: FaultProxy, server: Server) -> None:
    """Bytes into a blackhole are taken and lost; the connection is silent for
    good, without an end. One that comes later lives."""
    async with client(proxy) as (reader, writer):
        with proxy.fault(BLACKHOLE):
            writer.write(bytes(MANY_BYTES))
            await asyncio.wait_for(writer.drain(), SOON_SECONDS)
            assert await silent(reader)
        writer.write(b"more")
        assert await silent(reader)
        assert server.ended.empty()
        async with client(proxy):
            assert proxy.connections == 2


async def test_a_quiet_connection_survives_a_blackhole(proxy: FaultProxy) -> None:
    """A connection on which nothing was sent meanwhile has lost nothing."""
    async with client(proxy) as (reader, writer):
        with proxy.fault(BLACKHOLE):
            await asyncio.sleep(0)
        writer.write(b"alive")
        assert await asyncio.wait_for(reader.readexactly(5), SOON_SECONDS) == b"alive"


async def test_a_blackhole_swallows_the_end_too(proxy: FaultProxy, server: Server) -> None:
    """A client that goes away inside a blackhole is not missed by the server."""
    async with client(proxy) as (_, writer):
        proxy.set(BLACKHOLE)
        writer.write(b"x")
    await asyncio.sleep(SILENCE_SECONDS)
    assert server.ended.empty()


async def test_a_reset_is_heard_on_both_sides(proxy: FaultProxy, server: Server) -> None:
    """RST ends the client's and the server's connection with an error."""
    async with client(proxy) as (reader, _):
        await proxy.reset()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), SOON_SECONDS)
        assert await asyncio.wait_for(server.ended.get(), SOON_SECONDS) == "RST"


async def test_a_cut_is_an_orderly_end(proxy: FaultProxy, server: Server) -> None:
    """FIN ends both sides without an error."""
    async with client(proxy) as (reader, _):
        await proxy.cut()
        assert await asyncio.wait_for(reader.read(1), SOON_SECONDS) == b""
        assert await asyncio.wait_for(server.ended.get(), SOON_SECONDS) == "FIN"
    assert proxy.connections == 0


async def test_refused_until_it_listens_again(proxy: FaultProxy) -> None:
    """A closed listener refuses, open connections go on, and the address is
    the same afterwards."""
    address = proxy.address
    async with client(proxy) as (reader, writer):
        await proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            async with client(proxy):
                pass
        writer.write(b"still")
        assert await asyncio.wait_for(reader.readexactly(5), SOON_SECONDS) == b"still"
        await proxy.listen()
        assert proxy.address == address
        async with client(proxy):
            assert proxy.accepted == 2


async def test_a_server_that_is_not_there_is_a_reset(proxy: FaultProxy) -> None:
    """A client whose connection cannot be passed on hears it."""
    proxy.target = "127.0.0.1:1"
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        async with client(proxy):
            pass
