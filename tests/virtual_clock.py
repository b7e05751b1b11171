"""A clock that tests turn by hand."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Coroutine
from itertools import count
from typing import Any, TypeVar

SETTLE_TURNS = 20
REAL_SECONDS = 0.01
"""What does real I/O is looked at again after so long."""

T = TypeVar("T")


class VirtualClock:
    """voxplane.clock.Clock whose time stands still until `advance`."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._start = start
        self._elapsed = 0.0
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._slept = asyncio.Event()

    def time(self) -> float:
        """Seconds since 1970."""
        return self._start + self._elapsed

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was advanced by so much."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), woken))
        self._slept.set()
        await woken

    @property
    def sleeping(self) -> int:
        """Count of the tasks that wait for time to pass."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    @property
    def due(self) -> float | None:
        """When the next sleeper wakes, on the monotonic clock."""
        return min((due for due, _, woken in self._sleepers if not woken.done()), default=None)

    async def until_sleeping(self) -> None:
        """Wait until a task waits for time to pass, such as after real I/O."""
        while not self.sleeping:
            self._slept.clear()
            await self._slept.wait()

    async def settle(self) -> None:
        """Let all tasks run that can run without time passing."""
        for _ in range(SETTLE_TURNS):
            await asyncio.sleep(0)

    async def finish(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run to the end what sleeps: time passes whenever nothing else
        happens."""
        task = asyncio.create_task(coroutine)
        while not task.done():
            if self.due is None:
                await asyncio.wait({task}, timeout=REAL_SECONDS)
            else:
                await self.advance(self.due - self._elapsed)
        return task.result()

    async def advance(self, seconds: float) -> None:
        """Let time pass; sleepers wake in order, each at its own time."""
        end = self._elapsed + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, woken = heapq.heappop(self._sleepers)
            self._elapsed = max(self._elapsed, due)
            if not woken.done():
                woken.set_result(None)
                await self.settle()
        self._elapsed = end
        await self.settle()
