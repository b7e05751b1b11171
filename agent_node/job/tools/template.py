"""A tool's arguments, put into its address: pure.

The rules, for whatever values a model makes:

- The scheme, the host and the port are those of the config.
- A value in the path stays within its segment, also for a server that decodes
  the path once too often: slashes, dots that climb, and control characters are
  refused, however often they are encoded, and so is an empty value.
- A value in the query stays the value, or the name, of its pair.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import quote, unquote, urlencode

from voxplane.tool_urls import ToolUrl, pieces_of

URL_CHARS_MAX = 8_000
DECODES_MAX = 5

# what an author may have written as it is; a percent sign begins an escape
_LITERAL = "%/:?@!$&'()*+,;=~-._[]|"
_SLASHES = re.compile(r"[/\\]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class ArgumentRefused(ValueError):
    """An argument cannot be used; the text is for the model."""


def target_of(url: ToolUrl, arguments: Mapping[str, Any], *, rest_in_query: bool) -> str:
    """The encoded path and query of a request.

    With `rest_in_query` the arguments that the address does not name are
    added. Raises ArgumentRefused.
    """
    path = "/".join(_segment(segment, arguments) for segment in url.path.split("/"))
    pairs = [made for pair in url.query.split("&") if pair and (made := _pair(pair, arguments)) is not None]
    if rest_in_query:
        rest = rest_of(url, arguments)
        if taken := rest.keys() & url.query_names:
            raise ArgumentRefused(f"{min(taken)} must not be given.")
        pairs += _encoded_rest(rest)
    target = f"{path}?{'&'.join(pairs)}" if pairs else path
    if len(target) > URL_CHARS_MAX:
        raise ArgumentRefused("The arguments are too long for an address.")
    return target


def rest_of(url: ToolUrl, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the address does not name."""
    return {name: value for name, value in arguments.items() if name not in url.names}


def _segment(segment: str, arguments: Mapping[str, Any]) -> str:
    encoded, plain, bare = "", "", ""
    names: list[str] = []
    for piece, named in pieces_of(segment):
        if not named:
            encoded, plain, bare = encoded + _literal(piece), plain + piece, bare + piece
            continue
        text = _scalar(piece, arguments.get(piece))
        if text is None or not text.strip():
            raise ArgumentRefused(f"{piece} must have a value.")
        encoded, plain, bare = encoded + _encoded(piece, text), plain + text, bare + "x"
        names.append(piece)
    if names and _leaves(_decoded(plain), _decoded(bare)):
        raise ArgumentRefused(
            f"{', '.join(names)} must not hold slashes or control characters, or be dots alone."
        )
    return encoded


def _leaves(text: str, bare: str) -> bool:
    """Whether a server might read other segments in the text than in `bare`,
    which has a letter in place of each value."""
    steps = _SLASHES.split(text)
    return (
        len(steps) != len(_SLASHES.split(bare))
        or any(step.partition(";")[0].strip() in (".", "..") for step in steps)
        or _CONTROL.search(text) is not None
    )


def _decoded(text: str) -> str:
    """The text when it has been decoded as often as it can be. Raises
    ArgumentRefused if that is too often."""
    for _ in range(DECODES_MAX):
        decoded = unquote(text)
        if decoded == text:
            return text
        text = decoded
    raise ArgumentRefused("A value of the path is encoded too often.")


def _pair(pair: str, arguments: Mapping[str, Any]) -> str | None:
    """A pair of the query; None if an argument that it names is not given."""
    encoded = ""
    for piece, named in pieces_of(pair):
        if not named:
            encoded += _literal(piece)
            continue
        text = _scalar(piece, arguments.get(piece))
        if text is None:
            return None
        encoded += _encoded(piece, text)
    return encoded


def _encoded_rest(rest: Mapping[str, Any]) -> list[str]:
    made: list[str] = []
    for name, value in rest.items():
        values = cast("list[Any]", value) if isinstance(value, list) else [value]
        texts = [_flat(name, each) for each in values]
        try:
            made += [urlencode({name: text}, quote_via=quote, safe="") for text in texts if text is not None]
        except UnicodeEncodeError:
            raise _unreadable(name) from None
    return made


def _flat(name: str, value: Any) -> str | None:
    return json.dumps(value) if isinstance(value, dict | list) else _scalar(name, value)


def _scalar(name: str, value: Any) -> str | None:
    match value:
        case None:
            return None
        case str():
            return value
        case bool() | int() | float():
            return json.dumps(value)
        case _:
            raise ArgumentRefused(f"{name} must be a string, a number or a boolean.")


def _literal(text: str) -> str:
    return quote(text, safe=_LITERAL)


def _encoded(name: str, text: str) -> str:
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise _unreadable(name) from None


def _unreadable(name: str) -> ArgumentRefused:
    return ArgumentRefused(f"{name} holds characters that are no text.")
