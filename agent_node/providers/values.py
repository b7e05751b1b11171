"""What a constructor's parameter takes, as far as JSON can say it."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import timedelta
from enum import Enum
from typing import Annotated, Any, Literal, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

from livekit.agents.types import NotGiven
from pydantic import BaseModel, TypeAdapter, ValidationError
from typing_extensions import TypedDict, is_typeddict

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

NAMES_SHOWN_MAX = 30
_SIMPLE: Mapping[Any, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
    timedelta: "a duration",
}
_LISTS = (list, tuple, set, frozenset, Sequence)
_OBJECTS = (dict, Mapping)


class UnfitValueError(ValueError):
    """A value that a parameter does not take; the text says what it does, and
    never the value."""


@dataclass(frozen=True, slots=True)
class ValueType:
    """The values that a parameter takes; `said` in words, such as "a number or null"."""

    said: str
    _adapter: TypeAdapter[Any]

    def parse(self, value: JSON) -> Any:
        """The value as Python wants it; one text is good for a list of them.
        Raises UnfitValueError."""
        tried: tuple[JSON, ...] = (value, [value]) if isinstance(value, str) else (value,)
        for each in tried:
            try:
                # as JSON: a list is good for a tuple then, a text for an enum, but "5" not for 5
                return self._adapter.validate_json(json.dumps(_whole(each)), strict=True)
            except ValidationError:
                continue
        raise UnfitValueError(f"must be {self.said}")


def value_type(hint: Any) -> ValueType | None:
    """What a type hint allows; None if JSON can say nothing of it, such as a client."""
    fit = [each for each in _alternatives(hint) if _says(each) is not None]
    fit = [each for each in fit if _adapter(each) is not None]
    if not set(fit) - {type(None)}:
        return None
    adapter = _adapter(Union[tuple(fit)])  # noqa: UP007
    if adapter is None:
        return None
    words = [_says(each) or "" for each in fit if not (str in fit and _is_texts(each))]
    return ValueType(" or ".join(dict.fromkeys(words)), adapter)


def _alternatives(hint: Any) -> list[Any]:
    """The members of a union, but for what stands for "not given"."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return [each for member in get_args(hint) for each in _alternatives(member)]
    if origin is Annotated:
        return _alternatives(get_args(hint)[0])
    if hint is NotGiven:
        return []
    if isinstance(hint, type) and issubclass(hint, str) and not issubclass(hint, Enum):
        return [str]
    if is_typeddict(cast("Any", hint)):
        return [_typed_dict(hint)]
    return [type(None) if hint is None else hint]


def _typed_dict(kind: Any) -> Any:
    """pydantic takes those of typing_extensions alone, on this Python."""
    return TypedDict(kind.__name__, get_type_hints(kind), total=kind.__total__)  # pyright: ignore[reportArgumentType]


def _says(hint: Any) -> str | None:
    """A plain type in words; None if JSON cannot say its values."""
    if hint is Any:
        return "any value"
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + _listed([_shown(each) for each in inner])
    if hint in _LISTS or origin in _LISTS:
        return _says_list(inner)
    if hint in _OBJECTS or origin in _OBJECTS:
        return "an object" if all(value_type(each) for each in inner) else None
    if isinstance(hint, type):
        return _says_class(cast("type[Any]", hint))
    return None


def _says_class(kind: type[Any]) -> str | None:
    if issubclass(kind, Enum):
        return "one of " + _listed([_shown(each.value) for each in kind])
    if issubclass(kind, BaseModel):
        return f"an object with {_listed(list(kind.model_fields))}"
    if is_typeddict(kind) or is_dataclass(kind):
        return f"an object with {_listed(list(kind.__annotations__))}"
    return None


def _says_list(inner: tuple[Any, ...]) -> str | None:
    items = [value_type(each) for each in inner if each is not Ellipsis]
    if not items:
        return "a list"
    if any(each is None for each in items):
        return None
    return "a list of " + ", then ".join(each.said for each in items if each)


def _listed(names: list[str]) -> str:
    shown = names[:NAMES_SHOWN_MAX]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


def _shown(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else json.dumps(value, default=str)


def _is_texts(hint: Any) -> bool:
    return get_origin(hint) is Literal and all(isinstance(each, str) for each in get_args(hint))


def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(hint)
    except Exception:  # pydantic has no common type for "cannot make a schema of this"
        return None


def _whole(value: JSON) -> JSON:
    """A Struct knows floats alone: 16000.0 is 16000."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_whole(each) for each in value]
        case dict():
            return {name: _whole(each) for name, each in value.items()}
        case _:
            return value
