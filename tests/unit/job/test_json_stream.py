"""JSON objects that arrive in pieces."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_node.job.json_stream import Member, ObjectReader, Piece, PlainText, Reading, StringPart

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=6)


@st.composite
def written(draw: st.DrawFn) -> str:
    """An object as a model might write it."""
    value = draw(OBJECTS)
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 0, 2])))
    return draw(st.sampled_from(["{}", " \n{}\n", "```json\n{}\n```", "```{}```", "\ufeff{}  "])).replace(
        "{}", text
    )


def cut(text: str, places: list[int]) -> list[str]:
    """The text in pieces; some may be empty."""
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


def read(pieces: list[str]) -> tuple[list[Piece], Reading]:
    """All that a reader makes of the pieces, with neighbouring texts joined."""
    reader = ObjectReader()
    found: list[Piece] = []
    for text in pieces:
        for piece in reader.feed(text):
            join(found, piece)
    for piece in reader.finish():
        join(found, piece)
    return found, reader.state


def join(found: list[Piece], piece: Piece) -> None:
    """Append a piece, or add it to the last if both are of one text."""
    last = found[-1] if found else None
    match last, piece:
        case StringPart(name, before), StringPart(same, text) if name == same:
            found[-1] = StringPart(name, before + text)
        case PlainText(before), PlainText(text):
            found[-1] = PlainText(before + text)
        case _:
            found.append(piece)


def members(pieces: list[Piece]) -> dict[str, Any]:
    """The complete values."""
    return {piece.name: piece.value for piece in pieces if isinstance(piece, Member)}


@given(written(), st.lists(st.integers(0), max_size=20))
def test_the_pieces_do_not_matter(text: str, places: list[int]) -> None:
    """However an object is cut, it is read as json.loads reads it whole, and the
    parts of its strings add up to their values."""
    pieces, state = read(cut(text, places))
    assert state is Reading.DONE
    expected = json.loads(text.strip("`\ufeff \n").removeprefix("json"))
    assert members(pieces) == expected
    parts = {piece.name: piece.text for piece in pieces if isinstance(piece, StringPart)}
    assert parts == {name: value for name, value in expected.items() if isinstance(value, str) and value}
    assert read([text]) == (pieces, state)


@given(st.text(st.sampled_from('{}[]",:\\u0dnt1- `jso\n\ud83d\ude00x'), max_size=40), st.data())
def test_any_text_in_any_pieces_gives_the_same(text: str, data: st.DataObject) -> None:
    """Also what is no JSON never raises, and is read alike in any pieces."""
    places = data.draw(st.lists(st.integers(0, 100), max_size=20))
    assert read(cut(text, places)) == read([text])
    assert read(list(text)) == read([text])


@given(written(), st.integers(0))
def test_a_cut_off_object_gives_a_prefix(text: str, place: int) -> None:
    """An object that is cut off anywhere gives nothing that the whole one does
    not give: the same values, and beginnings of the same strings."""
    cut_text = text[: place % (len(text) + 1)]
    whole, _ = read([text])
    part, state = read([cut_text])
    if state is Reading.PLAIN:
        assert "{" not in cut_text
        return
    assert list(members(part).items()) == list(members(whole).items())[: len(members(part))]
    texts = {piece.name: piece.text for piece in whole if isinstance(piece, StringPart)}
    for piece in part:
        if isinstance(piece, StringPart):
            assert texts[piece.name].startswith(piece.text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'{"a": "\ud83d\ude00"}', "😀"),
        (r'{"a": "x\ud83dy"}', "x\ufffdy"),
        (r'{"a": "\ude00\ud83d"}', "\ufffd\ufffd"),
        (r'{"a": "\"\\\/\b\f\n\r\t\u00e9"}', '"\\/\b\f\n\r\té'),
        ('{"a": "two\nlines"}', "two\nlines"),
        ('{"a": 1, "a": 2}', 1),
        ('{"a": [1, {"b": "}]\\""}]}', [1, {"b": '}]"'}]),
        ('{"a": -1.5e3}', -1500.0),
    ],
)
def test_values(text: str, value: Any) -> None:
    """Escapes are decoded, lone surrogates replaced; the first of two counts."""
    for pieces in ([text], list(text)):
        found, state = read(pieces)
        assert state is Reading.DONE
        assert members(found) == {"a": value}


@pytest.mark.parametrize(
    "text",
    [
        '{"a" 1}',
        '{"a": }',
        '{"a": nope}',
        "{a: 1}",
        r'{"a": "\x"}',
        '{"a": [1}]',
        '{"a": 1,}',
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": [{"b": -1e999}]}',
        '{"a": 1' + "0" * 400 + "}",
        '{"a": ' + "[" * 100 + "]" * 100 + "}",
        "{",
    ],
)
def test_broken_objects(text: str) -> None:
    """A syntax error ends the reading and is told, and so does a value that not
    every frontend can read."""
    assert read([text])[1] is Reading.BROKEN


@pytest.mark.parametrize("text", ["Hello.", "  Hello {x}", "`a`", "```python\nprint()", "``", "123", '["a"]'])
def test_plain_text_is_passed_through(text: str) -> None:
    """What does not begin with an object comes out as it went in."""
    assert read(list(text)) == ([PlainText(text)], Reading.PLAIN)


@pytest.mark.parametrize("text", ["", " \n"])
def test_nothing(text: str) -> None:
    """Space alone is no reply."""
    assert read([text]) == ([], Reading.START)


def test_the_cost_is_linear() -> None:
    """A reply eight times as long costs about eight times as much, not 64 times."""
    factor = 8

    def seconds(characters: int) -> float:
        text = json.dumps({"text": "word " * (characters // 5), "list": [1] * (characters // 10)})
        reader, began = ObjectReader(), time.process_time()
        for at in range(0, len(text), 4):
            reader.feed(text[at : at + 4])
        return time.process_time() - began

    seconds(10_000)
    assert seconds(20_000 * factor) < max(seconds(20_000), 0.005) * factor * 4
