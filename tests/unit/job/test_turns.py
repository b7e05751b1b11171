"""Turns and figures, out of what happens in a session."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent_node.job.targets import Target, target_of
from agent_node.job.turns import (
    ERROR_CHARS_MAX,
    ERRORS_MAX,
    TOOLS_MAX,
    TURNS_OPEN_MAX,
    Answers,
    Audio,
    Began,
    Ended,
    FirstHeard,
    FirstToken,
    MadeBy,
    Problem,
    Spoke,
    Tokens,
    ToolCalled,
    TurnBook,
    TurnEvent,
)
from tests.unit.job.job_world import delivery, offline_config
from tests.virtual_clock import VirtualClock
from voxplane.v1 import session_pb2


def target(revision: int, agent: str = "support") -> Target:
    """A version in force."""
    return target_of(delivery(revision, offline_config(f"text {revision}"), agent=agent))


class World:
    """A book, and what it told."""

    def __init__(self, **more: Any) -> None:
        self.clock = VirtualClock()
        self.turns: list[session_pb2.SessionTurn] = []
        self.figures: list[session_pb2.SessionFigures] = []
        self.book = TurnBook(target(1), self._told, self.clock, **more)

    def take(self, *events: TurnEvent) -> None:
        """Something happens."""
        for event in events:
            self.book.take(event)

    def _told(self, turn: session_pb2.SessionTurn, figures: session_pb2.SessionFigures) -> None:
        self.turns.append(turn)
        self.figures.append(figures)


def seconds(duration: Any) -> float:
    """A duration in seconds."""
    return round(duration.ToNanoseconds() / 1e9, 6)


def test_a_spoken_turn_has_its_delays() -> None:
    """What took how long, of a reply to speech that called a tool first; the
    response is counted from the end of the caller's turn, not of the speech."""
    world = World()
    world.book.take(Began("a", 0.0))
    world.take(MadeBy("a", target(7)), Answers("a", 0.2, 0.5), FirstToken("a", 0.3), Tokens("a", 90, 10))
    world.take(ToolCalled("a", "look_up"), MadeBy("a", target(8)), FirstToken("a", 0.1), Tokens("a", 120, 30))
    world.take(FirstHeard("a", 1.4), Spoke("a", 0.25, 1.9, 40), Audio(spoken=2.5, heard=4.0), Ended("a"))
    [turn], [figures] = world.turns, world.figures
    assert (turn.turn, turn.agent_id, turn.version, turn.revision) == (1, "support", 7, 7)
    assert turn.start_time.ToNanoseconds() == round(world.clock.time() * 1e9)
    delays = [turn.transcription_delay, turn.end_of_turn_delay, turn.first_token, turn.first_speech]
    assert [seconds(each) for each in delays] == [0.2, 0.5, 0.3, 0.25]
    assert seconds(turn.response) == 1.4
    assert (turn.input_tokens, turn.output_tokens, list(turn.tools)) == (210, 40, ["look_up"])
    assert not turn.interrupted
    assert (figures.turns, figures.tool_calls, figures.spoken_characters) == (1, 1, 40)
    assert (figures.input_tokens, figures.output_tokens) == (210, 40)
    assert (seconds(figures.spoken_audio), seconds(figures.heard_audio)) == (2.5, 4.0)


def test_what_is_not_known_is_not_set() -> None:
    """A text turn counts its response from its beginning; a greeting answers
    nobody and has none."""
    world = World()
    world.take(Began("greeting", 0.0), FirstHeard("greeting", 0.4), Spoke("greeting"), Ended("greeting"))
    world.take(Began("text", 1.0), Answers("text"), FirstHeard("text", 1.2), FirstHeard("text", 1.9))
    world.take(Spoke("text"), Ended("text"))
    greeting, text = world.turns
    names = ("transcription_delay", "end_of_turn_delay", "first_token", "first_speech", "response")
    assert not any(greeting.HasField(name) for name in names)
    assert [name for name in names if text.HasField(name)] == ["response"]
    assert seconds(text.response) == 0.2
    assert (greeting.version, world.book.turn) == (1, 2)


def test_a_turn_is_of_what_made_it() -> None:
    """A reply is of the version that made its first step; one that no model made
    is of the version in force when it began, and so is its agent."""
    world = World()
    world.book.runs(target(2))
    world.take(Began("a", 0.0), Began("b", 0.0))
    world.book.runs(target(3, agent="sales"))
    world.take(MadeBy("a", target(1)), Ended("b"), Ended("a"), Began("c", 0.0), Ended("c"))
    assert [(each.turn, each.version) for each in world.turns] == [(2, 2), (1, 1), (3, 3)]
    assert [each.agent_id for each in world.turns] == ["support", "support", "sales"]


