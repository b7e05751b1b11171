"""A TCP proxy on loopback whose faults are switched while it runs.

What it holds of a connection is bounded, and a mode that passes nothing reads
nothing: the sender feels it as it would feel a full pipe. Each direction of a
connection has two tasks, one that reads and one that writes, and what lies
between them is at most QUEUED_BYTES_MAX.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import Enum

CHUNK_BYTES = 16_384
QUEUED_BYTES_MAX = 65_536
BACKLOG = 4_096
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: close sends RST."""


class Direction(Enum):
    """Which way bytes go."""

    UP = "client to server"
    DOWN = "server to client"


@dataclass(frozen=True, slots=True)
class Mode:
    """What is done to the bytes of a direction.

    They arrive `latency_seconds` late, at most `bytes_per_second` of them (0
    does not limit). With `reads` false nothing is read, and nothing that was
    read goes on; it does when the mode is another. With `swallows` they are
    read and dropped, and a connection that has lost bytes so is dead for good:
    it stays open and silent, whatever the mode.
    """

    latency_seconds: float = 0.0
    bytes_per_second: float = 0.0
    reads: bool = True
    swallows: bool = False


PASS = Mode()
LATE = Mode(latency_seconds=0.2)
TRICKLE = Mode(bytes_per_second=1.0)
HALF_OPEN = Mode(reads=False)
BLACKHOLE = Mode(swallows=True)


