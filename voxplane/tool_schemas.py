"""The JSON Schema of a tool's parameters: what of it can be used, and the
arguments of a call held against it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from google.protobuf import json_format
from jsonschema import Draft202012Validator
from jsonschema.exceptions import (
    SchemaError,
    ValidationError,
    best_match,  # pyright: ignore[reportUnknownVariableType]
)
from jsonschema.protocols import Validator
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from voxplane.v1 import tool_pb2

PROBLEM_CHARS_MAX = 300
WHOLE_NUMBER_MAX = 2**53

_REFERENCES = ("$ref", "$dynamicRef")
_DATA = frozenset(("enum", "const", "default", "examples"))
"""Keywords whose value is data, and no schema."""
_COMBINING = frozenset(
    ("additionalProperties", "unevaluatedProperties", "patternProperties", "allOf", "anyOf", "oneOf", "if")
) | frozenset(_REFERENCES)


def parameters_of(tool: tool_pb2.HttpTool) -> dict[str, Any]:
    """The JSON Schema of a tool's parameters; one without parameters if it is
    not set. A schema that does not say what else may come allows nothing else."""
    if not tool.parameters.fields:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    schema = cast("dict[str, Any]", _with_whole_numbers(json_format.MessageToDict(tool.parameters)))
    if _COMBINING.isdisjoint(schema):
        schema["additionalProperties"] = False
    return schema


def fault_of_schema(schema: dict[str, Any]) -> str | None:
    """Why arguments cannot be held against the schema; None if they can."""
    found = None
    try:
        found = next(_faults(schema, lambda _: True), None)
        Draft202012Validator.check_schema(schema)
        found = found or next(_faults(schema, _lookup_in(schema)), None)
    except (SchemaError, RecursionError):
        return found or "is not a JSON Schema"
    if found is not None:
        return found
    if schema.get("type") != "object" or not isinstance(schema.get("properties", {}), dict):
        return "must be the JSON Schema of an object"
    return None


def validator_of(schema: Mapping[str, Any]) -> Validator:
    """What holds arguments against the schema. It never loads anything."""
    return Draft202012Validator(schema, registry=Registry[Any]())


def problem_of(arguments: Mapping[str, Any], validator: Validator) -> str | None:
    """What is wrong with the arguments, for who made them; None if nothing is."""
    try:
        found = cast("ValidationError | None", best_match(validator.iter_errors(arguments)))
    except RecursionError:
        return "they are nested too deeply"
    if found is None:
        return None
    where = ".".join(str(part) for part in found.absolute_path)
    said = str(found.message)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    if len(said) > PROBLEM_CHARS_MAX:
        said = f"{said[:PROBLEM_CHARS_MAX]}…"
    return f"{where}: {said}" if where else said


def _lookup_in(schema: dict[str, Any]) -> Callable[[str], bool]:
    """Whether a reference leads somewhere within the schema."""
    resolver = Registry[Any]().resolver_with_root(DRAFT202012.create_resource(schema))

    def leads(reference: str) -> bool:
        try:
            resolver.lookup(reference)
        except (Unresolvable, ValueError):
            return False
        return True

    return leads


def _faults(node: object, leads: Callable[[str], bool]) -> Iterator[str]:
    if isinstance(node, list):
        for item in cast("list[object]", node):
            yield from _faults(item, leads)
    if not isinstance(node, dict):
        return
    for key, value in cast("dict[str, object]", node).items():
        if key in _REFERENCES and isinstance(value, str) and not (value.startswith("#") and leads(value)):
            yield f"has a {key} to nothing within it"
        if key == "$id" and isinstance(value, str):
            yield "must have no $id"
        if not all(map(_compiles, _patterns(key, value))):
            yield "has a pattern that cannot be used"
        if key not in _DATA:
            yield from _faults(value, leads)


def _patterns(key: str, value: object) -> list[str]:
    if key == "pattern" and isinstance(value, str):
        return [value]
    if key == "patternProperties" and isinstance(value, dict):
        return list(cast("dict[str, object]", value))
    return []


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _with_whole_numbers(value: object) -> object:
    """A Struct knows only floats; models want 10 where the author wrote 10."""
    match value:
        case dict():
            return {key: _with_whole_numbers(each) for key, each in cast("dict[str, object]", value).items()}
        case list():
            return [_with_whole_numbers(each) for each in cast("list[object]", value)]
        case float() if value.is_integer() and abs(value) < WHOLE_NUMBER_MAX:
            return int(value)
        case _:
            return value
