"""What a constructor's parameter takes of JSON."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Optional

import pytest
from aiohttp import ClientSession as Session
from hypothesis import given
from hypothesis import strategies as st
from livekit.agents import LanguageCode
from livekit.agents.types import NotGivenOr
from pydantic import BaseModel
from typing_extensions import TypedDict

from agent_node.providers.values import UnfitValueError, value_type


class Mood(Enum):
    CALM = "calm"
    GLAD = "glad"


class Detection(TypedDict, total=False):
    threshold: float
    kind: Literal["server", "client"]


class Silence(typing.TypedDict, total=False):
    seconds: float


class Reasoning(BaseModel):
    effort: Literal["low", "high"] | None = None


TAKES: list[tuple[Any, Any, Any]] = [
    (str, "a", "a"),
    (int, 16000.0, 16000),
    (float, 2, 2.0),
    (bool, True, True),
    (float | str, 1.5, 1.5),
    (Literal[8000, 16000], 8000.0, 8000),
    (NotGivenOr[Literal["near", "far"]], "near", "near"),
    (Optional[int], None, None),  # noqa: UP045
    (Mood, "glad", Mood.GLAD),
    (list[str], ["a", "b"], ["a", "b"]),
    (list[str], "a", ["a"]),
    (Sequence[str] | str, "a", "a"),
    (list[tuple[str, float]], [["a", 1]], [("a", 1.0)]),
    (dict[str, str] | None, {"a": "b"}, {"a": "b"}),
    (NotGivenOr[Detection], {"threshold": 1}, {"threshold": 1.0}),
    (NotGivenOr[Silence | None], {"seconds": 2}, {"seconds": 2.0}),
    (Reasoning | None, {"effort": "low"}, Reasoning(effort="low")),
    (LanguageCode | None, "en-us", "en-us"),
    (timedelta, "PT2S", timedelta(seconds=2)),
    (Any, {"a": [1.0]}, {"a": [1]}),
]
REFUSES: list[tuple[Any, Any, str]] = [
    (str, 5, "a text"),
    (int, "5", "a whole number"),
    (int, 5.5, "a whole number"),
    (float, True, "a number"),
    (bool, 1, "true or false"),
    (Literal["near", "far"], "nearby", "one of 'near', 'far'"),
    (Literal[8000, 16000], 44100, "one of 8000, 16000"),
    (Mood, "sulky", "one of 'calm', 'glad'"),
    (Optional[int], "x", "a whole number or null"),  # noqa: UP045
    (list[str], [1], "a list of a text"),
    (Literal["a"] | str, 1, "a text"),
    (NotGivenOr[Detection], {"threshold": "high"}, "an object with threshold, kind"),
    (Reasoning, "low", "an object with effort"),
]


@pytest.mark.parametrize(("hint", "value", "wanted"), TAKES)
def test_a_fitting_value_becomes_what_python_wants(hint: Any, value: Any, wanted: Any) -> None:
    """Numbers of a Struct become whole where they are, texts enums, objects models."""
    kind = value_type(hint)
    assert kind is not None
    got = kind.parse(value)
    assert (type(got), got) == (type(wanted), wanted)


@pytest.mark.parametrize(("hint", "value", "said"), REFUSES)
def test_an_unfit_value_is_refused_with_what_would_fit(hint: Any, value: Any, said: str) -> None:
    """Nothing is made fit by force: "5" is not 5, and 1 is not true."""
    kind = value_type(hint)
    assert kind is not None
    with pytest.raises(UnfitValueError) as caught:
        kind.parse(value)
    assert str(caught.value) == f"must be {said}"


UNSAYABLE = [Session, Session | None, Path, NotGivenOr[object], list[Session]]


@pytest.mark.parametrize("hint", UNSAYABLE)
def test_what_json_cannot_say_is_no_value(hint: Any) -> None:
    """A client, a session or a file cannot be said, nor can the null beside it."""
    assert value_type(hint) is None


SECRET = "hunter2hunter2"
SCALARS = st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.just(SECRET)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", SECRET]), inner, max_size=3)
    ),
    max_leaves=6,
)
HINTS = st.sampled_from([each[0] for each in (*TAKES, *REFUSES)])


@given(HINTS, VALUES)
def test_a_refusal_never_repeats_the_value(hint: Any, value: Any) -> None:
    """Any value is taken or refused, and a refusal holds nothing of it."""
    kind = value_type(hint)
    assert kind is not None
    refusal = ""
    try:
        kind.parse(value)
    except UnfitValueError as refused:
        refusal = str(refused)
    assert refusal in ("", f"must be {kind.said}")
    assert SECRET not in refusal
