"""The real plugins, built from config blocks, against servers that speak the vendors' protocols."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from livekit import rtc
from livekit.agents import APIConnectionError, APIError, llm, stt

from agent_node.providers import (
    BuildContext,
    SecretResolver,
    build_llm,
    build_stt,
    build_tts,
    new_context,
    set_speech_instructions,
)
from tests.vendors import Fault, Vendors
from tests.vendors.sound import tone
from voxplane.v1.agent_config_pb2 import LlmConfig, SttConfig, TtsConfig

CHAT, SPEECH, LISTEN, SPEAK = "/v1/chat/completions", "/v1/audio/speech", "/v1/listen", "/v1/speak"
SCHEMA = {
    "type": "object",
    "properties": {"voice_instructions": {"type": "string"}, "system_response": {"type": "string"}},
    "required": ["voice_instructions", "system_response"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": SCHEMA}}


@pytest.fixture
async def vendors() -> AsyncIterator[Vendors]:
    """Both vendors, on a free port."""
    async with Vendors() as servers:
        yield servers


@pytest.fixture
async def context() -> AsyncIterator[BuildContext]:
    """A context with a key for each vendor."""
    keys = {"OPENAI_API_KEY": "o" * 20, "DEEPGRAM_API_KEY": "d" * 20}
    built = new_context(SecretResolver(environ=keys))
    yield built
    await built.aclose()


def chat(words: str, instructions: str = "Be brief.") -> llm.ChatContext:
    """A chat of one turn."""
    ctx = llm.ChatContext.empty()
    ctx.add_message(role="system", content=instructions)
    ctx.add_message(role="user", content=words)
    return ctx


async def text_of(stream: llm.LLMStream) -> str:
    """The whole reply."""
    async with stream:
        return "".join([chunk.delta.content or "" async for chunk in stream if chunk.delta])


def speech(seconds: float, sample_rate: int = 16_000) -> rtc.AudioFrame:
    """A tone, then half a second of silence."""
    pcm = tone("caller", "word " * int(seconds * 10), sample_rate) + b"\0\0" * (sample_rate // 2)
    return rtc.AudioFrame(pcm, sample_rate, 1, len(pcm) // 2)


async def test_openai_llm_sends_what_the_config_says(vendors: Vendors, context: BuildContext) -> None:
    """Model, temperature, token limit and the raw schema reach OpenAI, and the reply obeys the schema."""
    config = LlmConfig(
        provider="openai",
        model="gpt-9",
        temperature=0.25,
        max_output_tokens=300,
        base_url=vendors.openai_url,
    )
    model = build_llm(config, context)
    reply = await text_of(
        model.chat(chat_ctx=chat("hello", "Ask for a name."), extra_kwargs={"response_format": FORMAT})
    )
    await model.aclose()

    [request] = vendors.recorder.of(CHAT)
    assert request.body["model"] == "gpt-9"
    assert request.body["temperature"] == 0.25
    assert request.body["max_completion_tokens"] == 300
    assert request.body["response_format"] == FORMAT
    assert list(json.loads(reply)) == ["voice_instructions", "system_response"]
    assert "Ask for a name." in reply
    assert "hello" in reply


async def test_openai_llm_retries_as_often_as_the_config_says(
    vendors: Vendors, context: BuildContext
) -> None:
    """A failed request is repeated max_retries times, and the last failure is raised."""
    config = LlmConfig(provider="openai", base_url=vendors.openai_url, max_retries=1)
    model = build_llm(config, context)
    vendors.recorder.break_next(CHAT, Fault.ERROR)
    assert "hello" in await text_of(model.chat(chat_ctx=chat("hello")))
    vendors.recorder.break_next(CHAT, Fault.ERROR, times=2)
    with pytest.raises(APIConnectionError):
        await text_of(model.chat(chat_ctx=chat("again")))
    assert len(vendors.recorder.of(CHAT)) == 4
    await model.aclose()


async def test_openai_llm_gives_up_after_the_timeout(vendors: Vendors, context: BuildContext) -> None:
    """A server that never answers costs no more than llm_config.timeout."""
    config = LlmConfig(provider="openai", base_url=vendors.openai_url, max_retries=0)
    config.timeout.FromMilliseconds(100)
    model = build_llm(config, context)
    vendors.recorder.break_next(CHAT, Fault.HANG)
    with pytest.raises(APIError):
        await asyncio.wait_for(text_of(model.chat(chat_ctx=chat("hello"))), 5)
    await model.aclose()


async def test_openai_llm_reports_a_reply_that_breaks_off(vendors: Vendors, context: BuildContext) -> None:
    """Half a reply is an error, and is not asked for again after its first words."""
    config = LlmConfig(provider="openai", base_url=vendors.openai_url, max_retries=2)
    model = build_llm(config, context)
    vendors.recorder.break_next(CHAT, Fault.HALF)
    with pytest.raises(APIError):
        await text_of(model.chat(chat_ctx=chat("hello")))
    assert len(vendors.recorder.of(CHAT)) == 1
    await model.aclose()


async def test_openai_tts_speaks_as_it_is_told(vendors: Vendors, context: BuildContext) -> None:
    """Voice, model, speed and the instructions of the reply reach OpenAI."""
    config = TtsConfig(
        provider="openai",
        model="tts-9",
        voice="coral",
        speed=1.5,
        instructions="Warmly.",
        base_url=vendors.openai_url,
    )
    model = build_tts(config, context)
    assert set_speech_instructions(model, "Whisper.")
    frame = await model.synthesize("one two three").collect()
    set_speech_instructions(model, "")
    await model.synthesize("four").collect()
    await model.aclose()

    first, second = (request.body for request in vendors.recorder.of(SPEECH))
    assert (first["model"], first["voice"], first["speed"]) == ("tts-9", "coral", 1.5)
    assert (first["instructions"], second["instructions"]) == ("Whisper.", "Warmly.")
    assert frame.duration == pytest.approx(0.3, abs=0.05)


async def test_deepgram_stt_hears_pushed_audio(vendors: Vendors, context: BuildContext) -> None:
    """Audio pushed into the stream comes back as a final transcript in the config's language."""
    config = SttConfig(provider="deepgram", model="nova-9", language="de", base_url=vendors.url)
    model = build_stt(config, context)
    vendors.transcripts.append("guten tag")
    stream = model.stream()
    stream.push_frame(speech(0.5))
    async for event in stream:
        if event.type is stt.SpeechEventType.FINAL_TRANSCRIPT:
            assert event.alternatives[0].text == "guten tag"
            break
    await stream.aclose()
    await model.aclose()

    [request] = vendors.recorder.of(LISTEN)
    assert (request.query["model"], request.query["language"]) == ("nova-9", "de")


