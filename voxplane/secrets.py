"""Finding keys that were written where a reference to them belongs.

A config holds `env:NAME` or `file:/path`, never a key. A string that looks
like a key is found by the prefixes that vendors give their keys, and by its
randomness: a long token of mixed letters and digits that is no word, URL,
UUID or hash in hexadecimal.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from voxplane.errors import Violation

SUSPECT_CHARS_MIN = 32
SUSPECT_ENTROPY_BITS_MIN = 4.0
HEX_ENTROPY_BITS_MIN = 3.0
ODD_CHARS_MIN = 24
LITERAL = "looks like a key: give a reference to it, env:NAME or file:/path"

_VENDOR_KEY = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"sk-[A-Za-z0-9_-]{16,}"
    r"|sk_[A-Za-z0-9]{16,}"
    r"|[sp]k-lf-[A-Za-z0-9-]{16,}"
    r"|AKIA[0-9A-Z]{16}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_[A-Za-z0-9_]{20,}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,}"
    r"|AIza[0-9A-Za-z_-]{35}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r")"
)
_TOKEN = re.compile(rf"[A-Za-z0-9_+/=-]{{{SUSPECT_CHARS_MIN},}}")
_ADDRESS = re.compile(r"\b(?:https?|wss?)://\S+")
_REFERENCE = re.compile(r"(?:env|file):\S+")
_HEX_OR_UUID = re.compile(r"[0-9a-fA-F-]+")


def looks_like_key(text: str) -> bool:
    """Whether a key seems to be in the text."""
    if _VENDOR_KEY.search(text):
        return True
    bare = _ADDRESS.sub(" ", _REFERENCE.sub(" ", text))
    return any(_random(token.group()) for token in _TOKEN.finditer(bare))


def secret_literals(message: Message) -> list[Violation]:
    """A violation for each string leaf that looks like a key; never the key."""
    return [Violation(path, LITERAL) for path, text in _strings(message, "") if looks_like_key(text)]


def _random(token: str) -> bool:
    if _HEX_OR_UUID.fullmatch(token) and "-" in token:
        return False
    if not (any(c.isdigit() for c in token) and any(c.isalpha() for c in token)):
        return False
    odd = [part for part in re.split(r"[_/=+-]+", token) if not _plain(part)]
    if sum(map(len, odd)) < ODD_CHARS_MIN:
        return False
    counts = Counter(token)
    entropy = -sum(n / len(token) * math.log2(n / len(token)) for n in counts.values())
    hexadecimal = _HEX_OR_UUID.fullmatch(token) is not None
    return entropy >= (HEX_ENTROPY_BITS_MIN if hexadecimal else SUSPECT_ENTROPY_BITS_MIN)


def _plain(part: str) -> bool:
    """A word, a number, or words with a number behind, as names have them."""
    return re.fullmatch(r"[A-Z]?[a-z]*|[A-Z]+|(?:[A-Z]?[a-z]+)+\d{0,8}|\d{1,12}|v\d+", part) is not None


def _strings(message: Message, prefix: str) -> Iterator[tuple[str, str]]:
    for field, value in message.ListFields():
        path = f"{prefix}.{field.name}" if prefix else field.name
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            for key in value:
                yield from _leaf(f'{path}["{key}"]', inner, value[key])
        elif field.is_repeated:
            for index, item in enumerate(value):
                yield from _leaf(f"{path}[{index}]", field, item)
        else:
            yield from _leaf(path, field, value)


def _leaf(path: str, field: FieldDescriptor, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Message):
        yield from _strings(value, path)
    elif field.type == FieldDescriptor.TYPE_STRING:
        yield path, str(value)
