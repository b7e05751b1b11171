"""One task that says of many streams when a heartbeat is due."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from voxplane.clock import Clock

TICKS_PER_INTERVAL = 40
"""A heartbeat is late by one tick at most."""
TICK_SECONDS_MAX = 1.0


class Paced(Protocol):
    """What has a heartbeat."""

    slot: int

    def heartbeat_due(self) -> None:
        """It is time."""
        ...


class Pace:
    """A wheel of slots, one for each tick of time. At each tick `ticked` is
    called."""

    def __init__(self, clock: Clock, interval_seconds: float, ticked: Callable[[], None]) -> None:
        self._clock = clock
        self._tick = min(interval_seconds / TICKS_PER_INTERVAL, TICK_SECONDS_MAX)
        self._ticked = ticked
        self._slots: dict[int, dict[Paced, None]] = {}
        self._done = math.floor(clock.monotonic() / self._tick)

    def schedule(self, paced: Paced, seconds: float) -> None:
        """Say in so many seconds that a heartbeat is due, and not before."""
        self.forget(paced)
        due = math.ceil((self._clock.monotonic() + seconds) / self._tick)
        paced.slot = max(due, self._done + 1)
        self._slots.setdefault(paced.slot, {})[paced] = None

    def forget(self, paced: Paced) -> None:
        """Say nothing."""
        slot = self._slots.get(paced.slot)
        if slot is not None:
            slot.pop(paced, None)
            if not slot:
                del self._slots[paced.slot]

    async def run(self) -> None:
        """Go round until cancelled."""
        while True:
            await self._clock.sleep(self._tick)
            now = math.floor(self._clock.monotonic() / self._tick)
            self._done = now
            for slot in sorted(slot for slot in self._slots if slot <= now):
                for paced in self._slots.pop(slot):
                    paced.heartbeat_due()
            self._ticked()
