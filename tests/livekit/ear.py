"""What is heard in a stream of short frames: when somebody speaks, how high, and with what gaps.

Pure: frames and their times go in, events come out. A frame is quiet or loud
by its level. Speech begins with a loud frame and ends with the last one that
END_SECONDS of quiet follow. A quiet frame between two loud ones is a gap: the
receiver puts silence where it got nothing, so that the waits between frames
alone prove nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LEVEL = 1_000
"""Mean of the samples' size from which a frame is loud; a vendor's tone has 5,000."""
END_SECONDS = 0.4
PITCH_SECONDS = 0.1
_FINENESS = 4
"""How much longer than the audio its transform is made, to find the pitch between its steps."""


@dataclass(frozen=True, slots=True)
class Began:
    """Somebody has begun to speak."""

    at: float


@dataclass(frozen=True, slots=True)
class Heard:
    """Somebody has spoken, from `began` to `ended`, in seconds of the clock of the frames.

    loud_seconds, quiet_seconds: of the audio in between; longest_quiet_seconds:
    of the longest gap. longest_wait_seconds: between the arrival of two frames.
    pitches: hertz, for each tenth of a second of loud audio.
    """

    began: float
    ended: float
    loud_seconds: float
    quiet_seconds: float
    longest_quiet_seconds: float
    longest_wait_seconds: float
    pitches: tuple[int, ...]


@dataclass(slots=True)
class _Speech:
    began: float
    ended: float
    loud: float = 0.0
    quiet: float = 0.0
    longest_quiet: float = 0.0
    longest_wait: float = 0.0
    pitches: list[int] = field(default_factory=list[int])


class Ear:
    """Hears one track of 16 bit samples."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._speech: _Speech | None = None
        self._quiet = 0.0
        self._wait = 0.0
        self._last: float | None = None
        self._piece: list[NDArray[np.int16]] = []

    @property
    def speaking(self) -> bool:
        """Whether the last frame was loud."""
        return self._speech is not None and self._quiet == 0.0

    def hear(self, at: float, samples: NDArray[np.int16]) -> list[Began | Heard]:
        """What the frame that came at `at` tells."""
        told: list[Began | Heard] = []
        length = len(samples) / self._rate
        self._wait = max(self._wait, at - self._last) if self._last is not None else 0.0
        self._last = at
        if float(np.abs(samples.astype(np.int32)).mean()) >= LEVEL:
            if self._speech is None:
                self._speech = _Speech(at, at)
                self._wait = 0.0
                told.append(Began(at))
            self._loud(self._speech, at, samples, length)
        elif self._speech is not None:
            self._quiet += length
            if self._quiet >= END_SECONDS:
                told.append(self._end(self._speech))
        return told

    def end(self) -> list[Began | Heard]:
        """The track has ended."""
        return [self._end(self._speech)] if self._speech is not None else []

    def _loud(self, speech: _Speech, at: float, samples: NDArray[np.int16], length: float) -> None:
        speech.ended = at + length
        speech.loud += length
        speech.quiet += self._quiet
        speech.longest_quiet = max(speech.longest_quiet, self._quiet)
        speech.longest_wait = max(speech.longest_wait, self._wait)
        self._quiet = self._wait = 0.0
        self._piece.append(samples)
        if sum(map(len, self._piece)) >= PITCH_SECONDS * self._rate:
            speech.pitches.append(pitch_of(np.concatenate(self._piece), self._rate))
            self._piece.clear()

    def _end(self, speech: _Speech) -> Heard:
        self._speech, self._quiet, self._wait = None, 0.0, 0.0
        self._piece.clear()
        return Heard(
            speech.began,
            speech.ended,
            speech.loud,
            speech.quiet,
            speech.longest_quiet,
            speech.longest_wait,
            tuple(speech.pitches),
        )


def pitch_of(samples: NDArray[np.int16], sample_rate: int) -> int:
    """Hertz of the strongest tone."""
    windowed = samples * np.hanning(len(samples))
    strengths = np.abs(np.fft.rfft(windowed, len(samples) * _FINENESS))
    return round(int(strengths.argmax()) * sample_rate / (len(samples) * _FINENESS))
