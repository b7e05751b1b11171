"""A token bucket for full transfers. Pure."""

from __future__ import annotations

from collections.abc import Callable

FULL_BYTES_PER_SECOND = 64 * 1024 * 1024
FULL_BYTES_BURST = 256 * 1024 * 1024


class Admission:
    """Tokens are bytes. A transfer is let in while there is a token left, and
    may leave a debt: one above the burst is let in too, alone. `now` gives
    seconds of a monotonic clock."""

    def __init__(
        self,
        now: Callable[[], float],
        bytes_per_second: float = FULL_BYTES_PER_SECOND,
        burst_bytes: float = FULL_BYTES_BURST,
    ) -> None:
        self._now = now
        self._rate = bytes_per_second
        self._burst = burst_bytes
        self._tokens = burst_bytes
        self._filled = now()

    def take(self, size: int) -> float:
        """Let a transfer of so many bytes in, and return 0; or the seconds
        after which to ask again."""
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens <= 0:
            return (1 - self._tokens) / self._rate
        self._tokens -= size
        return 0.0
