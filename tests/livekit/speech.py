"""What callers say: real speech, since a tone does not pass for it everywhere."""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from pathlib import Path

import numpy as np

SAMPLE_RATE = 16_000
RECORDED = Path(__file__).parent / "speech" / "utterance.wav"
"""espeak-ng's voice: “I would like to hear what you think about it”, 2.1 s."""
WORDS_PER_MINUTE = 180


def speech_of(words: str) -> bytes:
    """PCM of 16 bit, one channel, SAMPLE_RATE: the words by espeak-ng where there is
    one, else always the same recorded sentence."""
    program = shutil.which("espeak-ng")
    if program is None:
        return recorded()
    spoken = subprocess.run(
        (program, "--stdout", "-v", "en-us", "-s", str(WORDS_PER_MINUTE), words),
        capture_output=True,
        check=True,
    )
    return _pcm(spoken.stdout)


def recorded() -> bytes:
    """The recorded sentence."""
    return _pcm(RECORDED.read_bytes())


def _pcm(file: bytes) -> bytes:
    with wave.open(io.BytesIO(file)) as heard:
        rate = heard.getframerate()
        # what is written to a pipe has no true length in its header
        samples = np.frombuffer(heard.readframes(len(file)), dtype="<i2")
    if rate == SAMPLE_RATE:
        return samples.tobytes()
    times = np.arange(0, len(samples) / rate, 1 / SAMPLE_RATE)
    return np.interp(times * rate, np.arange(len(samples)), samples).astype("<i2").tobytes()