class FaultProxy:
    """Stands between clients and a server. Clients connect to `address`; make
    one by `fault_proxy`. `target` may be changed; it counts for connections
    that come later."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.address = ""
        self.accepted = 0
        self._modes = {Direction.UP: PASS, Direction.DOWN: PASS}
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: dict[_Connection, asyncio.Task[None]] = {}

    @property
    def connections(self) -> int:
        """Count of the open connections."""
        return len(self._connections)

    @property
    def queued_bytes(self) -> int:
        """What was read and not yet written, of all connections."""
        return sum(link.queued_bytes for each in self._connections for link in each.links)

    def set(self, mode: Mode, *directions: Direction) -> None:
        """Switch the directions to a mode, both if none is named. What open
        connections hold is treated by the new mode at once."""
        for direction in directions or Direction:
            self._modes[direction] = mode
        for connection in self._connections:
            connection.set(self._modes)

    @contextmanager
    def fault(self, mode: Mode, *directions: Direction) -> Generator[None]:
        """The mode for a block; then everything passes."""
        self.set(mode, *directions)
        try:
            yield
        finally:
            self.set(PASS)

    async def listen(self) -> None:
        """Take connections, at the same address as before if there was one."""
        host, _, port = (self.address or "127.0.0.1:0").rpartition(":")
        listener = socket.create_server((host, int(port)), backlog=BACKLOG)
        listener.setblocking(False)
        self.address = f"127.0.0.1:{listener.getsockname()[1]}"
        self._listener = listener
        self._accepting = asyncio.get_running_loop().create_task(self._accept(listener))

    async def refuse(self) -> None:
        """Refuse new connections, until `listen`; open ones go on."""
        if self._accepting is not None:
            await _end(self._accepting)
            self._accepting = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def reset(self) -> None:
        """End all connections by RST, on both sides."""
        for connection in self._connections:
            connection.lingers = False
        await self._end_all()

    async def cut(self) -> None:
        """End all connections by FIN, on both sides. What is on its way is lost."""
        await self._end_all()

    async def close(self) -> None:
        """End everything."""
        await self.refuse()
        await self._end_all()

    async def _end_all(self) -> None:
        tasks = list(self._connections.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            client.setblocking(False)
            self.accepted += 1
            connection = _Connection(client, self.target, self._modes)
            task = loop.create_task(connection.run())
            self._connections[connection] = task
            task.add_done_callback(lambda _, gone=connection: self._connections.pop(gone))


@asynccontextmanager
async def fault_proxy(target: str) -> AsyncGenerator[FaultProxy]:
    """A proxy that passes everything to "HOST:PORT", for as long as the block."""
    proxy = FaultProxy(target)
    await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy.close()


class _Connection:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(self, client: socket.socket, target: str, modes: dict[Direction, Mode]) -> None:
        self.lingers = True
        self.links: tuple[_Link, ...] = ()
        self._client = client
        self._target = target
        self._modes = dict(modes)

    def set(self, modes: dict[Direction, Mode]) -> None:
        """Switch both directions."""
        self._modes = dict(modes)
        for link in self.links:
            link.set(modes[link.direction])

    async def run(self) -> None:
        """Carry bytes until both directions have ended, one has broken, or
        this is cancelled."""
        host, _, port = self._target.rpartition(":")
        server = socket.socket()
        server.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(server, (host, int(port)))
            self.links = (
                _Link(Direction.UP, self._client, server, self._modes[Direction.UP]),
                _Link(Direction.DOWN, server, self._client, self._modes[Direction.DOWN]),
            )
            async with asyncio.TaskGroup() as group:
                for link in self.links:
                    group.create_task(link.read())
                    group.create_task(link.write())
        except* OSError:
            # One side has broken off: the other one hears it.
            self.lingers = False
        finally:
            for each in (self._client, server):
                if not self.lingers:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                each.close()


class _Link:
    """One direction of a connection."""

    def __init__(self, direction: Direction, source: socket.socket, sink: socket.socket, mode: Mode) -> None:
        self.direction = direction
        self.queued_bytes = 0
        self._source = source
        self._sink = sink
        self._mode = mode
        self._dead = False
        self._queue: deque[tuple[float, bytes]] = deque()
        self._moved = asyncio.Event()

    def set(self, mode: Mode) -> None:
        """Switch to a mode."""
        self._mode = mode
        self._tell()

    async def read(self) -> None:
        """Read until the source has ended."""
        while True:
            await _readable(self._source)
            if not (self._mode.reads and self.queued_bytes < QUEUED_BYTES_MAX):
                await self._until_moved()
                continue
            data = self._source.recv(CHUNK_BYTES)
            if (self._dead or self._mode.swallows) and data:
                self._dead = True
                continue
            self.queued_bytes += len(data)
            self._queue.append((time.monotonic(), data))
            self._tell()
            if not data:
                return

    async def write(self) -> None:
        """Write what was read, until its end."""
        while True:
            if self._dead or self._mode.swallows:
                self._drop()
            wait = self._wait()
            if wait is None or wait > 0:
                await self._until_moved(wait)
                continue
            since, data = self._queue.popleft()
            if not data:
                self._sink.shutdown(socket.SHUT_WR)
                return
            rate = self._mode.bytes_per_second
            piece = data if not rate else data[: max(1, int(rate / 10))]
            if rest := data[len(piece) :]:
                self._queue.appendleft((since, rest))
            await asyncio.get_running_loop().sock_sendall(self._sink, piece)
            self.queued_bytes -= len(piece)
            self._tell()
            if rate:
                await self._pause(len(piece) / rate)

    def _wait(self) -> float | None:
        """Seconds until the next chunk goes on; None if that is not known."""
        if not self._queue or not self._mode.reads:
            return None
        since, data = self._queue[0]
        if not data and (self._dead or self._mode.swallows):
            return None
        return since + self._mode.latency_seconds - time.monotonic()

    def _drop(self) -> None:
        """Lose what has not gone on."""
        while self._queue and self._queue[0][1]:
            self.queued_bytes -= len(self._queue.popleft()[1])
            self._dead = True

    async def _pause(self, seconds: float) -> None:
        """Wait, less if the mode changes its speed."""
        end, rate = time.monotonic() + seconds, self._mode.bytes_per_second
        while self._mode.bytes_per_second == rate and (left := end - time.monotonic()) > 0:
            await self._until_moved(left)

    async def _until_moved(self, seconds: float | None = None) -> None:
        self._moved.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._moved.wait()
        except TimeoutError:
            pass

    def _tell(self) -> None:
        self._moved.set()


async def _readable(source: socket.socket) -> None:
    """Wait until there is something to read, and read nothing."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[None] = loop.create_future()
    loop.add_reader(source, lambda: found.done() or found.set_result(None))
    try:
        await found
    finally:
        loop.remove_reader(source)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
