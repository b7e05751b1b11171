"""FieldMask updates of a message (AIP-134)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from voxplane.errors import Violation, VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2

MessageT = TypeVar("MessageT", bound=Message)
WHOLE = "*"
VIOLATIONS_MAX = 20
NAME_CHARS_SHOWN = 32
"""Violations travel in gRPC trailers, which hold 8 KB."""


def merge(base: MessageT, change: MessageT, paths: Sequence[str], mask_field: str) -> MessageT:
    """`base` with the fields that `paths` name taken from `change`.

    A field that `change` leaves unset is cleared; messages, lists and maps
    that a path names are replaced whole; all else stays. No path, or `*`,
    takes all of `change`. Raises VoxplaneError INVALID_REQUEST for paths that
    the message does not have; `mask_field` is where the mask is in the
    request.
    """
    merged = type(base)()
    if not paths or list(paths) == [WHOLE]:
        merged.CopyFrom(change)
        return merged
    _check(cast("Descriptor", base.DESCRIPTOR), paths, mask_field)
    merged.CopyFrom(base)
    for path in paths:
        parts = path.split(".")
        if _is_set(change, parts):
            _take(merged, change, parts)
        else:
            _clear(merged, parts)
    return merged


def _check(descriptor: Descriptor, paths: Sequence[str], mask_field: str) -> None:
    violations = [
        Violation(f"{mask_field}.paths[{index}]", fault)
        for index, path in enumerate(paths)
        if (fault := _fault(descriptor, path))
    ]
    if violations:
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_INVALID_REQUEST,
            f"{mask_field} names fields that cannot be changed",
            violations=violations[:VIOLATIONS_MAX],
        )


def _fault(descriptor: Descriptor, path: str) -> str:
    if path == WHOLE:
        return "* must stand alone"
    here: Descriptor | None = descriptor
    for name in path.split("."):
        if here is None:
            return f"nothing can follow a value, a list or a map, but {name[:NAME_CHARS_SHOWN]!r} does"
        found = here.fields_by_name.get(name)
        if found is None:
            return f"{here.name} has no field {name[:NAME_CHARS_SHOWN]!r}"
        here = _inner(found)
    return ""


def _inner(field: FieldDescriptor) -> Descriptor | None:
    """What a path may go on into."""
    return None if field.is_repeated else field.message_type


def _is_set(message: Message, path: Sequence[str]) -> bool:
    name, *rest = path
    field = message.DESCRIPTOR.fields_by_name[name]
    if not field.has_presence:
        # A list, a map or a plain value: set means other than empty.
        return any(listed.name == name for listed, _ in message.ListFields())
    return message.HasField(name) and (not rest or _is_set(_child(message, name), rest))


def _clear(message: Message, path: Sequence[str]) -> None:
    name, *rest = path
    if not rest:
        message.ClearField(name)
    elif message.HasField(name):
        _clear(_child(message, name), rest)


def _take(target: Message, source: Message, path: Sequence[str]) -> None:
    name, *rest = path
    field = target.DESCRIPTOR.fields_by_name[name]
    if rest:
        _take(_child(target, name), _child(source, name), rest)
    elif field.is_repeated:
        target.ClearField(name)
        getattr(target, name).MergeFrom(getattr(source, name))
    elif field.message_type is not None:
        _child(target, name).CopyFrom(_child(source, name))
    else:
        setattr(target, name, getattr(source, name))


def _child(message: Message, name: str) -> Message:
    return cast("Message", getattr(message, name))
