"""Timeouts and retries of a block, whatever the session gives with a request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from livekit import rtc
from livekit.agents import APIConnectionError, APIConnectOptions, APIError, APITimeoutError, stt

from agent_node.providers import BuildContext, build_llm, build_stt, build_tts
from agent_node.providers.models import LLM, STT, TTS
from tests.unit.providers.asking import frames, heard, reply, spoken
from tests.vendors import Fault, Vendors
from voxplane.v1.agent_config_pb2 import LlmConfig, SttConfig, TtsConfig

CHAT, SPEECH, TRANSCRIPTS = "/v1/chat/completions", "/v1/audio/speech", "/v1/audio/transcriptions"
LISTEN, SPEAK = "/v1/listen", "/v1/speak"
SHORT_MILLISECONDS = 300
SECONDS_MAX = 10
SESSIONS_OWN = APIConnectOptions(max_retry=3, timeout=60)


def llm(vendors: Vendors, context: BuildContext, **fields: Any) -> LLM:
    """OpenAI's LLM, with little patience."""
    config = LlmConfig(provider="openai", base_url=vendors.openai_url, **fields)
    config.timeout.FromMilliseconds(SHORT_MILLISECONDS)
    return build_llm(config, context)


def ears(vendors: Vendors, context: BuildContext, provider: str, **fields: Any) -> STT:
    """An STT with little patience."""
    base_url = vendors.openai_url if provider == "openai" else vendors.url
    config = SttConfig(provider=provider, base_url=base_url, **fields)
    config.timeout.FromMilliseconds(SHORT_MILLISECONDS)
    return build_stt(config, context)


def mouth(vendors: Vendors, context: BuildContext, provider: str, **fields: Any) -> TTS:
    """A TTS with little patience."""
    base_url = vendors.openai_url if provider == "openai" else vendors.url
    config = TtsConfig(provider=provider, base_url=base_url, **fields)
    config.timeout.FromMilliseconds(SHORT_MILLISECONDS)
    return build_tts(config, context)


@pytest.mark.parametrize("retries", [0, 2])
async def test_an_llm_that_hangs_is_asked_as_often_as_said(
    vendors: Vendors, context: BuildContext, retries: int
) -> None:
    """Each attempt lasts no longer than the timeout, and the last failure is raised."""
    model = llm(vendors, context, max_retries=retries)
    vendors.recorder.break_next(CHAT, Fault.HANG, times=10)
    async with asyncio.timeout(SECONDS_MAX):
        with pytest.raises(APIConnectionError):
            await reply(model, "hello", conn_options=SESSIONS_OWN)
    assert len(vendors.recorder.of(CHAT)) == retries + 1
    await model.aclose()


async def test_an_llm_that_stops_in_its_reply_is_not_asked_again(
    vendors: Vendors, context: BuildContext
) -> None:
    """A reply that stands still is given up within the timeout; its words are not said twice."""
    model = llm(vendors, context, max_retries=2)
    vendors.pace.chunk = SECONDS_MAX
    async with asyncio.timeout(SECONDS_MAX / 2):
        with pytest.raises(APITimeoutError):
            await reply(model, "hello", conn_options=SESSIONS_OWN)
    assert len(vendors.recorder.of(CHAT)) == 1
    await model.aclose()


