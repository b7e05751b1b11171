"""What is built of a config."""

from __future__ import annotations

from typing import Any

import pytest

from agent_node.job.pipeline import Pipeline
from agent_node.job.plan import plan
from agent_node.job.staging import Builder, check
from agent_node.job.targets import target_of
from agent_node.providers import new_context
from tests.unit.job.job_world import SPOKEN_FIELDS, caller, delivery, offline_config
from voxplane.errors import VoxplaneError
from voxplane.v1.agent_config_pb2 import AgentConfig


async def build(builder: Builder, config: AgentConfig, running: Pipeline | None = None) -> Pipeline:
    """The config's pipeline."""
    target = target_of(delivery(1, config))
    before = running.target.config if running else None
    return await builder.build(target, plan(before, config), running)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"llm_config": {"provider": "nobody"}}, "llm_config.provider", "PROVIDER_UNKNOWN"),
    ({"llm_config": None}, "llm_config.provider", "BUILD_FAILED"),
    ({"stt_config": {"provider": "nobody"}}, "stt_config.provider", "PROVIDER_UNKNOWN"),
    ({"tts_config": {"provider": "deepgram"}}, "tts_config.api_key", "SECRET_UNAVAILABLE"),
    (
        {"realtime_config": {"enabled": True, "provider": "openai"}},
        "realtime_config.api_key",
        "SECRET_UNAVAILABLE",
    ),
    ({"turn_config": {"turn_detection": "realtime_llm"}}, "turn_config.turn_detection", "BUILD_FAILED"),
    ({"turn_config": {"turn_detection": "vad"}}, "turn_config.turn_detection", "BUILD_FAILED"),
    (
        {
            "tools": [
                {
                    "name": "a",
                    "description": "A.",
                    "url": "https://a.example",
                    "secret_headers": {"X": "env:NO_TOKEN"},
                }
            ]
        },
        "tools[0].secret_headers.X",
        "SECRET_UNAVAILABLE",
    ),
    ({"prompt_config": {"instructions": "{% if %}"}}, "prompt_config.instructions", "INVALID_PROMPT"),
    (
        {"schema_config": {"fields": [{"field_name": "a", "field_type": "integer", "default": "x"}]}},
        "schema_config.fields[0].default",
        "INVALID_SCHEMA",
    ),
]


@pytest.mark.parametrize(("blocks", "path", "reason"), BAD)
def test_check_names_the_field(
    blocks: dict[str, Any], path: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be built is refused with the path of the field in AgentConfig."""
    for name in ("DEEPGRAM_API_KEY", "OPENAI_API_KEY", "NO_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(VoxplaneError) as caught:
        check(offline_config(**blocks))
    assert caught.value.reason_name == reason
    assert [violation.field for violation in caught.value.violations] == [path]


def test_check_passes_what_can_be_built() -> None:
    """A config of models that need nothing passes, without a loop or a caller."""
    check(offline_config("Hi {{ user_id }}", schema_config=SPOKEN_FIELDS, tts_config={"provider": "offline"}))


async def test_unchanged_models_are_taken_over() -> None:
    """Only what a change touches is built anew, and each model is closed once
    the last pipeline that has it is."""
    builder = Builder(caller(), new_context())
    voice = {"provider": "offline", "voice": "low"}
    first = await build(builder, offline_config("one", tts_config=voice))
    second = await build(builder, offline_config("two", tts_config=voice), first)
    assert (second.llm, second.tts) == (first.llm, first.tts)
    assert second.words.instructions == "two"
    hot = offline_config("two", tts_config=voice, llm_config={"provider": "offline", "temperature": 1})
    third = await build(builder, hot, second)
    assert third.llm is not second.llm
    assert third.tts is second.tts
    assert third.words is second.words
    assert builder.closer.open == 3
    first.close()
    second.close()
    await builder.closer.aclose()
    assert builder.closer.open == 2
    third.close()
    await builder.aclose()
    assert builder.closer.open == 0


async def test_a_build_that_fails_leaves_nothing_open() -> None:
    """The models that were built before the one that failed are closed; those of
    the running pipeline are not."""
    builder = Builder(caller(), new_context())
    running = await build(builder, offline_config("one"))
    bad = offline_config(
        "two", llm_config={"provider": "offline", "temperature": 1}, tts_config={"provider": "nobody"}
    )
    with pytest.raises(VoxplaneError):
        await build(builder, bad, running)
    await builder.closer.aclose()
    assert builder.closer.open == 1
    running.close()
    await builder.aclose()


async def test_the_instruction_field_comes_first() -> None:
    """The model writes the speaking instructions before what they are for."""
    schema = {"fields": [*SPOKEN_FIELDS["fields"], {"field_name": "tone", "field_type": "string"}]}
    builder = Builder(caller(), new_context())
    tts = {"provider": "offline", "instruction_field": "tone"}
    pipeline = await build(builder, offline_config(schema_config=schema, tts_config=tts))
    assert pipeline.words.schema is not None
    assert next(iter(pipeline.words.schema.json_schema["properties"])) == "tone"
    pipeline.close()
    await builder.aclose()
