"""What a schema may not say, and how a reply that breaks it is told."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format

from voxplane.errors import VoxplaneError
from voxplane.schema import CompiledSchema, compile_schema
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1 import schema_pb2


def schema(*fields: dict[str, Any], **more: Any) -> schema_pb2.SchemaConfig:
    """A schema out of its JSON; fields without a type are strings."""
    named = [
        {"field_name": f"f{index}", "field_type": "string"} | field for index, field in enumerate(fields)
    ]
    return json_format.ParseDict({"fields": named} | more, schema_pb2.SchemaConfig())


def compiled(*fields: dict[str, Any], first: str = "", **more: Any) -> CompiledSchema:
    """The compiled schema."""
    return compile_schema(schema(*fields, **more), first)


def refusal(*fields: dict[str, Any]) -> dict[str, str]:
    """The violations of a schema, by path."""
    with pytest.raises(VoxplaneError) as caught:
        compiled(*fields)
    assert caught.value.reason == reason_pb2.ERROR_REASON_INVALID_SCHEMA
    return {each.field: each.description for each in caught.value.violations}


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(?=a)b", "look-around"),
        ("(?!a)b", "look-around"),
        ("(?<=a)b", "look-around"),
        ("(?<!a)b", "look-around"),
        (r"(a)\1", "back-reference"),
        (r"(?P<n>a)(?P=n)", "without names"),
        ("(?i)a", "without names and flags"),
        ("(", "without its"),
        (")", "without its"),
        ("[a", "without its"),
        ("a{,3}", "to repeat"),
        ("a{3,1}", "backwards"),
        ("[z-a]", "backwards"),
        ("a**", "one repeat follows another"),
        ("a++", "one repeat follows another"),
        ("*a", "nothing to repeat"),
        ("^*", "nothing to repeat"),
        (r"\bword\b", "means different things"),
        (r"\p{Lu}", "not known to all"),
        (r"a\Z", "not known to all"),
        ("(^a)", "must not be in a group"),
        ("(a$)", "must not be in a group"),
        ("a^", "must be the first"),
        ("$a", "must be the last"),
        ("[[:alpha:]]", "for the character \\["),
        ("[a&&b]", "stands there once"),
        ("a{1001}", "more than 1000 times"),
        ("(a{100}){100}", "more than 1000 characters"),
        (r"\ud83d", "half a character"),
        ("\\", "ends with"),
    ],
)
def test_patterns_that_are_read_differently_are_refused(pattern: str, said: str) -> None:
    """The violation names the pattern's path and what is wrong with it."""
    found = refusal({}, {"constraints": {"pattern": pattern}})
    assert list(found) == ["schema_config.fields[1].constraints.pattern"]
    assert said.replace("\\[", "[") in found["schema_config.fields[1].constraints.pattern"]


@pytest.mark.parametrize(
    ("field", "path"),
    [
        ({"constraints": {"pattern": "a", "max_length": 3}}, "constraints.pattern"),
        ({"field_type": "date"}, "field_type"),
        ({"field_type": "array", "item_type": "object"}, "item_type"),
        (
            {"field_type": "object", "properties": [{"property_name": "p", "property_type": "enum"}]},
            "properties[0].property_type",
        ),
        ({"field_type": "enum"}, "constraints.enum_values"),
        ({"field_type": "integer", "constraints": {"minimum": 1.2, "maximum": 1.8}}, "constraints.maximum"),
        ({"field_type": "number", "constraints": {"minimum": "NaN"}}, "constraints.minimum"),
        ({"field_type": "number", "constraints": {"maximum": "Infinity"}}, "constraints.maximum"),
        ({"field_name": "f0"}, "field_name"),
    ],
)
def test_what_cannot_be_compiled_is_told_with_its_path(field: dict[str, Any], path: str) -> None:
    """Paths are those of AgentConfig."""
    assert list(refusal({}, field)) == [f"schema_config.fields[1].{path}"]


@pytest.mark.parametrize(
    ("field", "default"),
    [
        ({"field_type": "string"}, 1),
        ({"field_type": "string", "constraints": {"max_length": 2}}, "abc"),
        ({"field_type": "string", "constraints": {"pattern": "^a$"}}, "b"),
        ({"field_type": "integer"}, 1.5),
        ({"field_type": "integer"}, "1"),
        ({"field_type": "integer"}, True),
        ({"field_type": "integer", "constraints": {"maximum": 3}}, 4),
        ({"field_type": "number"}, True),
        ({"field_type": "boolean"}, 1),
        ({"field_type": "boolean"}, "true"),
        ({"field_type": "enum", "constraints": {"enum_values": ["a"]}}, "b"),
        ({"field_type": "array", "item_type": "integer"}, [1, "2"]),
        ({"field_type": "array", "item_type": "integer", "constraints": {"max_items": 1}}, [1, 2]),
        ({"field_type": "array", "item_type": "integer"}, {"0": 1}),
        ({"field_type": "object", "properties": [{"property_name": "p", "property_type": "string"}]}, {}),
        (
            {"field_type": "object", "properties": [{"property_name": "p", "property_type": "string"}]},
            {"p": "", "q": 1},
        ),
        ({"field_type": "string"}, "x" * 4095),
        ({"field_type": "string"}, "é" * 2048),
        ({"field_type": "string", "required": True}, "x"),
    ],
)
def test_a_default_must_fit(field: dict[str, Any], default: Any) -> None:
    """A default of another type, outside of the constraints, too long, or on a required field is refused."""
    assert list(refusal({}, field | {"default": default})) == ["schema_config.fields[1].default"]


