"""Fallbacks: what takes over where a model fails, and what the caller notices of it."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from livekit.agents import APIConnectOptions, APIError, stt

from agent_node.providers import (
    Availability,
    BuildContext,
    build_llm,
    build_stt,
    build_tts,
    build_vad,
    on_availability,
    set_speech_instructions,
)
from agent_node.providers.fallback import FallbackLLM, FallbackSTT, FallbackTTS
from tests.livekit.speech import recorded
from tests.unit.providers.asking import chat, frames, frames_of, heard, reply, spoken
from tests.unit.providers.conftest import KEYS
from tests.vendors import Fault, Vendors
from voxplane.errors import VoxplaneError
from voxplane.v1.agent_config_pb2 import LlmConfig, SttConfig, TtsConfig, VadConfig

CHAT, SPEECH, TRANSCRIPTS = "/v1/chat/completions", "/v1/audio/speech", "/v1/audio/transcriptions"
LISTEN, SPEAK = "/v1/listen", "/v1/speak"
FIRST, SECOND = KEYS["OPENAI_API_KEY"], KEYS["SECOND_API_KEY"]
SECONDS_MAX = 10
SESSIONS_OWN = APIConnectOptions(max_retry=3, timeout=60)
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"type": "string"}},
    "required": ["mood"],
    "additionalProperties": False,
}
FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA}}}


def llms(vendors: Vendors, context: BuildContext, *fallbacks: LlmConfig, **fields: Any) -> FallbackLLM:
    """OpenAI's LLM, and others for when it fails."""
    config = LlmConfig(provider="openai", model="gpt-one", base_url=vendors.openai_url, **fields)
    config.fallbacks.extend(fallbacks)
    model = build_llm(config, context)
    assert isinstance(model, FallbackLLM)
    return model


def second(vendors: Vendors, **fields: Any) -> LlmConfig:
    """Another LLM, with a key of its own."""
    return LlmConfig(
        provider="openai",
        model="gpt-two",
        base_url=vendors.openai_url,
        api_key="env:SECOND_API_KEY",
        **fields,
    )


async def test_the_next_llm_answers_where_one_fails(vendors: Vendors, context: BuildContext) -> None:
    """One that others follow is asked once; the next has a model and a key of its own."""
    model = llms(vendors, context, second(vendors), LlmConfig(provider="offline"))
    vendors.recorder.break_next(CHAT, Fault.ERROR, times=10, key=FIRST)
    assert "gpt-two" in await reply(model, "hello", conn_options=SESSIONS_OWN)
    assert len(vendors.recorder.of(CHAT, SECOND)) == 1
    looks = len(vendors.recorder.of(CHAT, FIRST)) - 1
    assert looks <= 1, "LiveKit looks at once whether it is back"
    await model.aclose()


async def test_an_llm_that_hangs_gives_way_within_its_timeout(
    vendors: Vendors, context: BuildContext
) -> None:
    """Each model's own timeout counts, not one of the chain."""
    config = LlmConfig(provider="openai", base_url=vendors.openai_url)
    config.timeout.FromMilliseconds(200)
    config.fallbacks.add().CopyFrom(second(vendors))
    model = build_llm(config, context)
    vendors.recorder.break_next(CHAT, Fault.HANG, times=10, key=FIRST)
    async with asyncio.timeout(SECONDS_MAX / 2):
        assert "gpt-two" in await reply(model, "hello", conn_options=SESSIONS_OWN)
    await model.aclose()


async def test_retries_of_a_block_count_before_the_next_takes_over(
    vendors: Vendors, context: BuildContext
) -> None:
    """A block that says so is asked again first."""
    model = llms(vendors, context, second(vendors), max_retries=1)
    vendors.recorder.break_next(CHAT, Fault.ERROR, times=1, key=FIRST)
    assert "gpt-one" in await reply(model, "hello", conn_options=SESSIONS_OWN)
    assert [request.key for request in vendors.recorder.of(CHAT)] == [FIRST, FIRST]
    await model.aclose()


async def test_the_rest_of_a_reply_is_not_asked_of_another(vendors: Vendors, context: BuildContext) -> None:
    """What has been said cannot be taken back: the error is told, and the next turn goes to the next."""
    model = llms(vendors, context, second(vendors))
    vendors.recorder.break_next(CHAT, Fault.HALF, key=FIRST)
    with pytest.raises(APIError):
        await reply(model, "hello", conn_options=SESSIONS_OWN)
    assert [request.key for request in vendors.recorder.of(CHAT)] == [FIRST]
    assert "gpt-two" in await reply(model, "hello", conn_options=SESSIONS_OWN)
    await model.aclose()


