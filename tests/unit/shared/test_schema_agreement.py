"""JSON Schema, TypedDict and model of a schema accept the same."""

from __future__ import annotations

import json
import re
from typing import Any

import pydantic
import pytest
from hypothesis import example, given, settings
from jsonschema import Draft202012Validator

from tests.unit.shared.schemas import schemas, schemas_and_replies, texts
from voxplane.schema import CompiledSchema, compile_schema
from voxplane.v1 import schema_pb2

STRICT_KEYWORDS = {
    "type",
    "properties",
    "required",
    "additionalProperties",
    "description",
    "enum",
    "items",
    "pattern",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
}


def json_schema_accepts(compiled: CompiledSchema, reply: Any) -> bool:
    """Whether a validator of JSON Schema takes the reply."""
    return Draft202012Validator(compiled.json_schema).is_valid(reply)


def model_accepts(compiled: CompiledSchema, reply: Any) -> bool:
    """Whether the Pydantic model takes the reply."""
    try:
        compiled.model.model_validate(reply)
    except pydantic.ValidationError:
        return False
    return True


def validate_accepts(compiled: CompiledSchema, reply: Any) -> bool:
    """Whether `validate`, by the TypedDict, takes the reply."""
    try:
        compiled.validate(reply)
    except ValueError:
        return False
    return True


def one(**field: Any) -> schema_pb2.SchemaConfig:
    """A schema with one field, `a`."""
    limits = schema_pb2.FieldConstraints(**field.pop("constraints", {}))
    return schema_pb2.SchemaConfig(
        fields=[schema_pb2.SchemaField(field_name="a", constraints=limits, **field)]
    )


@settings(max_examples=400, deadline=None)
@given(schemas_and_replies())
@example((one(field_type="string", required=True, constraints={"max_length": 1}), {"a": "0\n"}))
@example((one(field_type="string", required=True, constraints={"pattern": "^[0-9]$"}), {"a": "0\n"}))
@example((one(field_type="integer", required=True), {"a": 1.0}))
@example((one(field_type="integer", required=True), {"a": True}))
@example((one(field_type="number", required=True), {"a": False}))
@example((one(field_type="number", required=True), {"a": "1"}))
@example((one(field_type="boolean", required=True), {"a": 1}))
@example((one(field_type="array", item_type="integer", required=True), {"a": (1,)}))
def test_all_three_accept_the_same(case: tuple[schema_pb2.SchemaConfig, Any]) -> None:
    """What the JSON Schema accepts the model and the TypedDict accept, and the reverse."""
    schema, reply = case
    compiled = compile_schema(schema)
    expected = json_schema_accepts(compiled, reply)
    assert model_accepts(compiled, reply) == expected
    assert validate_accepts(compiled, reply) == expected


@settings(max_examples=200, deadline=None)
@given(schemas_and_replies())
def test_model_and_validate_give_the_same_values(case: tuple[schema_pb2.SchemaConfig, Any]) -> None:
    """What is validated obeys the schema itself, in its order, however it is validated."""
    schema, reply = case
    compiled = compile_schema(schema)
    if not json_schema_accepts(compiled, reply):
        return
    validated = compiled.validate(reply)
    assert list(validated) == [field.field_name for field in schema.fields]
    assert validated == compiled.model.model_validate(reply).model_dump(by_alias=True)
    assert compiled.validate(validated) == validated
    assert json_schema_accepts(compiled, validated)


@settings(max_examples=100, deadline=None)
@given(schemas())
def test_json_schemas_are_strict(schema: schema_pb2.SchemaConfig) -> None:
    """Every object is closed and requires all that it has, with no keyword that strict output lacks."""
    compiled = compile_schema(schema)

    def walk(shape: dict[str, Any]) -> None:
        assert set(shape) <= STRICT_KEYWORDS
        if "properties" in shape:
            assert shape["additionalProperties"] is False
            assert shape["required"] == list(shape["properties"])
            for inner in shape["properties"].values():
                walk(inner)
        if "items" in shape:
            walk(shape["items"])

    walk(compiled.json_schema)
    Draft202012Validator.check_schema(compiled.json_schema)
    json.dumps(compiled.response_format, allow_nan=False)
    for field in schema.fields:
        kind = compiled.json_schema["properties"][field.field_name]["type"]
        assert ("null" in kind) == (not field.required)


@settings(max_examples=200, deadline=None)
@given(texts, schemas())
def test_the_written_pattern_means_what_was_meant(text: str, schema: schema_pb2.SchemaConfig) -> None:
    """A text fits where Python's own reading of the author's pattern, in ASCII, finds it."""
    for field in schema.fields:
        if field.constraints.pattern:
            compiled = compile_schema(
                one(field_type="string", required=True, constraints={"pattern": field.constraints.pattern})
            )
            meant = re.search(field.constraints.pattern, text, re.ASCII) is not None
            assert model_accepts(compiled, {"a": text}) == meant


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_are_finite(value: float) -> None:
    """What JSON cannot write is no number."""
    compiled = compile_schema(one(field_type="number", required=True))
    assert not model_accepts(compiled, {"a": value})
    assert not validate_accepts(compiled, {"a": value})


@pytest.mark.parametrize(
    ("reply", "value"),
    [("ab\n", "ab"), ("ab", "ab"), ("a\n", "a\n")],
    ids=["one too long", "fits", "fits too"],
)
def test_a_newline_too_many_at_the_end_is_dropped(reply: str, value: str) -> None:
    """Python's reading of JSON Schema lets one newline pass at the end; the value has none too many."""
    compiled = compile_schema(one(field_type="string", required=True, constraints={"max_length": 2}))
    assert compiled.validate({"a": reply}) == {"a": value}
