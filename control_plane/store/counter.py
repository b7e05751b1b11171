"""The count of a store's commits, and those who wait for it to rise."""

from __future__ import annotations

import asyncio

from control_plane.store.log import StoreError


class CommitCounter:
    """Rises with every commit; waiters are woken, never handed anything."""

    def __init__(self) -> None:
        self._count = 0
        self._risen = asyncio.Event()
        self._closed = False

    def add(self, commits: int) -> None:
        """Count commits and wake who waits."""
        if commits:
            self._count += commits
            self._risen.set()
            self._risen = asyncio.Event()

    def close(self) -> None:
        """Wake who waits: no more will come."""
        self._closed = True
        self._risen.set()

    async def above(self, seen: int) -> int:
        """Wait until the count is above `seen`, and return it. Raises
        StoreError once it cannot rise any more."""
        while self._count <= seen:
            if self._closed:
                raise StoreError("the store is closed")
            await self._risen.wait()
        return self._count