@pytest.mark.parametrize(
    ("field", "default", "value"),
    [
        ({"field_type": "string"}, "x", "x"),
        ({"field_type": "string"}, "x" * 4094, "x" * 4094),
        ({"field_type": "integer"}, 3.0, 3),
        ({"field_type": "number"}, 2.5, 2.5),
        ({"field_type": "boolean"}, False, False),
        ({"field_type": "enum", "constraints": {"enum_values": ["a", "b"]}}, "b", "b"),
        ({"field_type": "array", "item_type": "string"}, [], []),
        ({"field_type": "array", "item_type": "integer"}, [1, 2], [1, 2]),
        (
            {"field_type": "object", "properties": [{"property_name": "copy", "property_type": "integer"}]},
            {"copy": 1},
            {"copy": 1},
        ),
        ({"field_type": "string"}, None, None),
    ],
)
def test_a_default_stands_for_null(field: dict[str, Any], default: Any, value: Any) -> None:
    """An optional field that the model left null takes its default; null is none."""
    its = compiled(field | {"default": default})
    assert its.validate({"f0": None}) == {"f0": value}
    assert type(its.validate({"f0": None})["f0"]) is type(value)


def test_a_required_field_may_have_null_as_default() -> None:
    """Null is no default, so it may stand anywhere."""
    assert compiled({"required": True, "default": None}).defaults == {}


def test_all_mistakes_are_told_at_once() -> None:
    """Each wrong field has a violation."""
    found = refusal({"constraints": {"pattern": "("}}, {}, {"field_type": "enum"}, {"default": 1})
    assert list(found) == [
        "schema_config.fields[0].constraints.pattern",
        "schema_config.fields[2].constraints.enum_values",
        "schema_config.fields[3].default",
    ]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        (
            [
                {"field_type": "enum", "constraints": {"enum_values": [f"{f}-{v}" for v in range(200)]}}
                for f in range(6)
            ],
            "schema_config.fields[5].constraints.enum_values",
        ),
        (
            [{"field_type": "enum", "constraints": {"enum_values": ["x" * 199 + str(v) for v in range(9)]}}]
            * 100,
            "schema_config.fields[66]",
        ),
        (
            [{"constraints": {"pattern": "^.{1,900}$"}}] * 5,
            "schema_config.fields[4].constraints.pattern",
        ),
    ],
    ids=["values", "characters", "patterns"],
)
def test_more_than_strict_output_takes_is_refused(fields: list[dict[str, Any]], path: str) -> None:
    """A schema that OpenAI would refuse at the first call is refused when it is written."""
    assert list(refusal(*fields)) == [path]


def test_the_instruction_field_comes_first() -> None:
    """How to speak must be known before there is something to speak; the rest keeps its order."""
    its = compiled({}, {}, {"field_name": "voice_instructions"}, first="voice_instructions")
    order = ["voice_instructions", "f0", "f1"]
    assert list(its.json_schema["properties"]) == its.json_schema["required"] == order
    assert [field.field_name for field in its.fields] == order
    assert list(its.validate({"f0": None, "f1": None, "voice_instructions": None})) == order


def test_the_response_format_is_strict() -> None:
    """It is named after the schema."""
    its = compiled({"description": "What to say"}, schema_id="interview")
    assert its.response_format == {
        "type": "json_schema",
        "json_schema": {
            "name": "interview",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {"f0": {"type": ["string", "null"], "description": "What to say"}},
                "required": ["f0"],
                "additionalProperties": False,
            },
        },
    }


def test_metadata_is_listed() -> None:
    """Spoken and hidden fields are told in schema order."""
    its = compiled(
        {"metadata": {"use_in_tts": True}}, {"metadata": {"hidden": True}}, {"metadata": {"use_in_tts": True}}
    )
    assert its.spoken_fields == ("f0", "f2")
    assert its.hidden_fields == ("f1",)


def test_equal_schemas_are_compiled_once() -> None:
    """Equal content gives the very same compiled schema, unless another field comes first."""
    assert compiled({"description": "a"}) is compiled({"description": "a"})
    assert compiled({"description": "a"}) is not compiled({"description": "b"})
    assert compiled({}, {}, first="f1") is not compiled({}, {})


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ([], "reply: "),
        ({}, "f0: Field required"),
        ({"f0": 1, "f1": [], "f2": {"p": 1}}, "f0: Input should be a valid string"),
        ({"f0": "secret", "f1": [], "f2": {"p": 1}}, "f0: must match ^[0-9]$"),
        ({"f0": "1", "f1": [1, "secret"], "f2": {"p": 1}}, "f1[1]: Input should be a valid integer"),
        ({"f0": "1", "f1": [], "f2": {"p": "secret"}}, "f2.p: Input should be a valid integer"),
        ({"f0": "1", "f1": [], "f2": {"p": 1, "secret": 1}}, "f2: has a property that is not in the schema"),
        (
            {"f0": "1", "f1": [], "f2": {"p": 1}, "secret": 1},
            "reply: has a property that is not in the schema",
        ),
    ],
)
def test_a_wrong_reply_is_told_by_paths_alone(reply: Any, said: str) -> None:
    """The error names the fields, and repeats nothing of what the model wrote."""
    its = compiled(
        {"required": True, "constraints": {"pattern": r"^\d$"}},
        {"field_type": "array", "item_type": "integer"},
        {"field_type": "object", "properties": [{"property_name": "p", "property_type": "integer"}]},
    )
    with pytest.raises(ValueError) as caught:
        its.validate(reply)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_reply_with_very_many_mistakes_is_told_briefly() -> None:
    """The error stays short."""
    its = compiled({"field_type": "array", "item_type": "integer"})
    with pytest.raises(ValueError, match="and 980 more") as caught:
        its.validate({"f0": ["x"] * 1000})
    assert len(str(caught.value)) < 2000
