"""A socket in memory, and a protocol of the fast edge on it."""

from __future__ import annotations

import asyncio
from typing import Any

from control_plane.edge.around import Proceed
from control_plane.fast_edge.limits import Budget, Limits
from control_plane.fast_edge.protocol import Around, EdgeProtocol
from control_plane.services.config_sync import Method
from control_plane.services.incoming import take_at_once
from tests.unit.fast_edge.edge_world import connection

PATH = "/test.Service/Call"
STREAM_PATH = "/test.Service/Stream"
WATCH_PATH = "/test.Service/Watch"


class FakeSocket(asyncio.Transport):
    """Takes what is written for as long as it has room."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.reads = True
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio."""
        assert not self.closed or not data, "written after the end"
        self.written += data

    def pause_reading(self) -> None:
        """See asyncio."""
        self.reads = False

    def resume_reading(self) -> None:
        """See asyncio."""
        self.reads = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio."""

    def get_write_buffer_size(self) -> int:
        """See asyncio."""
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio."""
        return default

    def is_closing(self) -> bool:
        """See asyncio."""
        return self.closed

    def can_write_eof(self) -> bool:
        """See asyncio."""
        return False

    def close(self) -> None:
        """See asyncio."""
        self.closed = True

    abort = close


async def answer(request: bytes, context: Any) -> bytes:
    """A unary call that says what it has heard."""
    return request


async def count(requests: Any, context: Any) -> bytes:
    """A client's stream: how many messages, how many bytes. Those of even length
    are taken as they come."""
    seen: list[int] = []

    def take(message: bytes) -> bool:
        if len(message) % 2:
            return False
        seen.append(len(message))
        return True

    take_at_once(requests, take)
    async for message in requests:
        seen.append(len(message))
    return b"%d,%d" % (len(seen), sum(seen))


async def watch(request: bytes, context: Any) -> None:
    """A server's stream, for ever. What can go at once does."""
    await context.send_initial_metadata(())
    push = context.pusher()
    while True:
        if push is None or not push(request, b"!"):
            await context.write((request, b"!"))
        await asyncio.sleep(0)


class FakeListener:
    """Protocols on sockets in memory, at a time that stands still."""

    def __init__(self, limits: Limits) -> None:
        self.now = 0.0
        self.budget = Budget(limits.request_bytes_max_total)
        self.open: set[EdgeProtocol] = set()
        self.methods: dict[str, tuple[Method, Proceed]] = {
            PATH: (Method(answer, bytes, bytes), answer),
            STREAM_PATH: (Method(count, bytes, bytes, streams_in=True), count),
            WATCH_PATH: (Method(watch, bytes, b"".join, streams_out=True), watch),
        }
        self._around = Around(
            self.methods,
            lambda: connection(limits, self.budget, self.now),
            lambda: self.now,
            lambda protocol: self.open.add(protocol) is None,
            self.open.discard,
            secure=False,
        )

    def connect(self) -> tuple[EdgeProtocol, FakeSocket]:
        """A client has come."""
        protocol, socket = EdgeProtocol(self._around), FakeSocket()
        protocol.connection_made(socket)
        return protocol, socket
