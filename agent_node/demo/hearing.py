"""What is heard of an agent, frame by frame. Pure: it has no clock and no room.

Speech begins with a loud frame and ends with the last one that END_SECONDS of
quiet follow. A receiver fills what it did not get with silence, so a quiet
frame between two loud ones is a gap, and so is a long wait between frames.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 400
"""Mean of the samples' size from which a frame is loud; the offline voice has 1,900."""
END_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Heard:
    """Speech so far: its beginning, its loud audio, the longest quiet inside it and
    the longest wait for a frame, in seconds, and its pitch in hertz."""

    began: float
    seconds: float
    longest_quiet: float
    longest_wait: float
    pitch: int


class Hearing:
    """Hears one track of 16 bit samples."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._began: float | None = None
        self._since = 0.0
        self._loud = self._quiet = 0.0
        self._longest_quiet = self._wait = self._longest_wait = 0.0
        self._last: float | None = None
        self._crossings = 0
        self._last_sample = 0

    def hear(self, at: float, samples: Sequence[int]) -> bool | None:
        """True if speech begins with the frame that came at `at`, False if it has ended."""
        seconds = len(samples) / self._rate
        waited, self._last = at - (self._last if self._last is not None else at), at
        self._wait = max(self._wait, waited)
        if sum(map(abs, samples)) >= LEVEL * len(samples):
            return self._take(at, samples, seconds)
        self._quiet += seconds
        if self._began is not None and self._quiet >= END_SECONDS:
            self._began = None
            return False
        return None

    @property
    def heard(self) -> Heard | None:
        """The speech that goes on, or the last one; None before the first."""
        if not self._loud:
            return None
        pitch = round(self._crossings / self._loud)
        return Heard(self._since, self._loud, self._longest_quiet, self._longest_wait, pitch)

    def measure_anew(self) -> None:
        """What is heard from now on is measured by itself."""
        self._loud = self._longest_quiet = self._wait = self._longest_wait = 0.0
        self._crossings = 0

    def _take(self, at: float, samples: Sequence[int], seconds: float) -> bool | None:
        began = self._began is None
        if began:
            self._began = at
            self.measure_anew()
        if not self._loud:
            self._since = at
        else:
            self._longest_quiet = max(self._longest_quiet, self._quiet)
            self._longest_wait = max(self._longest_wait, self._wait)
        self._quiet = self._wait = 0.0
        self._loud += seconds
        self._crossings += sum(a < 0 <= b for a, b in itertools.pairwise((self._last_sample, *samples)))
        self._last_sample = samples[-1]
        return True if began else None
