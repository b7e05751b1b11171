"""The class of an agent's replies as the fields of a schema.

A TypedDict or a pydantic model will do. What a schema cannot say is told in
`notes`; nothing is left out in silence.
"""

from __future__ import annotations

import ast
import enum
import inspect
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import typing_extensions
from google.protobuf import json_format
from pydantic import BaseModel, StringConstraints
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from voxplane.v1.schema_pb2 import SchemaField

SCALARS: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}
LISTS = (list, tuple, set, frozenset, Sequence)
QUALIFIERS = (typing_extensions.NotRequired, typing_extensions.Required, typing_extensions.ReadOnly)
_DESCRIBED = re.compile(r"^(\s*)(\w+)(?: \([^)]*\))?: (.+)$")

Notes = list[str]


class _Unreadable(Exception):
    """There is no such type in a schema."""


def is_reply(value: Any) -> bool:
    """Whether it is a class that replies may have."""
    return typing_extensions.is_typeddict(value) or (
        isinstance(value, type) and issubclass(value, BaseModel) and value is not BaseModel
    )


def reply_of(module: ModuleType, name: str) -> type | None:
    """The class of the replies among those of the module; None if there is none.

    Raises SystemExit if it is not there, or if it is not clear which it is.
    """
    own = {
        value.__name__: value
        for value in vars(module).values()
        if is_reply(value) and value.__module__ == module.__name__
    }
    if name:
        if name not in own:
            raise SystemExit(
                f"the module has no TypedDict or model {name}; it has {', '.join(own) or 'none'}"
            )
        return own[name]
    parts = {part for each in own.values() for part in _classes_in(each)}
    whole = [each for each in own.values() if each not in parts]
    if len(whole) > 1:
        names = " or ".join(each.__name__ for each in whole)
        raise SystemExit(f"which is the class of the replies? Give --reply {names}, or --no-reply")
    return whole[0] if whole else None


def _classes_in(reply: type) -> Iterable[type]:
    """The classes that its fields are of."""
    waiting = list(_hints(reply).values())
    while waiting:
        hint = waiting.pop()
        waiting.extend(get_args(hint))
        if is_reply(hint):
            yield hint


def _hints(reply: type) -> Mapping[str, Any]:
    return typing_extensions.get_type_hints(reply, include_extras=True)


def fields_of(reply: type, notes: Notes) -> list[SchemaField]:
    """The fields, with what annotations, docstrings and defaults say."""
    described = descriptions_of(reply)
    required = getattr(reply, "__required_keys__", frozenset(_hints(reply)))
    found: list[SchemaField] = []
    for name, hint in _hints(reply).items():
        if get_origin(hint) is typing_extensions.ClassVar:
            continue
        field = SchemaField(field_name=name, description=described.get(name, ""), required=name in required)
        told = Notes()
        try:
            _read_type(field, hint, told)
            if issubclass(reply, BaseModel):
                _read_default(field, reply.model_fields[name], told)
        except _Unreadable as why:
            notes.append(f"{reply.__name__}.{name} is left out: {why}")
            continue
        notes.extend(f"{reply.__name__}.{name}: {each}" for each in told)
        found.append(field)
    return found


def descriptions_of(reply: type) -> dict[str, str]:
    """What is said of each field: in the docstring as `name: text`, which may go
    on in deeper lines, or in a string below the field."""
    found: dict[str, str] = {}
    name, depth = "", 0
    for line in (inspect.getdoc(reply) or "").splitlines():
        if begun := _DESCRIBED.match(line):
            depth, name = len(begun[1]), begun[2]
            found[name] = begun[3].strip()
        elif name and line.strip() and len(line) - len(line.lstrip()) > depth:
            found[name] += f" {line.strip()}"
        else:
            name = ""
    return found | _strings_below(reply)


def _strings_below(reply: type) -> dict[str, str]:
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(reply))).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}
    if not isinstance(body, ast.ClassDef):
        return {}
    found: dict[str, str] = {}
    for line, below in zip(body.body, body.body[1:], strict=False):
        match line, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text).replace("\n", " ")
            case _:
                pass
    return found


def _read_type(field: SchemaField, hint: Any, notes: Notes) -> None:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in QUALIFIERS:
        if origin is not typing_extensions.ReadOnly:
            field.required = origin is typing_extensions.Required
        _read_type(field, arguments[0], notes)
    elif origin is Annotated:
        _read_type(field, arguments[0], notes)
        for extra in arguments[1:]:
            _read_extra(field, extra, notes)
    elif origin in (Union, UnionType):
        _read_union(field, arguments, notes)
    elif origin is Literal:
        _read_values(field, arguments, notes)
    elif hint in LISTS or origin in LISTS:
        _read_list(field, arguments, notes)
    else:
        _read_class(field, hint, notes)


def _read_class(field: SchemaField, hint: Any, notes: Notes) -> None:
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        _read_values(field, tuple(each.value for each in hint), notes)
    elif is_reply(hint):
        _read_object(field, hint, notes)
    elif hint in SCALARS:
        field.field_type = SCALARS[hint]
    else:
        raise _Unreadable(f"a schema has no type for {_named(hint)}")


