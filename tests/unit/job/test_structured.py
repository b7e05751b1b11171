"""What of a structured reply is spoken and shown."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_node.job.structured import BETWEEN_FIELDS, FieldDone, FieldPart, ReplyReader, ReplyShape, Spoken

SHAPE = ReplyShape(
    names=("tone", "answer", "score", "question", "note"),
    spoken=("answer", "question"),
    hidden=frozenset({"note"}),
    required=frozenset({"tone", "answer"}),
    defaults={"question": "And you?", "score": 5, "note": "none"},
)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
REPLIES = st.fixed_dictionaries(
    {"tone": TEXTS, "answer": TEXTS},
    optional={
        "score": st.none() | st.integers(0, 10),
        "question": st.none() | TEXTS,
        "note": st.none() | TEXTS,
        "unknown": TEXTS,
    },
)


@st.composite
def written(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    """A reply, and its JSON with the members in any order."""
    reply = draw(REPLIES)
    names = draw(st.permutations(list(reply)))
    return reply, json.dumps({name: reply[name] for name in names}, ensure_ascii=draw(st.booleans()))


def read(pieces: list[str], shape: ReplyShape = SHAPE) -> tuple[str, list[FieldDone], ReplyReader]:
    """The spoken text, the fields as they were done, and the reader."""
    reader = ReplyReader(shape)
    said = [each for piece in pieces for each in reader.feed(piece)] + reader.finish()
    spoken = "".join(each.text for each in said if isinstance(each, Spoken))
    return spoken, [each for each in said if isinstance(each, FieldDone)], reader


def cut(text: str, places: list[int]) -> list[str]:
    """The text in pieces."""
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


@given(written(), st.lists(st.integers(0), max_size=20))
def test_pieces_and_order_do_not_matter(reply: tuple[dict[str, Any], str], places: list[int]) -> None:
    """However the reply is cut and its members are ordered, the spoken fields
    come in schema order, with defaults for nulls, and nothing else is spoken."""
    values, text = reply
    spoken, done, reader = read(cut(text, places))
    full = {
        name: SHAPE.defaults.get(name) if values.get(name) is None else values[name]
        for name in SHAPE.names
        if name in values or name in SHAPE.defaults
    }
    said = [full[name] for name in SHAPE.spoken if full[name]]
    assert spoken == BETWEEN_FIELDS.join(said)
    assert reader.fields == full
    assert {each.name: each.value for each in done} == full
    assert all(each.hidden == (each.name == "note") for each in done)
    assert reader.problem is None


@given(written(), st.integers(0), st.lists(st.integers(0), max_size=8))
def test_a_cut_off_reply_keeps_what_was_spoken(
    reply: tuple[dict[str, Any], str], place: int, places: list[int]
) -> None:
    """A reply that is cut off anywhere never raises; what is spoken is the
    beginning of the whole, the other fields take their defaults."""
    values, text = reply
    cut_text = text[: place % len(text)]
    whole, _, _ = read([text])
    spoken, _, reader = read(cut(cut_text, places))
    assert whole.startswith(spoken)
    assert reader.problem is not None
    for name, value in reader.fields.items():
        given_value = values.get(name)
        assert value in (given_value, SHAPE.defaults.get(name))
    assert SHAPE.defaults.keys() <= reader.fields.keys()


def test_strings_are_spoken_as_they_arrive() -> None:
    """A spoken string streams; a field that is not spoken makes no sound."""
    reader = ReplyReader(SHAPE)
    assert reader.feed('{"tone": "ca') == [FieldPart("tone", "ca")]
    assert reader.feed('lm", "answer": "Go') == [
        FieldPart("tone", "lm"),
        FieldDone("tone", "calm", hidden=False),
        FieldPart("answer", "Go"),
        Spoken("Go"),
    ]
    assert reader.feed("od") == [FieldPart("answer", "od"), Spoken("od")]


@given(written(), st.lists(st.integers(0), max_size=20))
def test_the_parts_of_a_field_make_its_value(reply: tuple[dict[str, Any], str], places: list[int]) -> None:
    """What is shown of a string as it arrives is the string; of a hidden field
    nothing is shown."""
    values, text = reply
    reader = ReplyReader(SHAPE)
    said = [each for piece in cut(text, places) for each in reader.feed(piece)] + reader.finish()
    shown = dict.fromkeys(values, "")
    for each in said:
        if isinstance(each, FieldPart):
            shown[each.name] += each.text
    strings = {name: value for name, value in values.items() if isinstance(value, str)}
    expected = {name: strings.get(name, "") if name in SHAPE.names else "" for name in values}
    assert shown == expected | ({"note": ""} if "note" in values else {})


def test_a_field_that_comes_too_early_waits() -> None:
    """Fields are spoken in schema order, whatever the model does."""
    reader = ReplyReader(SHAPE)
    assert reader.feed('{"question": "Why?", ') == [
        FieldPart("question", "Why?"),
        FieldDone("question", "Why?", hidden=False),
    ]
    said = reader.feed('"answer": "Well."')
    assert [each for each in said if isinstance(each, Spoken)] == [Spoken("Well."), Spoken(" Why?")]


def test_plain_text_is_speech() -> None:
    """Plain text in place of JSON is spoken whole; the fields take their defaults."""
    spoken, _, reader = read(["Sorry, ", "what?"])
    assert spoken == "Sorry, what?"
    assert reader.fields == {"question": "And you?", "score": 5, "note": "none"}
    assert reader.problem == "the reply is plain text in place of a JSON object"


def test_a_code_fence_is_not_spoken() -> None:
    """JSON in a code fence is read as JSON."""
    spoken, _, reader = read(["```js", 'on\n{"tone": "", "answer": "Hi.", "question": ""}\n```'])
    assert spoken == "Hi."
    assert reader.problem is None


def test_broken_json_keeps_what_was_spoken() -> None:
    """After a syntax error nothing more is spoken, and the problem quotes nothing."""
    spoken, _, reader = read(['{"tone": "x", "answer": "The secret is', r" \x 42", '"}'])
    assert spoken == "The secret is "
    assert reader.problem == "the reply is broken JSON, or was cut off"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the reply is empty"),
        ('{"answer": "x"}', "the reply lacks tone"),
        ("{}", "the reply lacks tone, answer"),
    ],
)
def test_incomplete_replies(text: str, problem: str) -> None:
    """What is missing is named."""
    assert read([text])[2].problem == problem


def test_a_schema_without_spoken_fields_is_silent() -> None:
    """Nothing is spoken, all is shown."""
    spoken, done, _ = read(['{"stage": "intro", "score": 3}'], ReplyShape(names=("stage", "score")))
    assert spoken == ""
    assert [each.name for each in done] == ["stage", "score"]


def test_a_hidden_field_is_never_spoken() -> None:
    """Hidden wins over use_in_tts."""
    shape = ReplyShape(names=("a", "b"), spoken=("a", "b"), hidden=frozenset({"a"}))
    assert read(['{"a": "secret", "b": "public"}'], shape)[0] == "public"
