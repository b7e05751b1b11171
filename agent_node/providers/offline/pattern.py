"""Texts in which a regular expression occurs."""

from __future__ import annotations

import re
import warnings
from importlib import import_module
from typing import Any

# the standard library's own reader of patterns; it has no public name
code: Any = import_module("re._constants")
reader: Any = import_module("re._parser")

REPEATS_TRIED_MAX = 64
_PADDING = ("a", " ", "0", ".")
_ALPHABET = "aA0 _-.,:/@b1\n\t" + "".join(map(chr, range(33, 127))) + "é€"


def matching_text(pattern: str, shortest: int = 0, longest: int | None = None) -> str:
    """A text in which `pattern` occurs, of a length between the bounds.

    Deterministic and about as short as can be. The pattern is of Rust's
    dialect, which all schemas use; what Python's has no word for is met as
    nearly as it can be. Where no text is found within the bounds, one outside
    of them.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            compiled = re.compile(_in_python(pattern))
            tree: Any = reader.parse(compiled.pattern)
    except (re.error, OverflowError):
        return "a" * shortest
    first = _Writer({}).write(tree)

    def fits(text: str) -> bool:
        return (
            len(text) >= shortest
            and (longest is None or len(text) <= longest)
            and compiled.search(text) is not None
        )

    missing = max(shortest - len(first), 0)
    for text in (first, *(first + c * missing for c in _PADDING), *(c * missing + first for c in _PADDING)):
        if fits(text):
            return text
    return next(filter(fits, _grown(tree, first, shortest)), first)


def _in_python(pattern: str) -> str:
    for rust, python in _DIALECT.items():
        pattern = re.sub(rust, python, pattern)
    return pattern


_DIALECT = {
    r"\\z": r"\\Z",
    r"\(\?<(?=[A-Za-z_])": "(?P<",
    r"\[:(alpha|lower):\]": "a-z",
    r"\[:(digit):\]": "0-9",
    r"\[:(alnum):\]": "a-z0-9",
    r"\[:upper:\]": "A-Z",
    r"\[:space:\]": " ",
    # what may stand in a class too, and of which the writer takes the first, a letter
    r"\\p(\{(Lu|Uppercase)\})": "A",
    r"\\p(\{(L|Ll|Letter|Alphabetic|Lowercase)\}|L)": r"\\w",
    r"\\p(\{(N|Nd|Number)\}|N)": r"\\d",
    r"\\x\{([0-9A-Fa-f]{2})\}": r"\\x\1",
}


def _grown(tree: Any, first: str, shortest: int) -> list[str]:
    """Texts with more rounds of the pattern's repeats than needed, repeat by repeat."""
    texts: list[str] = []
    extra: dict[int, int] = {}
    text = first
    for repeat in range(REPEATS_TRIED_MAX):
        one = _Writer({**extra, repeat: 1}).write(tree)
        gained = len(one) - len(text)
        if gained <= 0 or len(text) >= shortest:
            continue
        extra[repeat] = -(-(shortest - len(text)) // gained)
        text = _Writer(extra).write(tree)
        texts.append(text)
    return texts


class _Writer:
    """Writes a shortest match; `extra` adds rounds to the n-th repeat that it meets."""

    def __init__(self, extra: dict[int, int]) -> None:
        self._extra = extra
        self._repeats = 0
        self._groups: dict[int, str] = {}

    def write(self, tree: Any) -> str:
        return "".join(self._node(op, argument) for op, argument in tree)

    def _node(self, op: Any, argument: Any) -> str:
        if op in (code.MAX_REPEAT, code.MIN_REPEAT, code.POSSESSIVE_REPEAT):
            return self._repeat(*argument)
        if op is code.BRANCH:
            return self.write(argument[1][0])
        if op is code.SUBPATTERN:
            text = self.write(argument[3])
            if argument[0] is not None:
                self._groups[argument[0]] = text
            return text
        if op is code.ATOMIC_GROUP:
            return self.write(argument)
        if op is code.GROUPREF:
            return self._groups.get(argument, "")
        return _character(op, argument)

    def _repeat(self, least: int, most: Any, tree: Any) -> str:
        mine, self._repeats = self._repeats, self._repeats + 1
        rounds = min(least + self._extra.get(mine, 0), int(most))
        return "".join(self.write(tree) for _ in range(rounds))


def _character(op: Any, argument: Any) -> str:
    match op:
        case code.LITERAL:
            return chr(argument)
        case code.NOT_LITERAL:
            return _pick([(code.NEGATE, None), (code.LITERAL, argument)])
        case code.IN:
            return _pick(argument)
        case code.ANY:
            return "a"
        case _:
            return ""  # an anchor takes no text


def _pick(items: list[Any]) -> str:
    negated = items[0][0] is code.NEGATE
    listed = [chr(a if op is code.LITERAL else a[0]) for op, a in items if op in (code.LITERAL, code.RANGE)]
    candidates = _ALPHABET if negated else [*listed, *_ALPHABET]
    return next((c for c in candidates if any(_holds(c, *item) for item in items) != negated), "a")


def _holds(char: str, op: Any, argument: Any) -> bool:
    if op is code.LITERAL:
        return ord(char) == argument
    if op is code.RANGE:
        return argument[0] <= ord(char) <= argument[1]
    if op is code.CATEGORY:
        return re.fullmatch(_CATEGORIES[argument], char) is not None
    return False


_CATEGORIES: dict[Any, str] = {
    code.CATEGORY_DIGIT: r"\d",
    code.CATEGORY_NOT_DIGIT: r"\D",
    code.CATEGORY_SPACE: r"\s",
    code.CATEGORY_NOT_SPACE: r"\S",
    code.CATEGORY_WORD: r"\w",
    code.CATEGORY_NOT_WORD: r"\W",
}
