"""What the benchmark of live calls makes of its measurements."""

from __future__ import annotations

import pytest

from bench.voice_figures import (
    DROPOUT_SECONDS,
    Found,
    Reply,
    Step,
    clean_calls,
    dropouts,
    losses,
    ratio,
    spread,
    tail,
)

WHOLE = Reply(delay=0.5, gap=0.0, wait=0.012, concealed=0)
BROKEN = Reply(delay=0.9, gap=0.12, wait=0.03, concealed=480)


def step(calls: int, *replies: Reply, failed: int = 0) -> Step:
    """So many calls with these replies."""
    return Step(calls, machine=0.5, cores=0.2, replies=replies, failed=failed)


def test_a_dropout_is_a_silence_that_can_be_heard() -> None:
    """Shorter ones do not count, and a reply that did not come does."""
    assert not Reply(0.5, DROPOUT_SECONDS / 2, 0.1, 0).drops
    assert Reply(0.5, DROPOUT_SECONDS, 0.0, 0).drops
    assert step(1, WHOLE, WHOLE).clean
    assert step(1, WHOLE, BROKEN).dropped == 1
    assert step(1, WHOLE, failed=2).dropped == 2
    assert not step(1).clean


def test_calls_count_until_the_first_dropout() -> None:
    """A later step without one does not make up for it, and all steps with as many calls have to be clean."""
    assert clean_calls([step(1, WHOLE), step(2, WHOLE), step(3, BROKEN), step(4, WHOLE)]) == 2
    assert clean_calls([step(2, WHOLE), step(1, WHOLE), step(2, BROKEN)]) == 1
    assert clean_calls([step(1, BROKEN)]) == 0
    assert clean_calls([]) == 0


def test_the_ratio_is_that_of_the_medians() -> None:
    """An outlier does not move it; without measurements there is none."""
    assert ratio([2.0, 2.0, 90.0], [1.0, 1.0, 1.0]) == 2.0
    assert ratio([], [1.0]) is None
    assert ratio([1.0], [0.0]) is None


def test_replies_are_those_of_so_many_calls() -> None:
    """Over all rounds."""
    found = Found(steps=[step(1, WHOLE), step(2, BROKEN), step(1, BROKEN)])
    assert found.replies(1) == [WHOLE, BROKEN]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (spread([0.5, 0.25, 2.0], 1e3, "ms"), "500 (2,000) ms"),
        (spread([0.2], 1, "cores"), "0.200 (0.200) cores"),
        (tail([float(value) for value in range(1, 101)], 1, "ms"), "51.0 / 100 ms"),
        (dropouts([WHOLE, BROKEN]), "1 of 2, longest 120 ms"),
        (losses([WHOLE, BROKEN]), "30 ms, 480 samples"),
        (spread([], 1, "ms"), ""),
        (tail([], 1, "ms"), ""),
        (dropouts([]), ""),
        (losses([]), ""),
    ],
)
def test_figures_for_people(shown: str, expected: str) -> None:
    """Medians with the longest in brackets, p50 and p99, and nothing where nothing was measured."""
    assert shown == expected
