"""Reads a JSON object that arrives in pieces, at a cost linear in its size.

Whatever the pieces, the parts of a string add up to the same text, and no text
is given out that a longer input would take back. Rules:

- The object may stand in a code fence. What does not begin with an object at
  all is plain text and is passed through.
- Strings come in parts as they arrive; numbers, literals, arrays and objects
  come once, when they are complete: `12` may become `123`.
- Of a name that comes twice the first value counts.
- A syntax error ends the reading (BROKEN), and so does a value that not everybody
  can read; what came before it stays. Raw control characters in
  strings are let pass, as models write them. What follows the object is ignored.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

from pydantic_core import from_json

FENCE_WORD_CHARS_MAX = 30
DEPTH_MAX = 64
"""Of lists and objects in one another."""

_SPACE = " \t\r\n\ufeff"
_SPACES = re.compile(f"[{_SPACE}]*")
_FENCE = re.compile(f"```[A-Za-z0-9_+-]{{0,{FENCE_WORD_CHARS_MAX}}}[{_SPACE}]*")
_FENCE_BEGINNING = re.compile(f"`{{0,2}}|{_FENCE.pattern}")
_PLAIN_RUN = re.compile(r'[^"\\]+')
_SCALAR_RUN = re.compile(f"[^,}}\\]{_SPACE}]+")
_NESTED_RUN = re.compile(r'[^"{}\[\]]+')
_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\ufffd"
_ESCAPES: Mapping[str, str] = {
    '"': '"',
    "\\": "\\",
    "/": "/",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
}


class Reading(Enum):
    """Where in the text the reader is."""

    START = "start"
    PLAIN = "plain"
    FIRST_NAME = "first name"
    NAME = "name"
    IN_NAME = "in name"
    COLON = "colon"
    VALUE = "value"
    IN_STRING = "in string"
    IN_SCALAR = "in scalar"
    IN_NESTED = "in nested"
    COMMA = "comma"
    DONE = "done"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class PlainText:
    """A piece of text that is no JSON."""

    text: str


@dataclass(frozen=True, slots=True)
class StringPart:
    """A piece of the string value of `name`."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Member:
    """The value of `name` is complete."""

    name: str
    value: Any


Piece = PlainText | StringPart | Member


