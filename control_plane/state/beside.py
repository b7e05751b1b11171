"""Long work beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

ResultT = TypeVar("ResultT")


class BesideLoop:
    """Runs work on a thread, one piece at a time: the interpreter has one lock,
    and each thread that wants it takes its share from the loop."""

    def __init__(self) -> None:
        self._free = asyncio.Lock()

    async def run(self, work: Callable[[], ResultT]) -> ResultT:
        """What the work returns. Raises what it raises."""
        async with self._free:
            return await asyncio.to_thread(work)
