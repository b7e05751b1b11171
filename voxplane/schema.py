"""A config's schema as strict JSON Schema, TypedDict and Pydantic model.

All three accept the same values. The JSON Schema keeps to what models with
strict structured output take: no extra properties, every property required,
optional ones nullable, no defaults; lengths of strings are said by a pattern.
Patterns are of the dialect that has no look-around and no back-references
(Rust's regex crate, by Pydantic), so that no pattern can be slow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, cast

import pydantic
import typing_extensions
from google.protobuf import json_format
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter
from pydantic_core import SchemaError

from voxplane.errors import Violation, VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1 import schema_pb2

COMPILED_SCHEMAS_MAX = 512
DEFAULT_BYTES_MAX = 4096
DEFAULT_SCHEMA_ID = "reply"

_STRICT = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


@dataclass(frozen=True, slots=True)
class CompiledSchema:
    """A schema that is ready for use; shared, so treat all of it as constant.

    `json_schema` describes the reply object; `response_format` wraps it as
    OpenAI's chat API wants it; `fields` are in the order of the JSON Schema;
    `defaults` hold the value of each optional field that is left null.
    """

    schema_id: str
    fields: tuple[schema_pb2.SchemaField, ...]
    json_schema: dict[str, Any]
    typed_dict: type
    model: type[BaseModel]
    defaults: Mapping[str, Any]
    spoken_fields: tuple[str, ...]
    hidden_fields: tuple[str, ...]

    @property
    def response_format(self) -> dict[str, Any]:
        """What a chat request's response_format must be."""
        return {
            "type": "json_schema",
            "json_schema": {"name": self.schema_id, "strict": True, "schema": self.json_schema},
        }

    def validate(self, reply: object) -> dict[str, Any]:
        """The reply with defaults for its nulls. Raises ValueError whose text
        names the fields, and never their values."""
        try:
            parsed = self.model.model_validate(reply)
        except pydantic.ValidationError as error:
            wrong = [
                f"{'.'.join(map(str, each['loc'])) or 'reply'}: {each['msg']}" for each in error.errors()
            ]
            raise ValueError("; ".join(wrong)) from None
        values = parsed.model_dump(by_alias=True)
        return {name: self.defaults.get(name) if value is None else value for name, value in values.items()}


def compile_schema(schema: schema_pb2.SchemaConfig, first: str = "") -> CompiledSchema:
    """Compile, or take the compiled one from a cache.

    `first` names the field that the model must write first, such as the one
    with speaking instructions. Raises VoxplaneError(INVALID_SCHEMA) with paths
    such as `schema_config.fields[2].constraints.pattern`.
    """
    return _compile(schema.SerializeToString(deterministic=True), first)


@lru_cache(maxsize=COMPILED_SCHEMAS_MAX)
def _compile(encoded: bytes, first: str) -> CompiledSchema:
    schema = schema_pb2.SchemaConfig.FromString(encoded)
    violations: list[Violation] = []
    types: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for index, field in enumerate(schema.fields):
        try:
            types[field.field_name] = _value_type(field)
            if field.HasField("default"):
                defaults[field.field_name] = _default(field, types[field.field_name])
        except _FieldError as error:
            violations.append(Violation(f"schema_config.fields[{index}].{error.path}", error.description))
    if violations:
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_INVALID_SCHEMA, "the schema cannot be compiled", violations=violations
        )
    fields = tuple(sorted(schema.fields, key=lambda field: field.field_name != first))
    annotations = {
        f.field_name: types[f.field_name] if f.required else types[f.field_name] | None for f in fields
    }
    schema_id = schema.schema_id or DEFAULT_SCHEMA_ID
    return CompiledSchema(
        schema_id=schema_id,
        fields=fields,
        json_schema=_object({f.field_name: _property(f) for f in fields}),
        typed_dict=cast("type", typing_extensions.TypedDict(schema_id, annotations)),  # pyright: ignore[reportArgumentType, reportCallIssue]
        model=_model(schema_id, annotations),
        defaults=defaults,
        spoken_fields=tuple(f.field_name for f in fields if f.metadata.use_in_tts),
        hidden_fields=tuple(f.field_name for f in fields if f.metadata.hidden),
    )


class _FieldError(Exception):
    def __init__(self, path: str, description: str) -> None:
        super().__init__(description)
        self.path = path
        self.description = description


def _length_pattern(limits: schema_pb2.FieldConstraints) -> str:
    """The limits on a string as one pattern; empty if there are none."""
    if not (limits.HasField("min_length") or limits.HasField("max_length")):
        return limits.pattern
    most = str(limits.max_length) if limits.HasField("max_length") else ""
    return rf"^[\s\S]{{{limits.min_length},{most}}}$"


