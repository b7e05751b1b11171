"""How long to wait before the next stream. Pure; times are in seconds.

The rules that it keeps:

- A wait is a random share, from nothing, of a bound that doubles with each
  stream that failed. The bound starts over only when a stream was SYNCED.
- The longest is below the grace after which a node that moves calls itself
  stale (freshness.MOVE_GRACE_SECONDS), so one lost try does not make it so.
- What the server asks for is waited, and the random share on top.
- A node whose stream was taken over by another of the same id waits long, and
  longer each time: two that come back at once would fight for ever.
"""

from __future__ import annotations

from collections.abc import Callable

BACK_OFF_SECONDS_MIN = 0.25
BACK_OFF_SECONDS_MAX = 15.0
RETRY_AFTER_SECONDS_MAX = 60.0
REPLACED_SECONDS_MIN = 120.0
REPLACED_SECONDS_MAX = 900.0
REPLACED_FORGOTTEN_SECONDS = 7200.0
DOUBLINGS_MAX = 16


class Waits:
    """`jitter` returns 0 to 1."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._failures = 0
        self._replaced = 0
        self._replaced_at = 0.0

    @property
    def replaced(self) -> int:
        """How often another node has taken over of late."""
        return self._replaced

    def start_over(self) -> None:
        """A stream was SYNCED."""
        self._failures = 0

    def failed(self, asked: float | None) -> float:
        """The wait after a stream that failed."""
        wait = self._share(BACK_OFF_SECONDS_MIN, BACK_OFF_SECONDS_MAX, self._failures)
        self._failures += 1
        return self.asked(asked) + wait

    def taken_over(self, now: float) -> float:
        """The wait after another node has taken over: half of it is random."""
        if now - self._replaced_at > REPLACED_FORGOTTEN_SECONDS:
            self._replaced = 0
        wait = min(REPLACED_SECONDS_MIN * 2.0 ** min(self._replaced, DOUBLINGS_MAX), REPLACED_SECONDS_MAX)
        self._replaced += 1
        self._replaced_at = now
        return wait * (1 + self._jitter()) / 2

    @staticmethod
    def asked(seconds: float | None) -> float:
        """What the server asks for, within bounds."""
        return min(max(seconds or 0.0, 0.0), RETRY_AFTER_SECONDS_MAX)

    def _share(self, shortest: float, longest: float, failures: int) -> float:
        return self._jitter() * min(shortest * 2.0 ** min(failures, DOUBLINGS_MAX), longest)
