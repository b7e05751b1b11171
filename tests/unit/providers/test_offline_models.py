"""The offline models, from outside."""

from __future__ import annotations

import asyncio
import json
import re
from math import ceil, floor
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit.agents import llm

from agent_node.providers import build_llm, build_tts, new_context, set_speech_instructions
from agent_node.providers.offline.pattern import matching_text
from agent_node.providers.offline.reply import Situation, structured_reply
from voxplane.schema import compile_schema
from voxplane.v1 import schema_pb2
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


async def test_a_question_is_no_second_speech() -> None:
    """A field for a question asks about the user's words, beside the spoken field."""
    schema = strict({"answer": {"type": "string"}, "follow_up_question": {"type": "string"}})
    found = json.loads("".join(await reply(offline(), "I build bridges", schema)))
    assert found["answer"].startswith("[offline]")
    assert found["follow_up_question"] == "What more can you tell me about “I build bridges”?"


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


TEXTS = st.text(max_size=30)
FIELD_NAMES = st.one_of(
    st.sampled_from(["system_response", "voice_instructions", "notes", "tone", "model_dump"]),
    st.from_regex(r"[a-z][a-z0-9_]{0,12}x", fullmatch=True),
)
SCALARS = st.sampled_from(["string", "integer", "number", "boolean"])
BOUNDS = st.one_of(
    st.integers(-1000, 1000).map(float), st.floats(-1e9, 1e9), st.sampled_from([-1e300, 1e300])
)


@st.composite
def constraints(draw: st.DrawFn, kind: str) -> schema_pb2.FieldConstraints:
    """Limits that a value of the kind can satisfy."""
    limits = schema_pb2.FieldConstraints()
    match kind:
        case "enum":
            limits.enum_values.extend(
                draw(st.lists(st.text(min_size=1, max_size=9), min_size=1, unique=True))
            )
        case "integer" | "number" if draw(st.booleans()):
            low, high = sorted((draw(BOUNDS), draw(BOUNDS)))
            if kind == "integer":
                low, high = float(floor(low)), float(ceil(high))
            if draw(st.booleans()):
                limits.minimum = low
            if draw(st.booleans()):
                limits.maximum = high
        case "string" if draw(st.booleans()):
            least, most = sorted((draw(st.integers(0, 300)), draw(st.integers(0, 300))))
            limits.min_length = least
            if draw(st.booleans()):
                limits.max_length = most
        case "string" if draw(st.booleans()):
            limits.pattern = draw(st.sampled_from([*ENDLESS[1:3], *ENDLESS[5:], *BOUNDED]))
        case "array" if draw(st.booleans()):
            fewest, most = sorted((draw(st.integers(0, 5)), draw(st.integers(0, 5))))
            limits.min_items, limits.max_items = fewest, most
        case _:
            pass
    return limits


@st.composite
def schemas(draw: st.DrawFn) -> schema_pb2.SchemaConfig:
    """Any schema that can be satisfied."""
    schema = schema_pb2.SchemaConfig()
    for name in draw(st.lists(FIELD_NAMES, min_size=1, max_size=6, unique=True)):
        kind = draw(st.sampled_from(["string", "integer", "number", "boolean", "enum", "array", "object"]))
        field = schema.fields.add(field_name=name, field_type=kind, required=draw(st.booleans()))
        field.constraints.CopyFrom(draw(constraints(kind)))
        if kind == "array":
            field.item_type = draw(SCALARS)
        if kind == "object":
            for inner in draw(st.lists(FIELD_NAMES, min_size=1, max_size=3, unique=True)):
                field.properties.add(property_name=inner, property_type=draw(SCALARS))
    return schema


@given(schemas(), TEXTS, TEXTS, st.integers(0, 9))
def test_a_structured_reply_obeys_any_schema(
    schema: schema_pb2.SchemaConfig, instructions: str, user: str, turn: int
) -> None:
    """Whatever the schema, the reply is what its model accepts, in the schema's order."""
    compiled = compile_schema(schema)
    situation = Situation("echo-1", None, instructions, user, turn)
    fields = json.loads(structured_reply(compiled.json_schema, situation))
    compiled.validate(fields)
    assert list(fields) == [field.field_name for field in compiled.fields]
    assert structured_reply(compiled.json_schema, situation) == json.dumps(fields, ensure_ascii=False)


def test_a_length_leaves_a_field_free_text() -> None:
    """A spoken field with a longest length holds the reply, cut to it."""
    schema = schema_pb2.SchemaConfig()
    schema.fields.add(field_name="reply", field_type="string", required=True).constraints.max_length = 30
    situation = Situation("echo-1", None, "", "hello", 1)
    fields = json.loads(structured_reply(compile_schema(schema).json_schema, situation))
    assert fields["reply"].startswith("[offline] echo-1")
    assert len(fields["reply"]) == 30
