"""The offline models, from outside."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit.agents import llm

from agent_node.providers import build_llm, build_tts, new_context, set_speech_instructions
from agent_node.providers.offline.pattern import matching_text
from voxplane.v1.agent_config_pb2 import LlmConfig, TtsConfig

CONTEXT = new_context()


async def reply(
    config: LlmConfig,
    words: str = "hello",
    schema: dict[str, Any] | None = None,
    told: str = "Be kind to Ann.",
) -> list[str]:
    """The chunks of one reply."""
    ctx = llm.ChatContext.empty()
    ctx.add_message(role="system", content="Be kind to Ann.")
    ctx.add_message(role="user", content=words)
    extra = {"response_format": {"type": "json_schema", "json_schema": {"name": "r", "schema": schema}}}
    stream = build_llm(config, CONTEXT).chat(chat_ctx=ctx, extra_kwargs=extra if schema else {})
    async with stream:
        return [chunk.delta.content or "" async for chunk in stream if chunk.delta]


def offline(**fields: Any) -> LlmConfig:
    """An offline model."""
    return LlmConfig(provider="offline", **fields)


def strict(properties: dict[str, Any]) -> dict[str, Any]:
    """A strict object schema."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


async def test_a_plain_reply_shows_what_is_in_force() -> None:
    """The reply calls itself offline and shows model, temperature, instructions and the user's words."""
    chunks = await reply(offline(temperature=0.7), "good morning")
    text = "".join(chunks)
    assert text.startswith("[offline] echo-1")
    assert "temperature 0.7" in text
    assert "Be kind to Ann." in text
    assert "good morning" in text
    assert len(chunks) > 10


async def test_a_structured_reply_shows_it_in_the_spoken_field() -> None:
    """The spoken field holds the text, the field for delivery an instruction, the enum advances."""
    schema = strict(
        {
            "voice_instructions": {"type": "string"},
            "system_response": {"type": "string"},
            "interview_stage": {"type": "string", "enum": ["opening", "closing"]},
            "credibility_score": {"type": ["integer", "null"], "minimum": 0, "maximum": 100},
        }
    )
    fields = json.loads("".join(await reply(offline(model="echo-2"), schema=schema)))
    assert list(fields) == list(schema["properties"])
    assert fields["system_response"].startswith("[offline] echo-2")
    assert "Speak" in fields["voice_instructions"]
    assert fields["interview_stage"] == "opening"
    jsonschema.validate(fields, schema)


async def test_equal_situations_give_equal_replies() -> None:
    """The reply is a function of what it shows."""
    schema = strict({"text": {"type": "string"}, "score": {"type": "number"}, "ok": {"type": "boolean"}})
    assert await reply(offline(), "a", schema) == await reply(offline(), "a", schema)
    assert await reply(offline(), "a", schema) != await reply(offline(), "b", schema)


async def test_a_reply_is_cut_at_the_most_tokens() -> None:
    """max_output_tokens ends a reply in the middle, as it does a real model's."""
    assert len(await reply(offline(max_output_tokens=3))) == 3


async def test_a_slow_model_waits_before_each_chunk() -> None:
    """A test can hold a reply in flight by the context's pause."""
    allowed = asyncio.Semaphore(0)

    async def pause() -> None:
        await allowed.acquire()

    context = new_context(offline_pause=pause)
    ctx = llm.ChatContext.empty()
    stream = build_llm(offline(model="echo-slow"), context).chat(chat_ctx=ctx)
    allowed.release()
    first = await anext(stream)
    assert first.delta is not None
    assert first.delta.content == "[offli"
    second = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    assert not second.done()
    for _ in range(1000):
        allowed.release()
    await second
    await stream.aclose()


async def test_each_offline_voice_has_its_own_tone() -> None:
    """The offline voice hums in the voice's pitch, and takes instructions."""
    low, high = (build_tts(TtsConfig(provider="offline", voice=v), CONTEXT) for v in ("low", "high"))
    assert set_speech_instructions(low, "softly")
    one, two = [await model.synthesize("hello there").collect() for model in (low, high)]
    assert one.duration == two.duration == pytest.approx(0.66, abs=0.02)
    assert bytes(one.data) != bytes(two.data)


ENDLESS = [
    r"(foo|bar)+\b x?",
    r"^\+?[0-9 ]{6,}$",
    r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$",
    r"[^a-c]\w.\s*?(?P<n>a)(?P=n)",
    r"^(a|b)(?i:cd)*$",
    r"[^\W\d]$",
    r"^\S+( \S+)*$",
    r"^[A-Z]{2,4}-\d+$",
    r"\d{3}",
    r"",
]
BOUNDED = [r"^(yes|no)$", r"^\d{4}-\d{2}-\d{2}$", r"^a{1,5}b{1,3}$"]


@given(st.sampled_from(ENDLESS), st.integers(0, 200))
def test_a_text_for_a_pattern_is_long_enough(pattern: str, shortest: int) -> None:
    """The pattern occurs in the text, which is as long as it has to be and hardly longer."""
    text = matching_text(pattern, shortest, shortest + 10)
    assert re.search(pattern, text)
    assert shortest <= len(text) <= shortest + 10


@given(st.sampled_from(BOUNDED), st.integers(0, 200))
def test_a_text_for_a_bounded_pattern_still_matches(pattern: str, shortest: int) -> None:
    """Where no text is long enough, the pattern comes first."""
    assert re.search(pattern, matching_text(pattern, shortest))