def _read_union(field: SchemaField, arguments: tuple[Any, ...], notes: Notes) -> None:
    values = [each for each in arguments if each is not type(None)]
    if len(values) != len(arguments):
        field.required = False
    if len(values) > 1 and set(values) != {int, float}:
        raise _Unreadable(f"a field has one type, not {' or '.join(map(_named, values))}")
    _read_type(field, float if len(values) > 1 else values[0], notes)


def _read_values(field: SchemaField, values: tuple[Any, ...], notes: Notes) -> None:
    if None in values:
        field.required = False
    field.field_type = "enum"
    field.constraints.enum_values.extend(str(each) for each in values if each is not None)
    if others := [each for each in values if not isinstance(each, str | None)]:
        notes.append(f"its values come as text from now on: {', '.join(repr(str(each)) for each in others)}")


def _read_list(field: SchemaField, arguments: tuple[Any, ...], notes: Notes) -> None:
    kinds = [each for each in arguments if each is not Ellipsis]
    item = SchemaField()
    if len(kinds) != 1:
        raise _Unreadable("a list has items of one type, which must be named")
    _read_type(item, kinds[0], notes)
    if item.field_type == "enum":
        notes.append(f"its items are any text, no longer only {', '.join(item.constraints.enum_values)}")
        item = SchemaField(field_type="string")
    if item.field_type not in SCALARS.values():
        raise _Unreadable(f"a list of {_named(kinds[0])}: items are string, integer, number or boolean")
    if item.HasField("constraints"):
        notes.append("what its items must obey is not carried over")
    field.field_type, field.item_type = "array", item.field_type


def _read_object(field: SchemaField, hint: type, notes: Notes) -> None:
    field.field_type = "object"
    for part in fields_of(hint, notes):
        if part.field_type == "enum":
            notes.append(f"{part.field_name} is any text, no longer one of its values")
            part.field_type = "string"
        if part.field_type not in SCALARS.values():
            raise _Unreadable(f"{part.field_name}: properties of an object are scalars")
        if not part.required:
            notes.append(f"{part.field_name} is required from now on, as all properties of objects are")
        field.properties.add(
            property_name=part.field_name, property_type=part.field_type, description=part.description
        )
    if not field.properties:
        raise _Unreadable(f"{hint.__name__} has no field that an object may have")


def _read_extra(field: SchemaField, extra: Any, notes: Notes) -> None:
    """One of the extras of Annotated."""
    match extra:
        case str():
            field.description = extra
        case typing_extensions.Doc():
            field.description = extra.documentation
        case FieldInfo():
            field.description = extra.description or field.description
            for each in extra.metadata:
                _read_extra(field, each, notes)
        case StringConstraints():
            _set_limits(field, min_length=extra.min_length, max_length=extra.max_length)
            _set_limits(field, pattern=getattr(extra.pattern, "pattern", extra.pattern))
        case annotated_types.GroupedMetadata():
            for each in extra:
                _read_extra(field, each, notes)
        case _ if limits := _limits_of(extra, field.field_type):
            _set_limits(field, **limits)
        case _:
            notes.append(f"{extra!r} has no counterpart")


def _limits_of(extra: Any, field_type: str) -> dict[str, Any]:
    """What it limits, by the names of FieldConstraints; nothing if that has no name for it."""
    counted = "items" if field_type == "array" else "length"
    match extra:
        case annotated_types.Ge(ge=bound):
            return {"minimum": bound}
        case annotated_types.Le(le=bound):
            return {"maximum": bound}
        case annotated_types.Gt(gt=bound) if field_type == "integer":
            return {"minimum": math.floor(float(str(bound))) + 1}
        case annotated_types.Lt(lt=bound) if field_type == "integer":
            return {"maximum": math.ceil(float(str(bound))) - 1}
        case annotated_types.MinLen(min_length=length):
            return {f"min_{counted}": length}
        case annotated_types.MaxLen(max_length=length):
            return {f"max_{counted}": length}
        case _:
            pattern = getattr(extra, "pattern", None)  # pydantic has no public name for its class
            return {"pattern": pattern} if isinstance(pattern, str) else {}


def _set_limits(field: SchemaField, **limits: Any) -> None:
    for name, value in limits.items():
        if value is not None:
            setattr(field.constraints, name, value)


def _read_default(field: SchemaField, info: FieldInfo, notes: Notes) -> None:
    field.description = info.description or field.description
    for each in info.metadata:
        _read_extra(field, each, Notes())  # what has no counterpart was told with the hint
    field.required = field.required and info.is_required()
    if info.default_factory is not None:
        notes.append("its default is made by a function, and not carried over")
    elif info.default is not PydanticUndefined and info.default is not None:
        value = info.default.value if isinstance(info.default, enum.Enum) else info.default
        try:
            json_format.ParseDict(value, field.default)
        except json_format.ParseError:
            notes.append(f"its default {value!r} is no JSON, and not carried over")


def _named(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