class _Text:
    """The text of one string: escapes decoded, lone surrogates replaced."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._escape = ""
        self._high = ""

    @property
    def in_escape(self) -> bool:
        return bool(self._escape)

    def add(self, text: str) -> str:
        """Raw text without quotes and backslashes."""
        return self._out(_SURROGATE.sub(_REPLACEMENT, text))

    def begin_escape(self) -> None:
        self._escape = "\\"

    def add_escaped(self, char: str) -> str | None:
        """One more character of an escape. None if it is not valid."""
        self._escape += char
        if self._escape[1] != "u":
            self._escape = ""
            return self._out(_ESCAPES[char]) if char in _ESCAPES else None
        if len(self._escape) > 2 and char not in "0123456789abcdefABCDEF":
            return None
        if len(self._escape) < 6:
            return ""
        code, self._escape = int(self._escape[2:], 16), ""
        return self._code(code)

    def end(self) -> str:
        return self._out("")

    def _code(self, code: int) -> str:
        if self._high and 0xDC00 <= code < 0xE000:
            high, self._high = ord(self._high), ""
            return self._out(chr(0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00)))
        if 0xD800 <= code < 0xDC00:
            text = self._out("")
            self._high = chr(code)
            return text
        return self._out(_SURROGATE.sub(_REPLACEMENT, chr(code)))

    def _out(self, text: str) -> str:
        if self._high:
            text, self._high = _REPLACEMENT + text, ""
        if text:
            self.parts.append(text)
        return text


class ObjectReader:
    """`feed` it the pieces of the text; then ask `state`, or `finish` it."""

    def __init__(self) -> None:
        self.state = Reading.START
        self._head = ""
        self._pieces: list[Piece] = []
        self._seen: set[str] = set()
        self._name = ""
        self._text = _Text()
        self._raw: list[str] = []
        self._depth = 0
        self._quoted = False
        self._escaped = False
        self._steps: Mapping[Reading, Callable[[str, int], int]] = {
            Reading.FIRST_NAME: self._first_name,
            Reading.NAME: self._before_name,
            Reading.IN_NAME: self._in_string,
            Reading.COLON: self._colon,
            Reading.VALUE: self._value,
            Reading.IN_STRING: self._in_string,
            Reading.IN_SCALAR: self._scalar,
            Reading.IN_NESTED: self._nested,
            Reading.COMMA: self._comma,
        }

    def feed(self, text: str) -> list[Piece]:
        """What this piece of the text completes, in order. Never raises."""
        if self.state is Reading.START:
            text = self._start(text)
        if self.state is Reading.PLAIN:
            self._plain(text)
        else:
            at = 0
            while at < len(text) and (step := self._steps.get(self.state)):
                at = step(text, at)
        pieces, self._pieces = self._pieces, []
        return pieces

    def finish(self) -> list[Piece]:
        """The text has ended. The state is DONE, PLAIN or, if the object is
        not complete, BROKEN; START if there was nothing but space."""
        if self.state is Reading.START and self._head.strip(_SPACE):
            self._plain(self._head)
            self.state = Reading.PLAIN
        elif self.state not in (Reading.START, Reading.PLAIN, Reading.DONE):
            self.state = Reading.BROKEN
        pieces, self._pieces = self._pieces, []
        return pieces

    def _start(self, text: str) -> str:
        """Decide what the text is; return what is left to read."""
        self._head += text
        bare = self._head.lstrip(_SPACE)
        fence = _FENCE.match(bare)
        body = bare[fence.end() :] if fence else bare
        if body.startswith("{"):
            self.state, self._head = Reading.FIRST_NAME, ""
            return body[1:]
        if not _FENCE_BEGINNING.fullmatch(bare):
            text, self._head = self._head, ""
            self.state = Reading.PLAIN
            return text
        return ""

    def _plain(self, text: str) -> None:
        if text:
            self._pieces.append(PlainText(_SURROGATE.sub(_REPLACEMENT, text)))

    def _first_name(self, text: str, at: int) -> int:
        return self._expect(text, at, {'"': self._begin_name, "}": self._end_object})

    def _before_name(self, text: str, at: int) -> int:
        return self._expect(text, at, {'"': self._begin_name})

    def _colon(self, text: str, at: int) -> int:
        return self._expect(text, at, {":": self._begin_value})

    def _comma(self, text: str, at: int) -> int:
        return self._expect(text, at, {",": self._next_name, "}": self._end_object})

    def _expect(self, text: str, at: int, then: Mapping[str, Callable[[], None]]) -> int:
        at = _after_spaces(text, at)
        if at == len(text):
            return at
        action = then.get(text[at])
        if action is None:
            self.state = Reading.BROKEN
        else:
            action()
        return at + 1

    def _begin_name(self) -> None:
        self.state, self._text = Reading.IN_NAME, _Text()

    def _next_name(self) -> None:
        self.state = Reading.NAME

    def _begin_value(self) -> None:
        self.state = Reading.VALUE

    def _end_object(self) -> None:
        self.state = Reading.DONE

    def _value(self, text: str, at: int) -> int:
        at = _after_spaces(text, at)
        if at == len(text):
            return at
        self._raw = []
        if text[at] == '"':
            self.state, self._text = Reading.IN_STRING, _Text()
            return at + 1
        if text[at] in "{[":
            self.state, self._depth, self._quoted, self._escaped = Reading.IN_NESTED, 0, False, False
            return at
        self.state = Reading.IN_SCALAR if text[at] not in ",}]" else Reading.BROKEN
        return at

    def _in_string(self, text: str, at: int) -> int:
        if self._text.in_escape:
            part = self._text.add_escaped(text[at])
            if part is None:
                self.state = Reading.BROKEN
                return at
            self._part(part)
            return at + 1
        if run := _PLAIN_RUN.match(text, at):
            self._part(self._text.add(run.group()))
            return run.end()
        if text[at] == "\\":
            self._text.begin_escape()
            return at + 1
        self._part(self._text.end())
        self._end_string("".join(self._text.parts))
        return at + 1

    def _part(self, text: str) -> None:
        if text and self.state is Reading.IN_STRING and self._name not in self._seen:
            self._pieces.append(StringPart(self._name, text))

    def _end_string(self, text: str) -> None:
        if self.state is Reading.IN_NAME:
            self._name = text
            self.state = Reading.COLON
        else:
            self._member(text)

    def _scalar(self, text: str, at: int) -> int:
        if run := _SCALAR_RUN.match(text, at):
            self._raw.append(run.group())
            at = run.end()
        if at < len(text):
            self._end_raw()
        return at

    def _nested(self, text: str, at: int) -> int:
        if self._quoted:
            return self._nested_string(text, at)
        if run := _NESTED_RUN.match(text, at):
            self._raw.append(run.group())
            return run.end()
        char = text[at]
        self._raw.append(char)
        if char == '"':
            self._quoted = True
        else:
            self._depth += 1 if char in "{[" else -1
        if self._depth == 0:
            self._end_raw()
        return at + 1

    def _nested_string(self, text: str, at: int) -> int:
        if not self._escaped and (run := _PLAIN_RUN.match(text, at)):
            self._raw.append(run.group())
            return run.end()
        char = text[at]
        self._raw.append(char)
        self._quoted = self._escaped or char != '"'
        self._escaped = not self._escaped and char == "\\"
        return at + 1

    def _end_raw(self) -> None:
        try:
            value = from_json("".join(self._raw), allow_inf_nan=False)
        except ValueError:
            value = math.nan
        if is_readable(value):
            self._member(value)
        else:
            self.state = Reading.BROKEN

    def _member(self, value: Any) -> None:
        self.state = Reading.COMMA
        if self._name not in self._seen:
            self._seen.add(self._name)
            self._pieces.append(Member(self._name, value))


def is_readable(value: Any, depth: int = DEPTH_MAX) -> bool:
    """Whether everybody can read a JSON value: none of its numbers is larger than
    those of JavaScript, and it is not too deep."""
    match value:
        case int() | float():
            return abs(value) <= sys.float_info.max
        case list():
            inner = cast("list[Any]", value)
        case dict():
            inner = list(cast("dict[str, Any]", value).values())
        case _:
            return True
    return depth > 0 and all(is_readable(each, depth - 1) for each in inner)


def _after_spaces(text: str, at: int) -> int:
    run = _SPACES.match(text, at)
    return run.end() if run else at
