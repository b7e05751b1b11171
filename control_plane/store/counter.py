"""The count of a store's commits, and those who wait for it to rise."""

from __future__ import annotations

import asyncio


class CommitCounter:
    """Rises with every commit; waiters are woken, never handed anything."""

    def __init__(self) -> None:
        self._count = 0
        self._risen = asyncio.Event()

    def add(self, commits: int) -> None:
        """Count commits and wake who waits."""
        if commits:
            self._count += commits
            self._risen.set()
            self._risen = asyncio.Event()

    async def above(self, seen: int) -> int:
        """Wait until the count is above `seen`, and return it."""
        while self._count <= seen:
            await self._risen.wait()
        return self._count
