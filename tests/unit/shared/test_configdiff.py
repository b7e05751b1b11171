"""The paths of what differs between two configs."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.shared.schemas import schemas
from voxplane.configdiff import FieldChange, changed_fields, field_changes
from voxplane.v1 import schema_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig

MOOD = {"field_name": "mood", "field_type": "string"}
SCORE = {"field_name": "score", "field_type": "integer"}
REPLY = {"field_name": "reply", "field_type": "string", "metadata": {"use_in_tts": True}}


def config(**blocks: Any) -> AgentConfig:
    """A config out of its JSON."""
    return json_format.ParseDict(blocks, AgentConfig())


def fields(*each: dict[str, Any]) -> AgentConfig:
    """A config with these schema fields."""
    return config(schema_config={"fields": list(each)})


@pytest.mark.parametrize(
    ("old", "new", "paths"),
    [
        (config(), config(), []),
        (config(agent_type="sales"), config(agent_type="support"), ["agent_type"]),
        (
            config(llm_config={"provider": "a", "temperature": 0.0}),
            config(llm_config={"provider": "a"}),
            ["llm_config.temperature"],
        ),
        (config(), config(tts_config={"provider": "a", "voice": "b"}), ["tts_config"]),
        (config(tts_config={"provider": "a"}), config(), ["tts_config"]),
        (config(), config(llm_config={}), ["llm_config"]),
        (
            config(llm_config={"timeout": "1s"}),
            config(llm_config={"timeout": "2s"}),
            ["llm_config.timeout"],
        ),
        (
            config(prompt_config={"dynamic_vars": {"a": "1", "b": "2", "c": "3"}}),
            config(prompt_config={"dynamic_vars": {"a": "1", "b": "x", "d": ""}}),
            [f'prompt_config.dynamic_vars["{key}"]' for key in "bcd"],
        ),
        (
            config(prompt_config={"instructions": "a", "dynamic_vars": {"a": "1"}}),
            config(prompt_config={"instructions": "b"}),
            ["prompt_config.instructions", 'prompt_config.dynamic_vars["a"]'],
        ),
        (
            config(frontend_config={"fields": ["a"]}),
            config(frontend_config={"fields": ["a", "b"]}),
            ["frontend_config.fields"],
        ),
        (fields(MOOD), fields(MOOD, SCORE), ["schema_config.fields[score]"]),
        (config(), fields(MOOD), ["schema_config.fields[mood]"]),
        (fields(MOOD, SCORE), fields(SCORE), ["schema_config.fields[mood]"]),
        (fields(MOOD, SCORE), fields(SCORE, MOOD), ["schema_config.fields"]),
        (
            fields(MOOD, SCORE),
            fields(SCORE | {"required": True, "constraints": {"maximum": 9}}, MOOD),
            [
                "schema_config.fields[score].required",
                "schema_config.fields[score].constraints",
                "schema_config.fields",
            ],
        ),
        (
            fields(REPLY),
            fields(REPLY | {"metadata": {"use_in_tts": True, "hidden": True}}),
            ["schema_config.fields[reply].metadata.hidden"],
        ),
        (
            fields(MOOD | {"default": {"a": 1}}),
            fields(MOOD | {"default": {"a": 2}}),
            ["schema_config.fields[mood].default"],
        ),
    ],
)
def test_paths_name_what_changed(old: AgentConfig, new: AgentConfig, paths: list[str]) -> None:
    """Each change is at its own path, and only there."""
    assert changed_fields(old, new) == paths


def test_changes_are_in_the_order_of_the_contract() -> None:
    """Blocks and their fields come as the contract lists them."""
    new = config(
        version="2",
        stt_config={"provider": "a"},
        llm_config={"model": "m", "temperature": 1},
        agent_type="sales",
    )
    old = config(llm_config={"max_output_tokens": 5})
    assert changed_fields(old, new) == [
        "agent_type",
        "version",
        "stt_config",
        "llm_config.model",
        "llm_config.temperature",
        "llm_config.max_output_tokens",
    ]


def test_changes_have_their_json_values() -> None:
    """None stands for what is not set."""
    old, new = config(tracing_config={"sample_rate": 0.5}), config(tracing_config={"enabled": True})
    assert field_changes(old, new) == [
        FieldChange("tracing_config.enabled", None, True),
        FieldChange("tracing_config.sample_rate", 0.5, None),
    ]


@given(schemas(), schemas())
def test_configs_differ_if_and_only_if_a_path_says_so(
    old: schema_pb2.SchemaConfig, new: schema_pb2.SchemaConfig
) -> None:
    """No difference is without a path, and the way back has the same paths."""
    before, after = AgentConfig(schema_config=old), AgentConfig(schema_config=new)
    assert (changed_fields(before, after) == []) == (before == after)
    assert set(changed_fields(before, after)) == set(changed_fields(after, before))
    assert changed_fields(before, before) == []


@given(st.lists(st.sampled_from([MOOD, SCORE, REPLY]), unique_by=lambda field: field["field_name"]))
def test_no_path_is_told_twice(chosen: list[dict[str, Any]]) -> None:
    """Paths are unique."""
    paths = changed_fields(fields(MOOD, SCORE), fields(*chosen))
    assert len(paths) == len(set(paths))
