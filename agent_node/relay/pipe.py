"""A bounded queue between two tasks that either side can close."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Pipe(Generic[T]):
    """One writer, one reader. After `close` the reader gets what is left, and
    then the end; what is put then is dropped."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._items: deque[T] = deque()
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether either side has closed the pipe."""
        return self._closed

    async def put(self, item: T) -> None:
        """Add an item; waits while the pipe is full."""
        while not self._closed and len(self._items) >= self._bound:
            await self._change()
        if not self._closed:
            self._items.append(item)
            self._changed.set()

    def close(self) -> None:
        """Let the writer go, and the reader once it has read the rest."""
        self._closed = True
        self._changed.set()

    def __aiter__(self) -> Pipe[T]:
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            await self._change()
        item = self._items.popleft()
        self._changed.set()
        return item

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