async def test_a_chain_that_fails_is_gone_through_once(vendors: Vendors, context: BuildContext) -> None:
    """All have been asked as often as they say, and no more, whatever the session wants."""
    model = llms(vendors, context, second(vendors, max_retries=1))
    vendors.recorder.break_next(CHAT, Fault.ERROR, times=100)
    with pytest.raises(APIError):
        await reply(model, "hello", conn_options=SESSIONS_OWN)
    looks = 2  # one attempt by the block's own count, begun at once
    assert len(vendors.recorder.of(CHAT, FIRST)) in (1, 2)
    assert 2 <= len(vendors.recorder.of(CHAT, SECOND)) <= 2 + looks
    await model.aclose()


async def test_an_llm_that_is_back_answers_again(vendors: Vendors, context: BuildContext) -> None:
    """One that failed is looked after in the background, and gets its turns back; both is told."""
    model = llms(vendors, context, second(vendors))
    told: asyncio.Queue[Availability] = asyncio.Queue()
    on_availability(model, told.put_nowait)
    vendors.recorder.break_next(CHAT, Fault.ERROR, key=FIRST)
    assert "gpt-two" in await reply(model, "hello", conn_options=SESSIONS_OWN)
    failed, back = [await asyncio.wait_for(told.get(), SECONDS_MAX) for _ in range(2)]
    assert (failed.kind, failed.index, failed.model, failed.available) == ("llm", 0, "gpt-one", False)
    assert (back.index, back.available) == (0, True)
    assert "gpt-one" in await reply(model, "hello", conn_options=SESSIONS_OWN)
    await model.aclose()


async def test_a_fallback_without_structured_output_finds_the_schema_in_its_prompt(
    vendors: Vendors, context: BuildContext
) -> None:
    """The first is given the schema by its own means, the next by words after the instructions."""
    model = llms(vendors, context, second(vendors, supports_structured_output=False))
    vendors.recorder.break_next(CHAT, Fault.ERROR, key=FIRST)
    await reply(model, "hello", extra_kwargs=FORMAT)
    first, other = (vendors.recorder.of(CHAT, key)[0].body for key in (FIRST, SECOND))
    assert first["response_format"] == FORMAT["response_format"]
    assert "response_format" not in other
    assert [message["role"] for message in other["messages"]] == ["system", "system", "user"]
    assert json.dumps(SCHEMA) in other["messages"][1]["content"]
    assert [message["content"] for message in first["messages"]] == ["Be brief.", "hello"]
    await model.aclose()


async def test_closing_a_chain_closes_its_models(vendors: Vendors, context: BuildContext) -> None:
    """The clients of all of them are given back, also while one is looked after."""
    model = llms(vendors, context, second(vendors))
    assert len(context.clients) == 2
    vendors.recorder.break_next(CHAT, Fault.ERROR, key=FIRST)
    vendors.recorder.break_next(CHAT, Fault.HANG, times=10, key=FIRST)
    await reply(model, "hello")
    await model.aclose()
    assert len(context.clients) == 0


async def test_a_chain_that_cannot_be_built_leaves_nothing_open(
    vendors: Vendors, context: BuildContext
) -> None:
    """The first is closed again if a fallback is wrong, which is named by its place."""
    with pytest.raises(VoxplaneError) as caught:
        llms(vendors, context, second(vendors), LlmConfig(provider="openai", api_key="env:MISSING_API_KEY"))
    assert caught.value.violations[0].field == "llm_config.fallbacks[1].api_key"
    await asyncio.gather(*context._closing)  # pyright: ignore[reportPrivateUsage]


def voices(vendors: Vendors, context: BuildContext, *fallbacks: TtsConfig, **fields: Any) -> FallbackTTS:
    """OpenAI's voice, and others for when it fails."""
    config = TtsConfig(provider="openai", voice="ash", base_url=vendors.openai_url, **fields)
    config.fallbacks.extend(fallbacks)
    model = build_tts(config, context)
    assert isinstance(model, FallbackTTS)
    return model


def other_voice(vendors: Vendors) -> TtsConfig:
    """Another voice of OpenAI, with a key and instructions of its own."""
    return TtsConfig(
        provider="openai",
        voice="coral",
        instructions="Calmly.",
        base_url=vendors.openai_url,
        api_key="env:SECOND_API_KEY",
    )