def test_errors_are_of_their_turn_and_bounded() -> None:
    """What goes wrong in no turn comes with the next that ends; at most
    ERRORS_MAX come with one, and all count."""
    world = World()
    world.take(Problem("", 0.0, "stt", "APIConnectionError"), Began("a", 0.0))
    world.take(*(Problem("a", 0.0, "tts", "e" * 2 * ERROR_CHARS_MAX) for _ in range(2 * ERRORS_MAX)))
    world.take(Ended("a"), Problem("a", 0.0, "llm", "late"), Began("b", 0.0), Ended("b"))
    first, second = world.turns
    assert [each.source for each in first.errors] == ["stt", *["tts"] * (ERRORS_MAX - 1)]
    assert {len(each.message) for each in first.errors} == {len("APIConnectionError"), ERROR_CHARS_MAX}
    assert [(each.source, each.message) for each in second.errors] == [("llm", "late")]
    assert [each.errors for each in world.figures] == [2 * ERRORS_MAX + 1, 2 * ERRORS_MAX + 2]


def test_a_session_goes_on_in_another_process() -> None:
    """Numbers and figures begin where those of the process before ended."""
    before = World()
    before.take(
        Began("a", 0.0), Tokens("a", 5, 6), Audio(spoken=1.5, heard=2.5), Ended("a", interrupted=True)
    )
    after = World(first_turn=before.book.turn + 1, figures=before.figures[-1])
    assert after.book.turn == 2
    after.take(Began("a", 0.0), Tokens("a", 1, 1), Audio(spoken=0.5), Ended("a"))
    [turn], [figures] = after.turns, after.figures
    assert turn.turn == 2
    assert (figures.turns, figures.interruptions, figures.input_tokens, figures.output_tokens) == (2, 1, 6, 7)
    assert (seconds(figures.spoken_audio), seconds(figures.heard_audio)) == (2.0, 2.5)


def test_what_comes_late_is_in_the_figures() -> None:
    """The tokens of a reply that was interrupted are told with the next turn."""
    world = World()
    world.take(Began("a", 0.0), Ended("a", interrupted=True), Tokens("a", 50, 5), FirstToken("a", 0.1))
    world.take(Began("b", 0.0), Tokens("b", 1, 1), Ended("b"))
    assert [each.input_tokens for each in world.turns] == [0, 1]
    assert [each.input_tokens for each in world.figures] == [0, 51]
    assert [each.interrupted for each in world.turns] == [True, False]


KEYS = st.sampled_from([str(number) for number in range(TURNS_OPEN_MAX + 4)])
TIMES = st.floats(0, 10)
EVENTS = st.one_of(
    st.builds(Began, KEYS, TIMES),
    st.builds(Ended, KEYS, st.booleans()),
    st.builds(MadeBy, KEYS, st.sampled_from([target(1), target(2)])),
    st.builds(Answers, KEYS, st.none() | TIMES, st.none() | TIMES),
    st.builds(FirstToken, KEYS, TIMES),
    st.builds(FirstHeard, KEYS, TIMES),
    st.builds(Spoke, KEYS, st.none() | TIMES, st.none() | TIMES, st.integers(0, 99)),
    st.builds(ToolCalled, KEYS, st.text(max_size=200)),
    st.builds(Tokens, KEYS | st.just(""), st.integers(0, 99), st.integers(0, 99)),
    st.builds(Audio, TIMES, TIMES),
    st.builds(Problem, KEYS | st.just(""), TIMES, st.just("tts"), st.text(max_size=600)),
)


@settings(deadline=None)
@given(st.lists(EVENTS, max_size=120))
def test_every_turn_is_told_once_and_every_sum_is_right(events: list[TurnEvent]) -> None:
    """Whatever happens in whatever order: numbers have no gaps, each turn that
    began is told once, records keep the contract's bounds, and the last sums
    hold everything."""
    world = World()
    world.take(*events)
    open_before_close = len({each.turn for each in world.turns})
    world.book.close()
    world.take(Began("last", 0.0), Ended("last"))
    numbers = sorted(each.turn for each in world.turns)
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) - open_before_close <= TURNS_OPEN_MAX + 1
    kinds = Counter(type(event) for event in events)
    figures = world.figures[-1]
    assert figures.turns == len(numbers)
    assert figures.interruptions == sum(each.interrupted for each in world.turns)
    assert figures.errors == kinds[Problem]
    assert figures.tool_calls == kinds[ToolCalled]
    assert figures.input_tokens == sum(e.given for e in events if isinstance(e, Tokens))
    assert figures.spoken_characters == sum(e.characters for e in events if isinstance(e, Spoke))
    spoken = sum(e.spoken for e in events if isinstance(e, Audio))
    assert abs(seconds(figures.spoken_audio) - spoken) < 1e-3
    for turn in world.turns:
        assert len(turn.errors) <= ERRORS_MAX
        assert len(turn.tools) <= TOOLS_MAX
        assert all(len(each.message) <= ERROR_CHARS_MAX for each in turn.errors)
        assert all(len(each) <= 128 for each in turn.tools)
        assert seconds(turn.response) >= 0
