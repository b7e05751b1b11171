"""What the callers' ears make of frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.livekit.ear import END_SECONDS, Began, Ear, Heard
from tests.vendors.sound import pitch, tone

RATE = 24_000
FRAME = RATE // 100


def frames(pcm: bytes) -> list[NDArray[np.int16]]:
    """The audio in frames of 10 ms."""
    samples = np.frombuffer(pcm, dtype=np.int16)
    return [samples[i : i + FRAME] for i in range(0, len(samples), FRAME)]


def silence(seconds: float) -> list[NDArray[np.int16]]:
    """Frames of nothing."""
    return [np.zeros(FRAME, dtype=np.int16)] * math.ceil(seconds * 100)


def heard(audio: list[NDArray[np.int16]], waits: dict[int, float] | None = None) -> list[Began | Heard]:
    """What is told of frames that come every 10 ms; before some of them a wait is longer."""
    ear, now = Ear(RATE), 0.0
    told: list[Began | Heard] = []
    for number, frame in enumerate(audio):
        now += 0.01 + (waits or {}).get(number, 0.0)
        told += ear.hear(now, frame)
    return told + ear.end()


def test_speech_without_a_gap() -> None:
    """It begins with its first frame, ends with its last, and has the voice's pitch throughout."""
    began, spoken = heard(
        [*silence(0.2), *frames(tone("alloy", "one two three", RATE)), *silence(END_SECONDS)]
    )
    assert isinstance(began, Began)
    assert isinstance(spoken, Heard)
    assert spoken.began == began.at == pytest.approx(0.21)
    assert spoken.ended - spoken.began == pytest.approx(0.3)
    assert (spoken.loud_seconds, spoken.quiet_seconds) == (pytest.approx(0.3), 0)
    assert spoken.longest_quiet_seconds == 0
    assert [round(each / pitch("alloy"), 2) for each in spoken.pitches] == [1.0] * 3


@pytest.mark.parametrize("seconds", [0.01, 0.03, END_SECONDS - 0.01])
def test_a_gap_is_heard_to_the_frame(seconds: float) -> None:
    """Silence in the middle of speech is a gap, of its own length."""
    half = frames(tone("alloy", "one two", RATE))
    _, spoken = heard([*half, *silence(seconds), *half, *silence(END_SECONDS)])
    assert isinstance(spoken, Heard)
    assert spoken.longest_quiet_seconds == pytest.approx(seconds)
    assert spoken.quiet_seconds == pytest.approx(seconds)


def test_the_longest_of_many_gaps_counts() -> None:
    """Gaps are not added up."""
    part = frames(tone("alloy", "one", RATE))
    _, spoken = heard([*part, *silence(0.02), *part, *silence(0.05), *part])
    assert isinstance(spoken, Heard)
    assert spoken.longest_quiet_seconds == pytest.approx(0.05)
    assert spoken.quiet_seconds == pytest.approx(0.07)


def test_frames_that_come_late_are_a_wait_and_no_gap() -> None:
    """A wait between two frames of speech is told apart from silence in it."""
    audio = frames(tone("alloy", "one two", RATE))
    _, spoken = heard(audio, {7: 0.12})
    assert isinstance(spoken, Heard)
    assert spoken.longest_wait_seconds == pytest.approx(0.13)
    assert spoken.longest_quiet_seconds == 0


def test_another_voice_is_heard_as_one() -> None:
    """Voices that change within speech show in its pitches."""
    _, spoken = heard([*frames(tone("alloy", "one two", RATE)), *frames(tone("nova", "one two", RATE))])
    assert isinstance(spoken, Heard)
    found = [round(each / 10) for each in spoken.pitches]
    assert found == [round(pitch(voice) / 10) for voice in ("alloy", "alloy", "nova", "nova")]


def test_two_speeches_with_a_pause_between_them() -> None:
    """After END_SECONDS of quiet the next frame begins another speech."""
    part = frames(tone("alloy", "one", RATE))
    told = heard([*part, *silence(END_SECONDS), *part, *silence(END_SECONDS)])
    assert [type(each) for each in told] == [Began, Heard, Began, Heard]
