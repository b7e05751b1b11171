"""When a session has to end by itself."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from agent_node.job.life import Life
from voxplane.v1 import session_pb2
from voxplane.v1.agent_config_pb2 import LimitsConfig

SILENCE, DURATION = 10, 60


def limits(silence: int = 0, duration: int = 0) -> LimitsConfig:
    """Limits in seconds; 0 is none."""
    made = LimitsConfig()
    if silence:
        made.silence_timeout.FromSeconds(silence)
    if duration:
        made.max_session_duration.FromSeconds(duration)
    return made


def test_a_session_without_limits_goes_on() -> None:
    """Nothing ends it, however long it lasts."""
    life = Life(0.0)
    life.limit(limits())
    assert life.left(1e9) == math.inf
    assert life.ending(1e9) is None


def test_silence_counts_from_the_last_word_of_either_side() -> None:
    """While the caller speaks or the agent works nobody is silent."""
    life = Life(0.0)
    life.limit(limits(SILENCE))
    life.user(5.0, speaks=True)
    assert life.left(100.0) == math.inf
    life.user(100.0, speaks=False)
    life.agent(100.0, works=True)
    assert life.ending(150.0) is None
    life.agent(150.0, works=False)
    assert life.left(153.0) == SILENCE - 3
    ending = life.ending(150.0 + SILENCE)
    assert ending is not None
    assert ending.outcome == session_pb2.SESSION_OUTCOME_SILENCE_LIMIT


def test_words_of_a_caller_who_goes_on_speaking_are_no_silence() -> None:
    """A transcript comes in the middle of speech too."""
    life = Life(0.0)
    life.limit(limits(SILENCE))
    life.user(5.0, speaks=True)
    life.heard(6.0)
    assert life.ending(100.0) is None
    life.user(100.0, speaks=False)
    life.heard(104.0)
    assert life.left(104.0) == SILENCE


def test_the_duration_counts_from_the_beginning_also_while_somebody_speaks() -> None:
    """The longest session ends whatever happens in it."""
    life = Life(7.0)
    life.limit(limits(duration=DURATION))
    life.user(50.0, speaks=True)
    assert life.left(60.0) == 7.0
    ending = life.ending(7.0 + DURATION)
    assert ending is not None
    assert ending.outcome == session_pb2.SESSION_OUTCOME_DURATION_LIMIT


def test_limits_change_while_the_session_runs() -> None:
    """New limits count from the beginning and from the last word, not from the change."""
    life = Life(0.0)
    life.limit(limits(SILENCE, DURATION))
    life.limit(limits(duration=2 * DURATION))
    assert life.ending(DURATION + 1.0) is None
    life.limit(limits(silence=3))
    assert life.ending(DURATION + 1.0) is not None


@given(
    st.lists(st.tuples(st.sampled_from(["user", "agent"]), st.booleans(), st.floats(0, 20)), max_size=30),
    st.floats(0, 40),
)
def test_a_session_ends_exactly_when_no_time_is_left(
    steps: list[tuple[str, bool, float]], later: float
) -> None:
    """Who sleeps for the time that is left, and looks then, misses no end and
    comes to none too early."""
    life, now = Life(0.0), 0.0
    life.limit(limits(SILENCE, DURATION))
    for side, active, pause in steps:
        now += pause
        if side == "user":
            life.user(now, speaks=active)
        else:
            life.agent(now, works=active)
    now += later
    assert (life.ending(now) is not None) == (life.left(now) <= 0.0)
    if life.ending(now) is None and life.left(now) < math.inf:
        assert life.ending(now + life.left(now) + 1e-6) is not None