def _number(value: float) -> float:
    return int(value) if value.is_integer() else value


def _value_type(field: schema_pb2.SchemaField) -> Any:
    limits = field.constraints
    match field.field_type:
        case "string":
            return _string_type(limits)
        case "enum":
            return Literal[tuple(limits.enum_values)]
        case "integer" | "number":
            low = _number(limits.minimum) if limits.HasField("minimum") else None
            high = _number(limits.maximum) if limits.HasField("maximum") else None
            return Annotated[_scalar(field.field_type), Field(ge=low, le=high)]
        case "array":
            fewest = limits.min_items if limits.HasField("min_items") else None
            most = limits.max_items if limits.HasField("max_items") else None
            return Annotated[list[_scalar(field.item_type)], Field(min_length=fewest, max_length=most)]
        case "object":
            return _model(
                field.field_name, {p.property_name: _scalar(p.property_type) for p in field.properties}
            )
        case _:
            return _scalar(field.field_type)


def _string_type(limits: schema_pb2.FieldConstraints) -> Any:
    if limits.pattern and (limits.HasField("min_length") or limits.HasField("max_length")):
        raise _FieldError("constraints.pattern", "give a pattern or lengths, not both")
    pattern = _length_pattern(limits)
    if not pattern:
        return str
    if not limits.pattern:
        least = limits.min_length if limits.HasField("min_length") else None
        most = limits.max_length if limits.HasField("max_length") else None
        return Annotated[str, Field(min_length=least, max_length=most)]
    kind = Annotated[str, Field(pattern=pattern)]
    try:
        TypeAdapter(kind)
    except SchemaError:
        raise _FieldError(
            "constraints.pattern", "must be a regular expression without look-around and back-references"
        ) from None
    return kind


def _whole(value: object) -> object:
    """JSON has one kind of number: 3.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _scalar(name: str) -> Any:
    match name:
        case "string":
            return str
        case "boolean":
            return bool
        case "integer":
            return Annotated[int, BeforeValidator(_whole)]
        case "number":
            return int | float
        case _:
            raise _FieldError("field_type", f"{name!r} is not a type")


def _model(name: str, annotations: Mapping[str, Any]) -> type[BaseModel]:
    """A model whose attributes are the fields; one whose name BaseModel has
    already gets an underscore behind it, and keeps its name in JSON."""
    fields: dict[str, Any] = {}
    for field, annotation in annotations.items():
        attribute = field
        while (
            hasattr(BaseModel, attribute)
            or attribute in fields
            or (attribute != field and attribute in annotations)
        ):
            attribute += "_"
        fields[attribute] = (annotation, Field(alias=field))
    return pydantic.create_model(name, __config__=_STRICT, **fields)


def _default(field: schema_pb2.SchemaField, kind: Any) -> Any:
    if field.required:
        raise _FieldError("default", "a required field is never null and so can have no default")
    if field.default.ByteSize() > DEFAULT_BYTES_MAX:
        raise _FieldError("default", f"must have at most {DEFAULT_BYTES_MAX} bytes")
    try:
        value = json_format.MessageToDict(field.default)
        adapter: TypeAdapter[Any] = TypeAdapter(
            kind, config=None if field.field_type == "object" else _STRICT
        )
        return adapter.dump_python(adapter.validate_python(value), by_alias=True)
    except (pydantic.ValidationError, ValueError):
        raise _FieldError("default", f"must be a valid {field.field_type} within the constraints") from None


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _property(field: schema_pb2.SchemaField) -> dict[str, Any]:
    shape = _shape(field)
    if not field.required:
        shape["type"] = [shape["type"], "null"]
        if "enum" in shape:
            shape["enum"].append(None)
    if field.description:
        shape["description"] = field.description
    return shape


def _shape(field: schema_pb2.SchemaField) -> dict[str, Any]:
    limits = field.constraints
    match field.field_type:
        case "enum":
            return {"type": "string", "enum": list(limits.enum_values)}
        case "object":
            return _object(
                {p.property_name: _described(p.property_type, p.description) for p in field.properties}
            )
        case "array":
            shape: dict[str, Any] = {"type": "array", "items": {"type": field.item_type}}
            bounds = {"min_items": "minItems", "max_items": "maxItems"}
        case _:
            shape = {"type": field.field_type}
            bounds = {"minimum": "minimum", "maximum": "maximum"}
            if pattern := _length_pattern(limits):
                shape["pattern"] = pattern
    for name, keyword in bounds.items():
        if limits.HasField(name):
            shape[keyword] = _number(float(getattr(limits, name)))
    return shape


def _described(kind: str, description: str) -> dict[str, Any]:
    shape: dict[str, Any] = {"type": kind}
    return {**shape, "description": description} if description else shape
