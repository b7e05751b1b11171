"""Tones to speak with, and a gate that hears speech in them."""

from __future__ import annotations

import io
import math
import wave
from array import array
from hashlib import sha256

SPEECH_LEVEL = 500
SILENCE_SECONDS = 0.3
SECONDS_PER_WORD = 0.1


def pitch(voice: str) -> int:
    """Hertz of a voice: each has its own, from 200 to 800."""
    return 200 + int.from_bytes(sha256(voice.encode()).digest()[:2]) % 600


def tone(voice: str, text: str, sample_rate: int) -> bytes:
    """PCM of 16 bit in the voice's pitch, a tenth of a second a word."""
    samples = int(max(len(text.split()), 1) * SECONDS_PER_WORD * sample_rate)
    turn = 2 * math.pi * pitch(voice) / sample_rate
    return array("h", (int(8000 * math.sin(turn * i)) for i in range(samples))).tobytes()


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

    def hear(self, pcm: bytes) -> str | None:
        """`started`, `ended` or nothing."""
        samples = array("h", pcm[: len(pcm) // 2 * 2])
        length = len(samples) / self._rate
        self.seconds += length
        if samples and sum(map(abs, samples)) / len(samples) > SPEECH_LEVEL:
            self._silence = 0.0
            started, self.speaking = not self.speaking, True
            return "started" if started else None
        self._silence += length
        if self.speaking and self._silence >= SILENCE_SECONDS:
            self.speaking = False
            return "ended"
        return None
