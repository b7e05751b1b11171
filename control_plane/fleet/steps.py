"""Long work in pieces, so that the event loop has its turns in between.

Steps are a generator that is pure but for what it reads, and that yields how
much it has done since: in look-ups, of which one takes about 0.1 µs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TypeVar

WORK_PER_TURN = 20_000
"""Look-ups between two turns of the loop: some 2 ms."""

WORK_OF_MESSAGE = 25
"""Look-ups that take as long as making one small message."""

T = TypeVar("T")
Steps = Generator[int, None, T]


async def in_turns(steps: Steps[T]) -> T:
    """Carry the steps out, with turns of the loop in between."""
    done = 0
    while True:
        try:
            done += next(steps)
        except StopIteration as end:
            return end.value
        if done >= WORK_PER_TURN:
            done = 0
            await asyncio.sleep(0)


def at_once(steps: Steps[T]) -> T:
    """Carry the steps out, for those who have the time."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
