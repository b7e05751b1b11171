"""Many clients that come at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from tests.robustness.faults.raw_stream import RawStream
from voxplane.v1 import config_sync_service_pb2 as sync_pb2


class Herd:
    """So many streams on connections of their own; `request` makes the request
    of a client by its number."""

    def __init__(
        self, address: str, count: int, request: Callable[[int], sync_pb2.WatchConfigRequest]
    ) -> None:
        self._address = address
        self._count = count
        self._request = request
        self.streams: list[RawStream] = []

    async def come(self) -> None:
        """Open all streams in one moment; returns when all are asked for."""
        self.streams = [RawStream(self._request(number)) for number in range(self._count)]
        await asyncio.gather(*(stream.open(self._address) for stream in self.streams))

    def go(self) -> None:
        """Cut all connections at once."""
        for stream in self.streams:
            stream.close()

    async def until(self, marker: bytes, seconds: float) -> float:
        """Wait until the newest transfer of every stream has the marker, and
        return the seconds that it took. Raises TimeoutError, ConnectionError."""
        began = time.monotonic()
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(stream.until(marker) for stream in self.streams))
        return time.monotonic() - began

    @property
    def lost(self) -> int:
        """Count of the streams that have ended."""
        return sum(stream.ended.is_set() for stream in self.streams)


@asynccontextmanager
async def herd(
    address: str, count: int, request: Callable[[int], sync_pb2.WatchConfigRequest]
) -> AsyncGenerator[Herd]:
    """A herd that has come, for a block."""
    made = Herd(address, count, request)
    try:
        await made.come()
        yield made
    finally:
        made.go()
