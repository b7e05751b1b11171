"""References to secrets, and keys that were written where one belongs.

A config holds `env:NAME` or `file:/path`, never a key. A key is found by the
prefixes that vendors give theirs, by the names of credentials in URLs, and by
its randomness: a long token that is made neither of words nor of numbers. The
price is that a key of less than 32 characters without a known prefix is not
found in prose, and that a bare hash of 32 or more hexadecimal digits is taken
for a key, as several vendors' keys look like that.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from voxplane.errors import Violation

TOKEN_CHARS_MIN = 32
PART_CHARS_MIN = 8
MIXED_CHARS_MIN = 3
ODD_CHARS_MIN = 20
"""Of the parts of a token, between _ - / + and =, that are neither word nor number."""
ENTROPY_BITS_MIN = 3.5
HEX_ENTROPY_BITS_MIN = 2.8
ORDERED_SHARE_MAX = 0.5
"""Of the neighbours in a token that follow each other in the alphabet."""
CREDENTIAL_CHARS_MIN = 16

WORD_CHARS_MIN = 10
"""Of a run of characters without a space that can be a key, or be around one."""

LITERAL = "looks like a key: give a reference to it, env:NAME or file:/path"
LITERAL_AS_KEY = "a key of this map looks like a secret: name it otherwise"

_VENDOR_KEY = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"sk-(?:[A-Za-z0-9_-]{16,}|(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{10,})"
    r"|[srpw]k_(?:live_|test_|car_)?[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9]{16,}"
    r"|[sp]k-lf-[A-Za-z0-9-]{16,}"
    r"|(?:csk|pplx|xai)-[A-Za-z0-9_-]{16,}|gsk_[A-Za-z0-9]{16,}|r8_[A-Za-z0-9]{16,}|hf_[A-Za-z0-9]{16,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])"
    r"|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|glpat-[A-Za-z0-9_-]{16,}"
    r"|xox[abeprs]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}"
    r"|AIza[0-9A-Za-z_-]{35}|ya29\.[0-9A-Za-z_-]{16,}"
    r"|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
    r")"
)
_PEM_BEGIN = "-----BEGIN"
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY")
_TOKEN = re.compile(rf"[A-Za-z0-9_+/=-]{{{TOKEN_CHARS_MIN},}}")
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]{0,20}://[^\s'\"<>]+")
_PASSWORD = re.compile(r"://[^/\s:@]+:[^/\s@]{4,}@")
_CREDENTIAL = re.compile(
    r"[?&;][\w.-]*(?:key|token|secret|password|sig|signature)=([^\s&;'\"<>]+)", re.IGNORECASE
)
_NO_KEY = re.compile(
    r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"  # a UUID
    r"|\bsha(?:256|384|512)[:-][0-9a-fA-F]{64,128}\b"
    r"|\benv:[A-Z_][A-Z0-9_]*"
)
_HEX = re.compile(r"[0-9a-fA-F]+")
# words, perhaps in CamelCase, with a number or capitals behind; and what is too simple to be random
_PLAIN = re.compile(
    r"[A-Z]{0,5}[a-z]{2,}(?:[A-Z]{1,5}[a-z]{2,}|A[nst]|By|Do|I[fnst]|My|No|O[fnr]|To|Up|We)*(?:\d{0,8}|[A-Z]{1,3})"
    r"|[a-z][A-Z]{1,3}|[A-Za-z]?\d*[a-z]?|[a-z]+\d*|[A-Z]+\d{0,4}"
)
_REFERENCE = re.compile(r"env:([A-Z_][A-Z0-9_]{0,127})|file:(/\S{1,500})")


@dataclass(frozen=True, slots=True)
class SecretReference:
    """Where a secret is: exactly one of the two is set."""

    variable: str = ""
    """Name of a variable of the node's environment."""
    file: str = ""
    """Absolute path of a file on the node."""


def parse_reference(text: str) -> SecretReference:
    """The reference `env:NAME` or `file:/path`. Raises ValueError, whose text
    does not repeat it."""
    found = _REFERENCE.fullmatch(text)
    if found is None:
        raise ValueError("must be a reference to a secret: env:NAME or file:/path")
    return SecretReference(found[1] or "", found[2] or "")


def looks_like_key(text: str) -> bool:
    """Whether a key seems to be in the text."""
    words = _long_words(text)
    if _has_known_key(text, words):
        return True
    if "://" in words:
        words = _ADDRESS.sub(" ", words)
    if not _TOKEN.search(words):
        return False
    return any(_is_random(token.group()) for token in _TOKEN.finditer(_NO_KEY.sub(" ", words)))


def has_known_key(text: str) -> bool:
    """Whether a key is in the text whose look gives it away: one that is only
    long and random may be the hash of a commit."""
    return _has_known_key(text, _long_words(text))


def _long_words(text: str) -> str:
    # No key but PEM has a space in it, and prose is mostly short words.
    return " ".join([word for word in text.split() if len(word) >= WORD_CHARS_MIN])