async def test_instructions_reach_every_voice_that_takes_them(
    vendors: Vendors, context: BuildContext
) -> None:
    """The reply's instructions go to whoever speaks; empty ones mean each config's own again."""
    unreachable = TtsConfig(provider="deepgram", base_url="http://127.0.0.1:1")
    model = voices(vendors, context, unreachable, other_voice(vendors), instructions="Warmly.")
    assert set_speech_instructions(model, "Whisper.")
    vendors.recorder.break_next(SPEECH, Fault.ERROR, times=10, key=FIRST)
    await spoken(model, "hello you", conn_options=SESSIONS_OWN)
    set_speech_instructions(model, "")
    await spoken(model, "hello you", conn_options=SESSIONS_OWN)
    by_second = [request.body for request in vendors.recorder.of(SPEECH, SECOND)]
    assert [body["instructions"] for body in by_second] == ["Whisper.", "Calmly."]
    assert vendors.recorder.of(SPEECH, FIRST)[0].body["instructions"] == "Whisper."
    await model.aclose()


async def test_no_voice_of_a_chain_may_take_instructions(vendors: Vendors, context: BuildContext) -> None:
    """Then it is told so."""
    config = TtsConfig(provider="deepgram", base_url=vendors.url)
    config.fallbacks.add(provider="cartesia")
    model = build_tts(config, context)
    assert not set_speech_instructions(model, "Whisper.")
    await model.aclose()


async def test_a_voice_that_streams_takes_over_from_one_that_does_not(
    vendors: Vendors, context: BuildContext
) -> None:
    """The whole text is spoken by the next, resampled to the higher of the two rates."""
    deepgram = TtsConfig(provider="deepgram", base_url=vendors.url)
    deepgram.options.update({"sample_rate": 16000})
    model = voices(vendors, context, deepgram)
    assert (model.sample_rate, model.capabilities.streaming) == (24_000, True)
    vendors.recorder.break_next(SPEECH, Fault.ERROR, times=10)
    frames_heard = await spoken(model, "one two three four five", conn_options=SESSIONS_OWN)
    assert {frame.sample_rate for frame in frames_heard} == {24_000}
    assert sum(frame.duration for frame in frames_heard) == pytest.approx(0.5, abs=0.05)
    assert vendors.recorder.of(SPEAK)[0].body["text"].split() == ["one", "two", "three", "four", "five"]
    await model.aclose()


async def test_a_voice_that_hangs_gives_way(vendors: Vendors, context: BuildContext) -> None:
    """Within its timeout, sentence by sentence too."""
    config = TtsConfig(provider="openai", base_url=vendors.openai_url)
    config.timeout.FromMilliseconds(200)
    config.fallbacks.add().CopyFrom(other_voice(vendors))
    model = build_tts(config, context)
    assert not model.capabilities.streaming
    vendors.recorder.break_next(SPEECH, Fault.HANG, times=10, key=FIRST)
    async with asyncio.timeout(SECONDS_MAX / 2):
        frame = await model.synthesize("one two", conn_options=SESSIONS_OWN).collect()
    assert frame.duration == pytest.approx(0.2, abs=0.05)
    await model.aclose()


def ears(vendors: Vendors, context: BuildContext, *fallbacks: SttConfig, **options: Any) -> FallbackSTT:
    """Deepgram's ears, and others for when they fail."""
    config = SttConfig(provider="deepgram", base_url=vendors.url)
    config.fallbacks.extend(fallbacks)
    model = build_stt(config, context, **options)
    assert isinstance(model, FallbackSTT)
    return model


def other_ears(vendors: Vendors, **options: Any) -> SttConfig:
    """OpenAI's."""
    config = SttConfig(provider="openai", base_url=vendors.openai_url)
    config.options.update(options)
    return config


async def test_ears_that_cannot_connect_give_way_and_no_word_is_lost(
    vendors: Vendors, context: BuildContext
) -> None:
    """What was said while the first still tried is heard by the next."""
    model = ears(vendors, context, other_ears(vendors))
    vendors.recorder.break_next(LISTEN, Fault.ERROR, times=10)
    vendors.transcripts.append("good evening", key=FIRST)
    assert await heard(model.stream(conn_options=SESSIONS_OWN), frames(0.5)) == "good evening"
    await model.aclose()


