"""The Python types of a schema's fields, for Pydantic, strict.

They accept what the JSON Schema of `json_schema` accepts. What Pydantic would
judge by other rules than JSON Schema does (numbers, patterns) is judged here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import pydantic
import typing_extensions
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import SchemaError, SchemaValidator, core_schema

from voxplane.schema.pattern import Pattern, PatternError, length_pattern, read_pattern
from voxplane.v1 import schema_pb2

STRICT = ConfigDict(extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False)

Record = Callable[[str, Mapping[str, Any]], Any]
"""Makes the type of an object out of its name and the types of its properties."""


class FieldError(Exception):
    """What is wrong with a field; `path` is relative to it."""

    def __init__(self, path: str, description: str) -> None:
        super().__init__(description)
        self.path = path
        self.description = description


def text_pattern(limits: schema_pb2.FieldConstraints) -> Pattern | None:
    """The limits on a string as one pattern. Raises FieldError."""
    lengths = limits.HasField("min_length") or limits.HasField("max_length")
    if limits.pattern and lengths:
        raise FieldError(
            "constraints.pattern", "give a pattern or lengths, not both: the pattern can say both"
        )
    if lengths:
        return length_pattern(limits.min_length, limits.max_length if limits.HasField("max_length") else None)
    if not limits.pattern:
        return None
    try:
        return read_pattern(limits.pattern)
    except PatternError as refused:
        raise FieldError("constraints.pattern", f"not a pattern that all readers share: {refused}") from None


def number_bounds(field: schema_pb2.SchemaField) -> tuple[float | None, float | None]:
    """Smallest and largest value; those of an integer are integers. Raises FieldError."""
    limits = field.constraints
    low = limits.minimum if limits.HasField("minimum") else None
    high = limits.maximum if limits.HasField("maximum") else None
    for name, bound in (("minimum", low), ("maximum", high)):
        if bound is not None and not math.isfinite(bound):
            raise FieldError(f"constraints.{name}", "must be a number")
    if field.field_type == "integer":
        low, high = None if low is None else math.ceil(low), None if high is None else math.floor(high)
    if low is not None and high is not None and low > high:
        raise FieldError("constraints.maximum", f"no {field.field_type} is between minimum and maximum")
    return _plain(low), _plain(high)


def value_type(field: schema_pb2.SchemaField, record: Record) -> Any:
    """The type of the field's value when it is not null. Raises FieldError."""
    limits = field.constraints
    match field.field_type:
        case "string":
            return _text(text_pattern(limits))
        case "enum":
            if not limits.enum_values:
                raise FieldError("constraints.enum_values", "an enum needs values")
            return Literal[tuple(limits.enum_values)]
        case "integer" | "number":
            return _within(scalar(field.field_type, "field_type"), *number_bounds(field))
        case "array":
            fewest = limits.min_items if limits.HasField("min_items") else None
            most = limits.max_items if limits.HasField("max_items") else None
            items = scalar(field.item_type, "item_type")
            return Annotated[list[items], Field(min_length=fewest, max_length=most)]
        case "object":
            properties = {
                each.property_name: scalar(each.property_type, f"properties[{index}].property_type")
                for index, each in enumerate(field.properties)
            }
            return record(field.field_name, properties)
        case _:
            return scalar(field.field_type, "field_type")


def scalar(name: str, path: str) -> Any:
    """The type of a scalar. Raises FieldError at `path`."""
    match name:
        case "string":
            return str
        case "boolean":
            return bool
        case "integer":
            return Annotated[int, BeforeValidator(_whole)]
        case "number":
            return Annotated[int | float, BeforeValidator(_number)]
        case _:
            raise FieldError(path, f"{name[:63]!r} is not a type that this release knows")


def typed_dict(name: str, properties: Mapping[str, Any]) -> Any:
    """A closed TypedDict."""
    made: Any = typing_extensions.TypedDict(name, dict(properties))  # pyright: ignore[reportArgumentType, reportCallIssue, reportGeneralTypeIssues, reportUnknownVariableType]
    made.__pydantic_config__ = STRICT
    return made


def model(name: str, properties: Mapping[str, Any]) -> type[BaseModel]:
    """A model whose attributes are the properties; one whose name BaseModel has
    already gets an underscore behind it, and keeps its name in JSON."""
    fields: dict[str, Any] = {}
    for property_name, annotation in properties.items():
        attribute = property_name
        while (
            hasattr(BaseModel, attribute)
            or attribute in fields
            or (attribute != property_name and attribute in properties)
        ):
            attribute += "_"
        fields[attribute] = (annotation, Field(alias=property_name))
    return pydantic.create_model(name, __config__=STRICT, **fields)


def _plain(bound: float | None) -> float | None:
    return int(bound) if bound is not None and float(bound).is_integer() else bound


def _whole(value: object) -> object:
    """JSON has one kind of number: 1.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    return value


def _within(kind: Any, low: float | None, high: float | None) -> Any:
    if low is None and high is None:
        return kind

    def check(value: float) -> float:
        if low is not None and value < low:
            raise ValueError(f"must be at least {low}")
        if high is not None and value > high:
            raise ValueError(f"must be at most {high}")
        return value

    return Annotated[kind, AfterValidator(check)]


def _text(pattern: Pattern | None) -> Any:
    if pattern is None:
        return str
    matches = _matcher(pattern)

    def check(value: str) -> str:
        if matches(value):
            return value
        if pattern.ends and value.endswith("\n") and matches(value[:-1]):
            return value[:-1]
        raise ValueError(f"must match {pattern.text}")

    return Annotated[str, AfterValidator(check)]


def _matcher(pattern: Pattern) -> Callable[[str], bool]:
    lengths = pattern.lengths
    if lengths is not None:
        least, most = lengths
        return lambda value: least <= len(value) and (most is None or len(value) <= most)
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern.text)).isinstance_python
    except SchemaError:
        raise FieldError("constraints.pattern", "is too large") from None
