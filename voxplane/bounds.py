"""The counts of a message against the contract's, before any rule is judged.

A rule that compares the items of a list costs the square of their count, and
runs whether or not the count is too large; so counts are looked at first.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value

from buf.validate import validate_pb2
from voxplane.errors import Violation

VALUE_BYTES_MAX = 64 * 1024
"""Of one google.protobuf.Value on the wire: no default that fits is as large."""


def beyond_bounds(message: Message, path: str = "") -> Iterator[Violation]:
    """Lists and maps with more items than the contract lets them have, and
    free values that are too large to look into."""
    for field, value in message.ListFields():
        here = f"{path}.{field.name}" if path else field.name
        if isinstance(value, Value):
            if value.ByteSize() > VALUE_BYTES_MAX:
                yield Violation(here, "is too large")
        elif isinstance(value, Message):
            yield from beyond_bounds(value, here)
        elif field.is_repeated:
            yield from _items(field, value, here)


def _items(field: FieldDescriptor, items: Any, path: str) -> Iterator[Violation]:
    most = _items_max(field)
    if most and len(items) > most:
        yield Violation(path, f"must have at most {most} items")
    elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
        for index, item in enumerate(items):
            yield from beyond_bounds(item, f"{path}[{index}]")


@cache
def _items_max(field: FieldDescriptor) -> int:
    """By the contract; 0 if it does not say."""
    extension: Any = validate_pb2.field
    rules: Any = field.GetOptions().Extensions[extension]
    return rules.repeated.max_items or rules.map.max_pairs