async def test_ears_that_break_off_in_an_utterance_give_way_and_no_word_is_lost(
    vendors: Vendors, context: BuildContext
) -> None:
    """The utterance whose transcript never came is heard again by the next."""
    model = ears(vendors, context, other_ears(vendors))
    vendors.recorder.break_next(LISTEN, Fault.HALF, times=10)
    vendors.transcripts.append("good evening", key=FIRST)
    async with asyncio.timeout(SECONDS_MAX):
        assert await heard(model.stream(conn_options=SESSIONS_OWN), frames(0.5)) == "good evening"
    await model.aclose()


class Line:
    """A connection to the vendors that a test can cut, once and for all."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Line:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self.cut()

    def cut(self) -> None:
        """All that goes through it breaks, and nothing new comes through."""
        self._server.close()
        for end in self._ends:
            end.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_vendor, to_vendor = await asyncio.open_connection("127.0.0.1", self._port)
        self._ends += [writer, to_vendor]
        await asyncio.gather(self._pump(reader, to_vendor), self._pump(from_vendor, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


async def test_what_was_understood_is_not_heard_again(vendors: Vendors, context: BuildContext) -> None:
    """When ears break off between two utterances, only the second goes to the next."""
    finals: list[str] = []
    vendors.transcripts.append("first words", key=KEYS["DEEPGRAM_API_KEY"])
    vendors.transcripts.append("second words", key=FIRST)
    port = urlsplit(vendors.url).port or 0
    async with asyncio.timeout(SECONDS_MAX), Line(port) as line:
        config = SttConfig(provider="deepgram", base_url=line.url)
        config.fallbacks.add().CopyFrom(other_ears(vendors))
        model = build_stt(config, context)
        async with model.stream(conn_options=SESSIONS_OWN) as stream:
            for frame in frames(0.5):
                stream.push_frame(frame)
            async for event in stream:
                if event.type is stt.SpeechEventType.FINAL_TRANSCRIPT:
                    finals.append(event.alternatives[0].text)
                    if len(finals) == 2:
                        break
                    line.cut()
                    for frame in frames(0.5):
                        stream.push_frame(frame)
        await model.aclose()
    assert finals == ["first words", "second words"]


async def test_ears_without_a_stream_stand_in_by_the_vad(vendors: Vendors, context: BuildContext) -> None:
    """A model that transcribes files takes over: the VAD finds the utterance in what is said."""
    vad = build_vad(VadConfig(), context)
    model = ears(vendors, context, other_ears(vendors, use_realtime=False), vad=vad)
    assert model.capabilities.streaming
    vendors.recorder.break_next(LISTEN, Fault.ERROR, times=10)
    vendors.transcripts.append("what do you think about it", key=FIRST)
    said = frames_of(recorded() + b"\0\0" * 16_000, 16_000)
    assert await heard(model.stream(conn_options=SESSIONS_OWN), said) == "what do you think about it"
    [request] = vendors.recorder.of(TRANSCRIPTS)
    assert request.body["seconds"] > 1
    await model.aclose()


async def test_ears_that_have_all_failed_tell_the_session(vendors: Vendors, context: BuildContext) -> None:
    """After a second round the stream ends with an error."""
    model = ears(vendors, context, other_ears(vendors, use_realtime=False))
    told: list[Availability] = []
    on_availability(model, told.append)
    errors: list[stt.STTError] = []
    model.on("error", errors.append)
    vendors.recorder.break_next(LISTEN, Fault.ERROR, times=100)
    vendors.recorder.break_next(TRANSCRIPTS, Fault.ERROR, times=100)
    said = frames_of(recorded() + b"\0\0" * 16_000, 16_000)
    with pytest.raises(APIError):
        await heard(model.stream(conn_options=SESSIONS_OWN), said)
    assert [error.recoverable for error in errors] == [True, False]
    assert [(each.kind, each.index, each.available) for each in told] == [
        ("stt", 0, False),
        ("stt", 1, False),
    ]
    await model.aclose()


async def test_a_chat_context_is_left_as_it_was(vendors: Vendors, context: BuildContext) -> None:
    """The schema in the prompt is for one model's request, and no part of the history."""
    model = llms(vendors, context, second(vendors), supports_structured_output=False)
    asked = chat("hello")
    async with model.chat(chat_ctx=asked, extra_kwargs=FORMAT) as stream:
        async for _ in stream:
            pass
    assert len(asked.items) == 2
    assert len(vendors.recorder.of(CHAT)[0].body["messages"]) == 3
    await model.aclose()
