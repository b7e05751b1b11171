"""What a caller hears of an agent's voice."""

from __future__ import annotations

import math
from array import array

import pytest

from agent_node.demo.hearing import END_SECONDS, Hearing

RATE = 24_000
FRAME = RATE // 100
SECONDS = 0.01


def tone(hertz: int, frame: int) -> array[int]:
    """The frame with this number of an endless tone."""
    return array(
        "h", (int(2_000 * math.sin(2 * math.pi * hertz * (frame * FRAME + i) / RATE)) for i in range(FRAME))
    )


SILENCE = array("h", [0] * FRAME)


class Line:
    """Frames that arrive a hundredth of a second apart."""

    def __init__(self) -> None:
        self.hearing = Hearing(RATE)
        self.at = 100.0
        self.told: list[bool] = []
        self._frames = 0

    def speak(self, seconds: float, hertz: int = 300) -> None:
        """A tone."""
        for _ in range(round(seconds / SECONDS)):
            self._arrive(tone(hertz, self._frames))

    def pause(self, seconds: float) -> None:
        """Silence."""
        for _ in range(round(seconds / SECONDS)):
            self._arrive(SILENCE)

    def _arrive(self, samples: array[int]) -> None:
        self.at += SECONDS
        self._frames += 1
        changed = self.hearing.hear(self.at, samples)
        if changed is not None:
            self.told.append(changed)


def test_speech_begins_and_ends() -> None:
    """It begins with the first loud frame and has ended after END_SECONDS of quiet; its length, its pitch
    and that it has no gap are known."""
    line = Line()
    line.pause(0.2)
    assert line.hearing.heard is None
    line.speak(1.0, hertz=400)
    line.pause(END_SECONDS)
    assert line.told == [True, False]
    heard = line.hearing.heard
    assert heard is not None
    assert heard.began == pytest.approx(100.21)
    assert heard.seconds == pytest.approx(1.0)
    assert heard.pitch == pytest.approx(400, rel=0.05)
    assert (heard.longest_quiet, heard.longest_wait) == (0.0, pytest.approx(SECONDS))


def test_a_gap_is_quiet_between_speech() -> None:
    """Quiet that speech follows is a gap, and the longest counts; the quiet at the end is none."""
    line = Line()
    for pause in (0.05, 0.12, 0.03):
        line.speak(0.3)
        line.pause(pause)
    line.speak(0.3)
    line.pause(0.2)
    heard = line.hearing.heard
    assert heard is not None
    assert heard.longest_quiet == pytest.approx(0.12)
    assert heard.seconds == pytest.approx(1.2)


def test_a_wait_for_a_frame_counts() -> None:
    """A frame that comes late within speech is a wait, also if it is loud."""
    line = Line()
    line.speak(0.3)
    line.at += 0.25
    line.speak(0.3)
    heard = line.hearing.heard
    assert heard is not None
    assert heard.longest_wait == pytest.approx(0.26)


def test_what_follows_can_be_measured_by_itself() -> None:
    """After a measurement the next holds nothing of what was before: neither its gaps nor its pitch."""
    line = Line()
    line.speak(0.3)
    line.pause(0.2)
    line.speak(0.3, hertz=300)
    line.hearing.measure_anew()
    line.speak(0.5, hertz=600)
    heard = line.hearing.heard
    assert heard is not None
    assert heard.seconds == pytest.approx(0.5)
    assert heard.pitch == pytest.approx(600, rel=0.05)
    assert heard.longest_quiet == 0.0
