"""Who is among a share of all callers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxplane.buckets import BUCKETS, bucket, takes_part

PERCENTS = st.floats(0, 100)


@pytest.mark.parametrize(
    ("salt", "key", "expected"),
    [
        ("voxplane", "ada", 7937),
        ("voxplane", "bob", 8333),
        ("new-voice", "ada", 4587),
        ("", "", 3192),
        ("s", "müller", 1078),
    ],
)
def test_the_buckets_of_known_callers(salt: str, key: str, expected: int) -> None:
    """These are fixed for ever: other languages deal callers out likewise."""
    assert bucket(salt, key) == expected


@given(st.text(min_size=1), PERCENTS, PERCENTS)
def test_who_is_in_stays_in_while_the_share_grows(key: str, one: float, other: float) -> None:
    """Of two shares the larger has everybody whom the smaller has."""
    less, more = sorted((one, other))
    assert takes_part(key, more) or not takes_part(key, less)


@given(st.text(min_size=1))
def test_nobody_and_everybody(key: str) -> None:
    """0 percent is nobody, 100 everybody; without a key nobody is in."""
    assert not takes_part(key, 0)
    assert takes_part(key, 100)
    assert not takes_part("", 100)


def test_the_share_is_about_the_percentage() -> None:
    """Of many callers about that many take part, and another salt picks others."""
    callers = [f"user-{number}" for number in range(20_000)]
    ten = {each for each in callers if takes_part(each, 10)}
    others = {each for each in callers if takes_part(each, 10, salt="another")}
    assert 0.09 < len(ten) / len(callers) < 0.11
    assert len(ten & others) < len(ten) / 5
    assert all(0 <= bucket("voxplane", each) < BUCKETS for each in callers)


@pytest.mark.parametrize("percent", [-1, 100.5, float("nan")])
def test_a_share_is_a_percentage(percent: float) -> None:
    """Anything else than 0 to 100 is refused."""
    with pytest.raises(ValueError, match="percent: "):
        takes_part("ada", percent)