def _has_known_key(text: str, words: str) -> bool:
    if _PEM_BEGIN in text and _PEM.search(text):
        return True
    if _VENDOR_KEY.search(words) or ("://" in words and _PASSWORD.search(words)):
        return True
    return "=" in words and any(_is_credential(found[1]) for found in _CREDENTIAL.finditer(words))


def secret_literals(message: Message) -> list[Violation]:
    """A violation for each string within the message that looks like a key;
    paths are relative to it, and nothing says the key."""
    # A line's end keeps them apart: none is found that is not in one of them.
    if not looks_like_key("\n".join(_texts(message))):
        return []
    return list(_literals(message, ""))


def _is_credential(value: str) -> bool:
    return (
        len(value) >= CREDENTIAL_CHARS_MIN
        and any(map(str.isdigit, value))
        and any(map(str.isalpha, value))
        and not value.startswith(("{", "%7B", "$"))
    )


def _is_random(token: str) -> bool:
    odd = "".join(part for part in re.split(r"[_/=+-]+", token) if _is_odd(part))
    if len(odd) < ODD_CHARS_MIN or _ordered_share(odd) > ORDERED_SHARE_MAX:
        return False
    counts = Counter(odd)
    entropy = -sum(n / len(odd) * math.log2(n / len(odd)) for n in counts.values())
    return entropy >= (HEX_ENTROPY_BITS_MIN if _HEX.fullmatch(odd) else ENTROPY_BITS_MIN)


def _is_odd(part: str) -> bool:
    """A short part is odd only if it mixes cases: codes such as A1-B2-C3 are no keys."""
    mixed = part != part.lower() and part != part.upper()
    return len(part) >= (MIXED_CHARS_MIN if mixed else PART_CHARS_MIN) and not _PLAIN.fullmatch(part)


def _ordered_share(text: str) -> float:
    steps = [abs(ord(after) - ord(before)) <= 1 for before, after in pairwise(text)]
    return sum(steps) / len(steps)


def _texts(message: Any) -> Iterator[str]:
    """All strings within the message, keys of maps too."""
    for field, value in message.ListFields():
        texts = _reader(field)
        if texts is not None:
            yield from texts(value)


def _one(text: str) -> Iterable[str]:
    return (text,)


def _all(texts: Iterable[str]) -> Iterable[str]:
    return texts


def _of_each(messages: Iterable[Message]) -> Iterator[str]:
    for message in messages:
        yield from _texts(message)


def _of_map(entries: Mapping[Any, Any]) -> Iterator[str]:
    for each in (*entries, *entries.values()):
        if isinstance(each, Message):
            yield from _texts(each)
        elif isinstance(each, str):
            yield each


@cache
def _reader(field: FieldDescriptor) -> Callable[[Any], Iterable[str]] | None:
    """What finds the strings in a value of the field; None if there are none."""
    inner = field.message_type
    if inner is None:
        if field.type != FieldDescriptor.TYPE_STRING:
            return None
        return _all if field.is_repeated else _one
    if inner.GetOptions().map_entry:
        return _of_map
    return _of_each if field.is_repeated else _texts


def _literals(message: Message, prefix: str) -> Iterator[Violation]:
    if isinstance(message, struct_pb2.Value | struct_pb2.ListValue | struct_pb2.Struct):
        yield from _json_literals(message, prefix)
        return
    for field, value in message.ListFields():
        path = f"{prefix}.{field.name}" if prefix else field.name
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            for key in value:
                yield from _entry(path, key, inner, value[key])
        elif field.is_repeated:
            for index, item in enumerate(value):
                yield from _leaf(f"{path}[{index}]", field, item)
        else:
            yield from _leaf(path, field, value)


def _entry(path: str, key: object, field: FieldDescriptor, value: object) -> Iterator[Violation]:
    if isinstance(key, str) and looks_like_key(key):
        yield Violation(path, LITERAL_AS_KEY)
        return
    yield from _leaf(f'{path}["{key}"]' if isinstance(key, str) else f"{path}[{key}]", field, value)


def _leaf(path: str, field: FieldDescriptor, value: object) -> Iterator[Violation]:
    if isinstance(value, Message):
        yield from _literals(value, path)
    elif field.type == FieldDescriptor.TYPE_STRING and looks_like_key(str(value)):
        yield Violation(path, LITERAL)


def _json_literals(message: Any, path: str) -> Iterator[Violation]:
    """In a google.protobuf.Value, whose paths are those of its JSON."""
    match message:
        case struct_pb2.Struct():
            for key, value in message.fields.items():
                if looks_like_key(key):
                    yield Violation(path, LITERAL_AS_KEY)
                else:
                    yield from _json_literals(value, f'{path}["{key}"]')
        case struct_pb2.ListValue():
            for index, value in enumerate(message.values):
                yield from _json_literals(value, f"{path}[{index}]")
        case struct_pb2.Value(struct_value=inner) if message.HasField("struct_value"):
            yield from _json_literals(inner, path)
        case struct_pb2.Value(list_value=inner) if message.HasField("list_value"):
            yield from _json_literals(inner, path)
        case _:
            if looks_like_key(message.string_value):
                yield Violation(path, LITERAL)
