"""The regular expressions that a schema may use: those that mean the same to
Python, to Rust (Pydantic) and to ECMAScript (JSON Schema).

A pattern is read and written anew in words that all three share: `\\d` becomes
`[0-9]`, `.` becomes `[^\\n]`, a lazy repeat a plain one. What they read
differently, or what can be slow (look-around, back-references), is refused.
One difference cannot be written away: Python's `$` also lets a newline at the
very end of the text pass.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

REPEATS_MAX = 1_000
SIZE_MAX = 1_000
"""Characters that a pattern could match one by one, with repeats multiplied out."""
DEPTH_MAX = 20

_LAST = 0x10FFFF
_SPECIAL = set("\\^$.|?*+()[]{}")
_SPECIAL_IN_CLASS = set("\\]^-[")
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
_WRITTEN_CONTROLS = {text: f"\\{name}" for name, text in _CONTROLS.items()}
_REPEAT = re.compile(r"\{(\d{1,4})(,(\d{1,4})?)?\}")
_CODE = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})")

Ranges = tuple[tuple[int, int], ...]
"""Code points, as ranges with both ends, ascending and apart."""


class PatternError(ValueError):
    """Why a pattern is refused."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern in the shared words; `ends` if it asks for the text's end.

    `size` counts the characters that it could match one by one; `lengths` are
    the least and the most characters, if it says nothing else.
    """

    text: str
    ends: bool
    size: int = 0
    lengths: tuple[int, int | None] | None = None


def read_pattern(text: str) -> Pattern:
    """The pattern in words that all readers share. Raises PatternError."""
    reader = _Reader(text)
    written, size = reader.alternatives(0)
    if reader.rest:
        raise PatternError("a ) without its (")
    return Pattern(written, reader.ends, size)


def length_pattern(least: int, most: int | None) -> Pattern:
    """The pattern of all texts with so many characters."""
    text = rf"^[\s\S]{{{least},{'' if most is None else most}}}$"
    return Pattern(text, most is not None, lengths=(least, most))


def _ranges(*pairs: tuple[int, int]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(pairs):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def _others(ranges: Ranges) -> Ranges:
    edges = [-1, *(edge for pair in ranges for edge in pair), _LAST + 1]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return tuple((low + 1, high - 1) for low, high in pairs if low + 1 < high)


def _chars(text: str) -> Ranges:
    return _ranges(*((ord(char), ord(char)) for char in text))


_DIGITS = _ranges((ord("0"), ord("9")))
_WORDS = _ranges(*_DIGITS, (ord("A"), ord("Z")), (ord("a"), ord("z")), *_chars("_"))
_SPACES = _chars(" \t\n\r\f\v")
_CLASSES: dict[str, Ranges] = {
    "d": _DIGITS,
    "w": _WORDS,
    "s": _SPACES,
    "D": _others(_DIGITS),
    "W": _others(_WORDS),
    "S": _others(_SPACES),
}
_NOT_NEWLINE = _others(_chars("\n"))


def _written(ranges: Ranges) -> str:
    """A set of characters as an atom."""
    if not ranges:
        raise PatternError("a class that no character is in")
    if ranges == ((0, _LAST),):
        return r"[\s\S]"
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return _char(chr(ranges[0][0]), _SPECIAL)
    if ranges[-1][1] == _LAST:
        return f"[^{_members(_others(ranges))}]"
    return f"[{_members(ranges)}]"


def _members(ranges: Ranges) -> str:
    return "".join(_member(low, high) for low, high in ranges)


def _member(low: int, high: int) -> str:
    first, last = _char(chr(low), _SPECIAL_IN_CLASS), _char(chr(high), _SPECIAL_IN_CLASS)
    return first if low == high else f"{first}{last}" if high == low + 1 else f"{first}-{last}"


def _char(char: str, special: set[str]) -> str:
    return f"\\{char}" if char in special else _WRITTEN_CONTROLS.get(char, char)


class _Reader:
    """Reads from left to right; each method returns what it wrote and its size."""

    def __init__(self, text: str) -> None:
        self.rest = text
        self.ends = False

    def alternatives(self, depth: int) -> tuple[str, int]:
        if depth > DEPTH_MAX:
            raise PatternError(f"groups are nested more than {DEPTH_MAX} deep")
        text, size = self._sequence(depth)
        while self._take("|"):
            more, its = self._sequence(depth)
            text, size = f"{text}|{more}", size + its
        return text, size

    def _sequence(self, depth: int) -> tuple[str, int]:
        text, size = "", 0
        if self._take("^"):
            self._outside_groups(depth, "^")
            text = "^"
        while self.rest and self.rest[0] not in "|)":
            if self._take("$"):
                self._outside_groups(depth, "$")
                if self.rest and self.rest[0] != "|":
                    raise PatternError("$ must be the last of the pattern or of an alternative")
                self.ends = True
                return f"{text}$", size
            atom, its = self._atom(depth)
            repeat, times = self._repeat()
            text, size = text + atom + repeat, size + its * times
            if size > SIZE_MAX:
                raise PatternError(f"matches more than {SIZE_MAX} characters one by one")
        return text, size

    def _outside_groups(self, depth: int, anchor: str) -> None:
        if depth:
            raise PatternError(f"{anchor} must not be in a group")

    def _atom(self, depth: int) -> tuple[str, int]:
        char = self._next()
        match char:
            case "(":
                return self._group(depth)
            case "[":
                return _written(self._class()), 1
            case ".":
                return _written(_NOT_NEWLINE), 1
            case "\\":
                return _written(self._escape(_SPECIAL)), 1
            case "^":
                raise PatternError("^ must be the first of the pattern or of an alternative")
            case "*" | "+" | "?":
                raise PatternError(f"{char} has nothing to repeat")
            case "{" | "}" | "]":
                raise PatternError(f"write \\{char} for the character {char}")
            case _:
                return _written(_chars(char)), 1

    def _group(self, depth: int) -> tuple[str, int]:
        if self._take("?"):
            if self.rest.startswith(("=", "!", "<=", "<!")):
                raise PatternError("has look-around")
            if not self._take(":"):
                raise PatternError("groups are (…) or (?:…), without names and flags")
        text, size = self.alternatives(depth + 1)
        if not self._take(")"):
            raise PatternError("a ( without its )")
        return f"(?:{text})", size

    def _repeat(self) -> tuple[str, int]:
        text, times = "", 1
        if self.rest[:1] in ("*", "+", "?") and self.rest:
            text = self._next()
        elif self.rest.startswith("{"):
            found = _REPEAT.match(self.rest)
            if found is None:
                raise PatternError("write {n}, {n,} or {n,m} to repeat, and \\{ for the character {")
            self.rest = self.rest[found.end() :]
            text, times = _counted(found)
        if text:
            self._take("?")
            if self.rest and self.rest[0] in "*+?{":
                raise PatternError("one repeat follows another")
        return text, times

    def _class(self) -> Ranges:
        negated = self._take("^")
        pairs: list[tuple[int, int]] = []
        if self.rest.startswith("]"):
            raise PatternError("write \\] for the character ] in a class")
        while not self._take("]"):
            low = self._class_member()
            if not self.rest.startswith("-") or self.rest.startswith("-]"):
                pairs += low
                continue
            self._take("-")
            high = self._class_member()
            if len(low) != 1 or len(high) != 1 or low[0][0] != low[0][1] or high[0][0] != high[0][1]:
                raise PatternError("a range in a class goes from one character to another")
            if high[0][0] < low[0][0]:
                raise PatternError("a range in a class runs backwards")
            pairs.append((low[0][0], high[0][0]))
        ranges = _ranges(*pairs)
        return _others(ranges) if negated else ranges

    def _class_member(self) -> Ranges:
        char = self._next("a [ without its ]")
        if char == "[":
            raise PatternError("write \\[ for the character [ in a class")
        if char in "&|~-" and self.rest.startswith(char):
            raise PatternError(f"{char}{char} in a class: a character stands there once")
        return self._escape(_SPECIAL | _SPECIAL_IN_CLASS) if char == "\\" else _chars(char)

    def _escape(self, special: set[str]) -> Ranges:
        code = _CODE.match(self.rest)
        if code is not None:
            self.rest = self.rest[code.end() :]
            point = int(code[1] or code[2], 16)
            if 0xD800 <= point <= 0xDFFF:
                raise PatternError("half a character: write the whole one")
            return ((point, point),)
        char = self._next("ends with a \\")
        if char in _CLASSES:
            return _CLASSES[char]
        if char in _CONTROLS:
            return _chars(_CONTROLS[char])
        if char in special or (char.isascii() and not char.isalnum()):
            return _chars(char)
        if char in "123456789k":
            raise PatternError("has a back-reference")
        if char in "bB":
            raise PatternError("\\b means different things to different readers")
        raise PatternError(f"\\{char} is not known to all readers")

    def _next(self, at_end: str = "ends too early") -> str:
        if not self.rest:
            raise PatternError(at_end)
        char, self.rest = self.rest[0], self.rest[1:]
        return char

    def _take(self, text: str) -> bool:
        taken = self.rest.startswith(text)
        if taken:
            self.rest = self.rest[len(text) :]
        return taken


def _counted(found: re.Match[str]) -> tuple[str, int]:
    least = int(found[1])
    most = least if found[2] is None else int(found[3]) if found[3] else None
    if max(least, most or 0) > REPEATS_MAX:
        raise PatternError(f"repeats more than {REPEATS_MAX} times")
    if most is not None and most < least:
        raise PatternError("a repeat runs backwards")
    if most == least:
        return f"{{{least}}}", least
    return f"{{{least},{'' if most is None else most}}}", least + 1 if most is None else most
