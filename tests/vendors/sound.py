"""Tones to speak with, and a gate that hears speech in them."""

from __future__ import annotations

import io
import math
import wave
from array import array
from functools import lru_cache
from hashlib import sha256

SPEECH_LEVEL = 500
SILENCE_SECONDS = 0.3
SECONDS_PER_WORD = 0.1
PITCH_LOWEST, PITCH_HIGHEST = 200, 800
LOUDNESS = 8000


def pitch(voice: str) -> int:
    """Hertz of a voice: each has its own, from 200 to 800."""
    return PITCH_LOWEST + int.from_bytes(sha256(voice.encode()).digest()[:2]) % (PITCH_HIGHEST - PITCH_LOWEST)


def tone(voice: str, text: str, sample_rate: int) -> bytes:
    """PCM of 16 bit in the voice's pitch, a tenth of a second a word."""
    samples = int(max(len(text.split()), 1) * SECONDS_PER_WORD * sample_rate)
    second = _second(pitch(voice), sample_rate)
    # a second holds whole waves, so that it can be repeated without a click
    return (second * (samples // sample_rate + 1))[: samples * 2]


@lru_cache(maxsize=64)
def _second(hertz: int, sample_rate: int) -> bytes:
    turn = 2 * math.pi * hertz / sample_rate
    return array("h", (int(LOUDNESS * math.sin(turn * i)) for i in range(sample_rate))).tobytes()


def wav(pcm: bytes, sample_rate: int) -> bytes:
    """The PCM as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(sample_rate)
        out.writeframes(pcm)
    return file.getvalue()


class EnergyGate:
    """Hears where speech begins and ends, in the audio's own time."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._silence = 0.0
        self.speaking = False
        self.seconds = 0.0
        self.began = 0.0

    def hear(self, pcm: bytes) -> str | None:
        """`started`, `ended` or nothing."""
        samples = array("h", pcm[: len(pcm) // 2 * 2])
        length = len(samples) / self._rate
        self.seconds += length
        if samples and sum(map(abs, samples)) / len(samples) > SPEECH_LEVEL:
            self._silence = 0.0
            started, self.speaking = not self.speaking, True
            if started:
                self.began = self.seconds - length
            return "started" if started else None
        self._silence += length
        if self.speaking and self._silence >= SILENCE_SECONDS:
            self.speaking = False
            return "ended"
        return None
