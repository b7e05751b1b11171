"""Compiling a config's schema, once for all who use it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import pydantic
from google.protobuf import json_format
from pydantic import BaseModel, TypeAdapter

from voxplane.errors import Violation, VoxplaneError
from voxplane.schema.json_schema import reply_schema
from voxplane.schema.types import STRICT, FieldError, model, text_pattern, typed_dict, value_type
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1 import schema_pb2

COMPILED_SCHEMAS_MAX = 256
DEFAULT_BYTES_MAX = 4096
DEFAULT_SCHEMA_ID = "reply"
MISTAKES_TOLD_MAX = 20

# what OpenAI's strict structured output takes in one schema
ENUM_VALUES_MAX = 1_000
PROPERTIES_MAX = 5_000
NAMES_CHARS_MAX = 120_000
"""Characters of all names of properties and all values of enums."""

PATTERNS_SIZE_MAX = 4_000
"""Pattern.size of all fields; what a reply costs to check is a multiple of it."""

_FIELDS = "schema_config.fields"


@dataclass(frozen=True, slots=True)
class CompiledSchema:
    """A schema that is ready for use; shared, so treat all of it as constant.

    `json_schema` describes the reply object; `fields` are in its order;
    `defaults` hold the values of optional fields that are left null.
    """

    schema_id: str
    fields: tuple[schema_pb2.SchemaField, ...]
    json_schema: dict[str, Any]
    typed_dict: type
    model: type[BaseModel]
    defaults: Mapping[str, Any]
    spoken_fields: tuple[str, ...]
    hidden_fields: tuple[str, ...]
    adapter: TypeAdapter[dict[str, Any]]
    """Of `typed_dict`."""

    @property
    def response_format(self) -> dict[str, Any]:
        """What the response_format of a request to OpenAI must be."""
        return {
            "type": "json_schema",
            "json_schema": {"name": self.schema_id, "strict": True, "schema": self.json_schema},
        }

    def validate(self, reply: object) -> dict[str, Any]:
        """The reply in schema order, with defaults for its nulls.

        Raises ValueError whose text has the paths of the wrong fields, such as
        `tags[2]`, and nothing of their values.
        """
        try:
            values = self.adapter.validate_python(reply)
        except pydantic.ValidationError as error:
            raise ValueError("; ".join(_mistakes(error))) from None
        return {
            field.field_name: self.defaults.get(field.field_name)
            if values[field.field_name] is None
            else values[field.field_name]
            for field in self.fields
        }


def compile_schema(schema: schema_pb2.SchemaConfig, first: str = "") -> CompiledSchema:
    """Compile, or take what was compiled of the same content.

    `first` names the field that the model must write first, such as the one
    with speaking instructions. Raises VoxplaneError(INVALID_SCHEMA) with all
    mistakes, whose paths are like `schema_config.fields[2].constraints.pattern`.
    """
    return _compile(schema.SerializeToString(deterministic=True), first)


@lru_cache(maxsize=COMPILED_SCHEMAS_MAX)
def _compile(encoded: bytes, first: str) -> CompiledSchema:
    schema = schema_pb2.SchemaConfig.FromString(encoded)
    violations = list(_too_much(schema.fields))
    types: dict[str, Any] = {}
    for index, field in enumerate(schema.fields):
        try:
            if field.field_name in types:
                raise FieldError("field_name", "another field has this name")
            types[field.field_name] = value_type(field, typed_dict)
        except FieldError as error:
            violations.append(Violation(f"{_FIELDS}[{index}].{error.path}", error.description))
    defaults: dict[str, Any] = {}
    for index, field in enumerate(schema.fields):
        if field.field_name in types and not _is_null(field):
            try:
                defaults[field.field_name] = _default(field, types[field.field_name])
            except FieldError as error:
                violations.append(Violation(f"{_FIELDS}[{index}].{error.path}", error.description))
    if violations:
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_INVALID_SCHEMA, "the schema cannot be compiled", violations=violations
        )
    fields = tuple(sorted(schema.fields, key=lambda field: field.field_name != first))
    schema_id = schema.schema_id or DEFAULT_SCHEMA_ID
    reply = typed_dict(schema_id, _nullable(fields, types))
    return CompiledSchema(
        schema_id=schema_id,
        fields=fields,
        json_schema=reply_schema(fields),
        typed_dict=reply,
        model=model(schema_id, _nullable(fields, {f.field_name: value_type(f, model) for f in fields})),
        defaults=defaults,
        spoken_fields=tuple(f.field_name for f in fields if f.metadata.use_in_tts),
        hidden_fields=tuple(f.field_name for f in fields if f.metadata.hidden),
        adapter=TypeAdapter(reply),
    )


def _nullable(fields: tuple[schema_pb2.SchemaField, ...], types: Mapping[str, Any]) -> dict[str, Any]:
    return {f.field_name: types[f.field_name] if f.required else types[f.field_name] | None for f in fields}


def _too_much(fields: Iterable[schema_pb2.SchemaField]) -> Iterator[Violation]:
    """Where the schema becomes more than strict structured output takes."""
    values = properties = chars = sizes = 0
    for index, field in enumerate(fields):
        values += len(field.constraints.enum_values)
        properties += 1 + len(field.properties)
        chars += len(field.field_name) + sum(len(its.property_name) for its in field.properties)
        chars += sum(map(len, field.constraints.enum_values))
        sizes += _pattern_size(field.constraints)
        for name, count, most, path in (
            ("values of enums", values, ENUM_VALUES_MAX, ".constraints.enum_values"),
            ("properties", properties, PROPERTIES_MAX, ".properties"),
            ("characters of names and values of enums", chars, NAMES_CHARS_MAX, ""),
            ("characters for its patterns to match", sizes, PATTERNS_SIZE_MAX, ".constraints.pattern"),
        ):
            if count > most:
                yield Violation(f"{_FIELDS}[{index}]{path}", f"the schema has more than {most} {name}")
                return


def _pattern_size(limits: schema_pb2.FieldConstraints) -> int:
    try:
        pattern = text_pattern(limits)
    except FieldError:
        return 0
    return pattern.size if pattern else 0


def _is_null(field: schema_pb2.SchemaField) -> bool:
    """Whether the field has no default; null says so too."""
    return not field.HasField("default") or field.default.WhichOneof("kind") == "null_value"


def _default(field: schema_pb2.SchemaField, kind: Any) -> Any:
    if field.required:
        raise FieldError("default", "a required field is never null and so can have no default")
    wrong = FieldError("default", f"must be a valid {field.field_type} within the constraints")
    try:
        value = json_format.MessageToDict(field.default)
        size = len(json.dumps(value, ensure_ascii=False).encode())
    except (ValueError, RecursionError):
        raise wrong from None
    if size > DEFAULT_BYTES_MAX:
        raise FieldError("default", f"must have at most {DEFAULT_BYTES_MAX} bytes as JSON")
    try:
        config = None if field.field_type == "object" else STRICT
        return TypeAdapter(kind, config=config).validate_python(value)
    except pydantic.ValidationError:
        raise wrong from None


def _mistakes(error: pydantic.ValidationError) -> Iterator[str]:
    """What is wrong, without what the model wrote: also the name of a property
    that is not in the schema is the model's."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    for each in islice(errors, MISTAKES_TOLD_MAX):
        place = each["loc"]
        if each["type"] == "extra_forbidden":
            yield f"{_place(place[:-1])}: has a property that is not in the schema"
        else:
            yield f"{_place(place)}: {each['msg'].removeprefix('Value error, ')}"
    if len(errors) > MISTAKES_TOLD_MAX:
        yield f"and {len(errors) - MISTAKES_TOLD_MAX} more"


def _place(location: tuple[int | str, ...]) -> str:
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path or "reply"