async def test_deepgram_tts_speaks_with_the_voice_of_the_config(
    vendors: Vendors, context: BuildContext
) -> None:
    """A short voice name is completed by the model's, and the audio comes back."""
    config = TtsConfig(provider="deepgram", model="aura-2", voice="thalia", base_url=vendors.url)
    model = build_tts(config, context)
    stream = model.stream()
    stream.push_text("hello you")
    stream.end_input()
    frames = [event.frame async for event in stream]
    await stream.aclose()
    await model.aclose()

    [request] = vendors.recorder.of(SPEAK)
    assert request.query["model"] == "aura-2-thalia-en"
    assert request.body["text"].split() == ["hello", "you"]
    assert sum(frame.duration for frame in frames) == pytest.approx(0.2, abs=0.05)
    assert not set_speech_instructions(model, "Whisper.")


async def test_models_of_one_key_share_a_client(vendors: Vendors, context: BuildContext) -> None:
    """LLMs and TTSs of one address and key share connections; the last to close ends them."""
    one = build_llm(LlmConfig(provider="openai", base_url=vendors.openai_url), context)
    two = build_tts(TtsConfig(provider="openai", base_url=vendors.openai_url), context)
    other = build_llm(LlmConfig(provider="openai"), context)
    assert len(context.clients) == 2
    await one.aclose()
    await one.aclose()
    await other.aclose()
    assert len(context.clients) == 1
    await two.synthesize("still open").collect()
    await two.aclose()
    assert len(context.clients) == 0
