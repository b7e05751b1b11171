"""Log lines on their way to a stream that may not take them."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from control_plane.edge.log_lines import LogLines

WAIT_SECONDS_MAX = 30.0


class StuckStream(io.StringIO):
    """Takes nothing until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        """Part of TextIO's interface."""
        self.reached.set()
        self.released.wait(WAIT_SECONDS_MAX)
        return super().write(text)


class GoneStream(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text: str) -> int:
        """Part of TextIO's interface."""
        raise BrokenPipeError


@pytest.fixture
def stuck() -> Iterator[StuckStream]:
    """A stream that is released at last."""
    stream = StuckStream()
    yield stream
    stream.released.set()


def test_lines_are_passed_on_in_their_order() -> None:
    """What is written is in the stream when the lines are closed."""
    stream = io.StringIO()
    lines = LogLines(stream)
    for number in range(1_000):
        lines.write(f"{number}\n")
    lines.close()
    assert stream.getvalue().split() == [str(number) for number in range(1_000)]


def test_who_writes_does_not_wait_for_the_stream(stuck: StuckStream) -> None:
    """A stream that takes nothing holds nobody up; what is beyond the bound is
    dropped, and how much is told when the stream takes lines again."""
    lines = LogLines(stuck, lines_max=3)
    lines.write("first\n")
    assert stuck.reached.wait(WAIT_SECONDS_MAX)
    with capture_logs() as told:
        for number in range(10):
            lines.write(f"{number}\n")
        stuck.released.set()
        lines.close()
    assert stuck.getvalue().split() == ["first", "0", "1", "2"]
    assert [line["lines"] for line in told] == [7]


def test_a_reader_that_has_gone_ends_nothing() -> None:
    """Lines for a broken pipe are lost, and those who write go on."""
    lines = LogLines(GoneStream())
    lines.write("lost\n")
    lines.close()
    lines.write("lost too\n")
