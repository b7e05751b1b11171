"""The counts of a message against the contract's, before any rule is judged.

A rule that compares the items of a list costs the square of their count, and
runs whether or not the count is too large; so counts are looked at first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from buf.validate import validate_pb2
from voxplane.errors import Violation

SMALL_BYTES = 512
VALUE_BYTES_MAX = 64 * 1024
"""Of one google.protobuf.Value or Struct on the wire: none that fits is as large."""


class _Counted(NamedTuple):
    """What is to be counted in a field: `most` items if it is a list or a map,
    0 if the contract does not say; `deeper` if the items hold fields too."""

    items: bool
    most: int
    deeper: bool


def beyond_bounds(message: Message) -> Iterable[Violation]:
    """Lists and maps with more items than the contract lets them have, and
    free values that are too large to look into. None in a message of SMALL_BYTES,
    whose rules cost little, and find the same."""
    return _beyond(message, "") if message.ByteSize() > SMALL_BYTES else ()


def _beyond(message: Message, path: str) -> Iterator[Violation]:
    for field, value in message.ListFields():
        counted = _counted(field)
        if counted.items:
            if counted.most and len(value) > counted.most:
                yield Violation(_below(path, field), f"must have at most {counted.most} items")
            elif counted.deeper:
                here = _below(path, field)
                for index, item in enumerate(value):
                    yield from _beyond(item, f"{here}[{index}]")
        elif counted.deeper:
            if not isinstance(value, Value | Struct):
                yield from _beyond(value, _below(path, field))
            elif value.ByteSize() > VALUE_BYTES_MAX:
                yield Violation(_below(path, field), "is too large")


def _below(path: str, field: FieldDescriptor) -> str:
    return f"{path}.{field.name}" if path else field.name


@cache
def _counted(field: FieldDescriptor) -> _Counted:
    inner = field.message_type
    if not field.is_repeated:
        return _Counted(False, 0, inner is not None)
    extension: Any = validate_pb2.field
    rules: Any = field.GetOptions().Extensions[extension]
    most = rules.repeated.max_items or rules.map.max_pairs
    return _Counted(True, most, inner is not None and not inner.GetOptions().map_entry)
