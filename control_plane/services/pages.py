"""Pages of a list (AIP-158)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable
from typing import TypeVar

from google.protobuf.message import Message

from voxplane.errors import Violation, VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2

PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1_000
PAGE_BYTES_MAX = 1_048_576
"""A page is made in one turn of the event loop: a few milliseconds."""
_BINDING_BYTES = 12

ItemT = TypeVar("ItemT", bound=Message)


def page(
    items: Iterable[ItemT],
    page_size: int,
    key: Callable[[ItemT], str],
    binding: str,
    bytes_max: int = PAGE_BYTES_MAX,
) -> tuple[list[ItemT], str]:
    """The first items and the token of the page after them.

    `items` begin after the last page; `key` tells where an item stands.
    `binding` are the list's parameters: a token is good for them alone. A
    page ends early at `bytes_max`.
    """
    size = min(page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)
    taken: list[ItemT] = []
    bytes_taken = 0
    for item in items:
        bytes_taken += item.ByteSize()
        if taken and (len(taken) >= size or bytes_taken > bytes_max):
            return taken, _token(key(taken[-1]), binding)
        taken.append(item)
    return taken, ""


def last_key(token: str, binding: str) -> str:
    """The key of the last item of the page before; empty for the first page.
    Raises VoxplaneError PAGE_TOKEN if the token is not this list's."""
    if not token:
        return ""
    try:
        raw = base64.urlsafe_b64decode(token.encode() + b"=" * (-len(token) % 4))
        bound, key = raw[:_BINDING_BYTES], raw[_BINDING_BYTES:].decode()
    except (binascii.Error, UnicodeError):
        bound, key = b"", ""
    if not key or bound != _bind(binding):
        raise not_of_this_list()
    return key


def last_number(token: str, binding: str) -> int | None:
    """As last_key, of a list by number; None for the first page."""
    key = last_key(token, binding)
    if key and not (key.isascii() and key.isdigit()):
        raise not_of_this_list()
    return int(key) if key else None


def not_of_this_list() -> VoxplaneError:
    """A page_token that cannot be read."""
    return VoxplaneError(
        reason_pb2.ERROR_REASON_PAGE_TOKEN,
        "the page_token is not one of this list",
        violations=[Violation("page_token", "must be the next_page_token of a list with the same fields")],
    )


def _token(key: str, binding: str) -> str:
    return base64.urlsafe_b64encode(_bind(binding) + key.encode()).decode().rstrip("=")


def _bind(binding: str) -> bytes:
    return hashlib.sha256(binding.encode()).digest()[:_BINDING_BYTES]
