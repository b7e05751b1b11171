"""What waits to be sent."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

OUTBOX_MESSAGES_MAX = 256

_M = TypeVar("_M")


class Outbox(Generic[_M]):
    """A queue whose writers are asked, by `room`, to wait while it is full.

    Those that cannot wait are few by their nature: a field, a notice.
    """

    def __init__(self, bound: int = OUTBOX_MESSAGES_MAX) -> None:
        self._bound = bound
        self._messages: deque[_M] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, message: _M) -> None:
        """Add a message; dropped once the outbox is closed."""
        if not self._closed:
            self._messages.append(message)
            self._changed.set()

    async def room(self) -> None:
        """Wait until there is room, or the outbox is closed."""
        while len(self._messages) >= self._bound and not self._closed:
            await self._change()

    def close(self) -> None:
        """Take nothing more; what waits is still sent."""
        self._closed = True
        self._changed.set()

    async def __aiter__(self) -> AsyncIterator[_M]:
        """The messages in order, until the outbox is closed and empty."""
        while True:
            while self._messages:
                message = self._messages.popleft()
                self._changed.set()
                yield message
            if self._closed:
                return
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