async def test_a_slow_reply_is_none_that_hangs(vendors: Vendors, context: BuildContext) -> None:
    """The timeout is that of the next part: a reply may last longer as a whole."""
    model = llm(vendors, context, max_retries=0)
    vendors.pace.chunk = SHORT_MILLISECONDS / 1000 / 5
    assert "hello" in await reply(model, "hello")
    await model.aclose()


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_voice_that_hangs_is_asked_as_often_as_said(
    vendors: Vendors, context: BuildContext, retries: int
) -> None:
    """OpenAI's plugin would wait for 30 s."""
    model = mouth(vendors, context, "openai", max_retries=retries)
    vendors.recorder.break_next(SPEECH, Fault.HANG, times=10)
    async with asyncio.timeout(SECONDS_MAX):
        with pytest.raises(APITimeoutError):
            await model.synthesize("hello", conn_options=SESSIONS_OWN).collect()
    assert len(vendors.recorder.of(SPEECH)) == retries + 1
    await model.aclose()


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_streaming_voice_that_hangs_is_asked_as_often_as_said(
    vendors: Vendors, context: BuildContext, retries: int
) -> None:
    """Deepgram's voice gets the text again for each attempt."""
    model = mouth(vendors, context, "deepgram", max_retries=retries)
    vendors.recorder.break_next(SPEAK, Fault.HANG, times=10)
    async with asyncio.timeout(SECONDS_MAX):
        with pytest.raises(APIError):
            await spoken(model, "hello you", conn_options=SESSIONS_OWN)
    assert [request.body["text"].split() for request in vendors.recorder.of(SPEAK)] == [["hello", "you"]] * (
        retries + 1
    )
    await model.aclose()


async def test_a_voice_that_errs_once_is_asked_again(vendors: Vendors, context: BuildContext) -> None:
    """By default a failed synthesis is repeated."""
    model = mouth(vendors, context, "openai")
    vendors.recorder.break_next(SPEECH, Fault.ERROR)
    frame = await model.synthesize("one two three").collect()
    assert frame.duration == pytest.approx(0.3, abs=0.05)
    assert len(vendors.recorder.of(SPEECH)) == 2
    await model.aclose()


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_transcription_that_hangs_is_asked_for_as_often_as_said(
    vendors: Vendors, context: BuildContext, retries: int
) -> None:
    """Without streaming, the timeout is that of a transcript."""
    model = ears(vendors, context, "openai", max_retries=retries)
    vendors.recorder.break_next(TRANSCRIPTS, Fault.HANG, times=10)
    async with asyncio.timeout(SECONDS_MAX):
        with pytest.raises(APIConnectionError):
            await model.recognize(frames(0.3), conn_options=SESSIONS_OWN)
    assert len(vendors.recorder.of(TRANSCRIPTS)) == retries + 1
    await model.aclose()


@pytest.mark.parametrize("retries", [0, 2])
async def test_ears_that_cannot_connect_try_as_often_as_said(
    vendors: Vendors, context: BuildContext, retries: int
) -> None:
    """A refused connection is made again, and then given up."""
    model = ears(vendors, context, "deepgram", max_retries=retries)
    vendors.recorder.break_next(LISTEN, Fault.ERROR, times=10)
    async with asyncio.timeout(SECONDS_MAX):
        with pytest.raises(APIError):
            await heard(model.stream(conn_options=SESSIONS_OWN))
    assert len(vendors.recorder.of(LISTEN)) == retries + 1
    await model.aclose()


async def test_a_connection_that_hangs_costs_no_more_than_the_timeout(context: BuildContext) -> None:
    """A server that takes the connection and says nothing is given up by Deepgram's and OpenAI's ears."""
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    for provider in ("deepgram", "openai"):
        config = SttConfig(provider=provider, base_url=f"http://127.0.0.1:{port}", max_retries=0)
        config.timeout.FromMilliseconds(SHORT_MILLISECONDS)
        model = build_stt(config, context)
        async with asyncio.timeout(SECONDS_MAX / 2):
            with pytest.raises((APIError, TimeoutError)):
                await heard(model.stream(conn_options=SESSIONS_OWN))
        await model.aclose()
    silent.close()


async def test_who_repeats_a_request_itself_gets_one_attempt(vendors: Vendors, context: BuildContext) -> None:
    """LiveKit asks for none where it repeats what it does as a whole; attempts are not multiplied."""
    model = llm(vendors, context, max_retries=2)
    vendors.recorder.break_next(CHAT, Fault.ERROR)
    with pytest.raises(APIError):
        await reply(model, "hello", conn_options=APIConnectOptions(max_retry=0))
    assert len(vendors.recorder.of(CHAT)) == 1
    await model.aclose()


