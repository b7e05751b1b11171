"""What a change of the config means for a running session."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format

from agent_node.job.plan import EVERYTHING, Effect, Part, plan
from voxplane.v1.agent_config_pb2 import AgentConfig

BASE: dict[str, Any] = {
    "agent_type": "interview",
    "prompt_config": {"instructions": "Be kind.", "dynamic_vars": {"name": "x"}},
    "schema_config": {"fields": [{"field_name": "reply", "field_type": "string"}]},
    "llm_config": {"provider": "offline", "temperature": 0.5},
    "stt_config": {"provider": "deepgram"},
    "tts_config": {"provider": "offline", "voice": "low"},
    "turn_config": {"turn_detection": "stt"},
    "tracing_config": {"enabled": False},
}


def config(**blocks: Any) -> AgentConfig:
    """BASE with other values in some blocks; None leaves a block out."""
    values = {
        name: {**BASE.get(name, {}), **block} if isinstance(block, dict) else block
        for name, block in blocks.items()
    }
    merged = {name: value for name, value in {**BASE, **values}.items() if value is not None}
    return json_format.ParseDict(merged, AgentConfig())


@pytest.mark.parametrize(
    ("change", "path", "effect", "parts"),
    [
        (
            {"prompt_config": {"instructions": "Hm."}},
            "prompt_config.instructions",
            Effect.NEXT_TURN,
            {Part.INSTRUCTIONS},
        ),
        (
            {"prompt_config": {"dynamic_vars": {"name": "y"}}},
            'prompt_config.dynamic_vars["name"]',
            Effect.NEXT_TURN,
            {Part.INSTRUCTIONS},
        ),
        ({"llm_config": {"temperature": 1}}, "llm_config.temperature", Effect.NEXT_TURN, {Part.LLM}),
        (
            {"llm_config": {"supports_structured_output": False}},
            "llm_config.supports_structured_output",
            Effect.NEXT_TURN,
            {Part.LLM, Part.INSTRUCTIONS},
        ),
        ({"tts_config": {"voice": "high"}}, "tts_config.voice", Effect.NEXT_TURN, {Part.TTS}),
        (
            {"tts_config": {"instruction_field": "reply"}},
            "tts_config.instruction_field",
            Effect.NEXT_TURN,
            {Part.SCHEMA, Part.INSTRUCTIONS},
        ),
        ({"stt_config": {"language": "de"}}, "stt_config.language", Effect.NEXT_TURN, {Part.STT}),
        ({"turn_config": {"turn_detection": "vad"}}, "turn_config.turn_detection", Effect.NEXT_TURN, set()),
        (
            {"turn_config": {"allow_interruptions": False}},
            "turn_config.allow_interruptions",
            Effect.NEXT_CALL,
            set(),
        ),
        (
            {"vad_config": {"activation_threshold": 0.7}},
            "vad_config.activation_threshold",
            Effect.NEXT_TURN,
            {Part.VAD, Part.STT},
        ),
        (
            {"session_config": {"goodbye": "Bye."}},
            "session_config.goodbye",
            Effect.NEXT_TURN,
            {Part.INSTRUCTIONS},
        ),
        (
            {"session_config": {"greeting": "Hi."}},
            "session_config.greeting",
            Effect.NEXT_CALL,
            {Part.INSTRUCTIONS},
        ),
        ({"tools": [{"name": "a", "url": "https://a.example"}]}, "tools", Effect.NEXT_TURN, {Part.TOOLS}),
        (
            {"mcp_servers": [{"name": "a", "url": "https://a.example"}]},
            "mcp_servers",
            Effect.NEXT_TURN,
            {Part.TOOLS},
        ),
        (
            {"turn_config": {"min_endpointing_delay": "1s"}},
            "turn_config.min_endpointing_delay",
            Effect.NEXT_TURN,
            set(),
        ),
        ({"tracing_config": {"enabled": True}}, "tracing_config.enabled", Effect.NEXT_TURN, set()),
        (
            {"limits_config": {"silence_timeout": "9s"}},
            "limits_config.silence_timeout",
            Effect.NEXT_TURN,
            set(),
        ),
        ({"frontend_config": {"fields": ["reply"]}}, "frontend_config.fields", Effect.NEXT_TURN, set()),
        ({"version": "2"}, "version", Effect.NEXT_TURN, set()),
        (
            {"realtime_config": {"enabled": True}},
            "realtime_config.enabled",
            Effect.HANDOFF,
            EVERYTHING,
        ),
    ],
)
def test_every_change_has_a_class(
    change: dict[str, Any], path: str, effect: Effect, parts: set[Part]
) -> None:
    """A changed field has its class, and only what depends on it is rebuilt."""
    found = plan(config(), config(**change))
    assert found.effects == {path: effect}
    assert found.rebuild == parts
    assert found.fields(effect) == (path,)
    assert found.handoff == (effect is Effect.HANDOFF)


def test_a_block_that_goes_counts_as_its_fields() -> None:
    """Without tts_config the voice is rebuilt, to nothing."""
    found = plan(config(), config(tts_config=None))
    assert found.effects.keys() == {"tts_config.provider", "tts_config.voice"}
    assert found.rebuild == {Part.TTS}


def test_a_new_field_of_the_schema() -> None:
    """A new schema field rebuilds the schema and no model."""
    fields = [*BASE["schema_config"]["fields"], {"field_name": "mood", "field_type": "string"}]
    found = plan(config(), config(schema_config={"fields": fields}))
    assert found.effects == {"schema_config.fields[mood]": Effect.NEXT_TURN}
    assert found.rebuild == {Part.SCHEMA, Part.INSTRUCTIONS}


def test_what_a_realtime_model_is_told_as_it_connects_comes_by_a_new_connection() -> None:
    """Whether it finds the end of a turn itself is one of these; who is shown
    the fields is not."""
    running = config(realtime_config={"enabled": True})
    turn = plan(running, config(realtime_config={"enabled": True}, turn_config={"turn_detection": "vad"}))
    assert turn.handoff
    assert turn.rebuild == {Part.REALTIME}
    shown = config(realtime_config={"enabled": True}, frontend_config={"fields": ["reply"]})
    assert not plan(running, shown).handoff


def test_equal_configs() -> None:
    """Between equal configs there is nothing to do."""
    assert plan(config(), config()).nothing_to_do


def test_from_nothing() -> None:
    """The first config builds everything."""
    assert plan(None, config()).rebuild == EVERYTHING