async def test_openai_hears_a_stream(vendors: Vendors, context: BuildContext) -> None:
    """By default OpenAI's ears stream, in the language of the config, with its terms as a hint in words."""
    config = SttConfig(
        provider="openai", base_url=vendors.openai_url, language="de-DE", keyterms=["Voxplane", "Bern"]
    )
    model = build_stt(config, context)
    assert model.capabilities.streaming
    vendors.transcripts.append("guten abend")
    assert await heard(model.stream(), frames(0.5)) == "guten abend"
    [update] = vendors.recorder.of("/v1/realtime/session.update")
    wanted = update.body["session"]["audio"]["input"]["transcription"]
    assert wanted["language"] == "de"
    assert wanted["prompt"] == "Words that may occur: Voxplane, Bern."
    await model.aclose()


async def test_openai_transcribes_files_where_it_is_told_to(vendors: Vendors, context: BuildContext) -> None:
    """For a server without the realtime protocol, with the author's own prompt before the terms."""
    config = SttConfig(provider="openai", base_url=vendors.openai_url, keyterms=["Voxplane"])
    config.options.update({"use_realtime": False, "prompt": "An interview.", "temperature": 0.5})
    model = build_stt(config, context)
    assert not model.capabilities.streaming
    vendors.transcripts.append("good morning")
    event = await model.recognize(frames(0.5))
    assert event.alternatives[0].text == "good morning"
    [request] = vendors.recorder.of(TRANSCRIPTS)
    assert request.body["prompt"] == "An interview.\nWords that may occur: Voxplane."
    assert request.body["temperature"] == "0.5"
    await model.aclose()


@pytest.mark.parametrize(("model_name", "name"), [("nova-3", "keyterm"), ("nova-2", "keywords")])
async def test_deepgram_gets_the_terms_by_the_models_own_means(
    vendors: Vendors, context: BuildContext, model_name: str, name: str
) -> None:
    """nova-3 takes keyterms; older models take keywords with a weight."""
    config = SttConfig(provider="deepgram", model=model_name, base_url=vendors.url, keyterms=["Voxplane"])
    model = build_stt(config, context)
    vendors.transcripts.append("hello")
    assert await heard(model.stream(), frames(0.5, 16_000)) == "hello"
    [request] = vendors.recorder.of(LISTEN)
    assert request.query[name].split(":")[0] == "Voxplane"
    await model.aclose()


async def test_ears_need_no_more_than_a_stream_of_frames(vendors: Vendors, context: BuildContext) -> None:
    """Any sample rate of the room is taken."""
    model = build_stt(SttConfig(provider="deepgram", base_url=vendors.url), context)
    vendors.transcripts.append("hello")
    stream = model.stream()
    pushed: list[rtc.AudioFrame] = frames(0.5, 48_000)
    assert await heard(stream, pushed) == "hello"
    assert isinstance(stream, stt.RecognizeStream)
    await model.aclose()


async def test_a_sentence_that_breaks_off_is_spoken_again_from_its_beginning(
    vendors: Vendors, context: BuildContext
) -> None:
    """OpenAI's voice speaks sentence by sentence: the caller hears some words twice, and loses none."""
    model = mouth(vendors, context, "openai", max_retries=1)
    vendors.recorder.break_next(SPEECH, Fault.HALF)
    frame = await model.synthesize("one two three four five six seven eight nine ten").collect()
    assert frame.duration > 1.0
    assert len(vendors.recorder.of(SPEECH)) == 2
    await model.aclose()


async def test_streamed_speech_that_breaks_off_is_not_begun_again(
    vendors: Vendors, context: BuildContext
) -> None:
    """Deepgram's voice speaks a whole reply: its error is told, and the half that was heard stays."""
    model = mouth(vendors, context, "deepgram", max_retries=1)
    vendors.recorder.break_next(SPEAK, Fault.HALF)
    with pytest.raises(APIError):
        await spoken(model, "one two three four five six seven eight nine ten")
    assert len(vendors.recorder.of(SPEAK)) == 1
    await model.aclose()
