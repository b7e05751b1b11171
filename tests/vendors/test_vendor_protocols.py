"""The vendors' protocols, by livekit's own plugins: what the other tests stand on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from livekit import rtc
from livekit.agents import APIConnectOptions, llm, stt
from livekit.plugins import deepgram, openai
from livekit.plugins.openai.realtime import RealtimeModel

from tests.vendors import Fault, Fields, Text, ToolCall, Vendors, VendorsClient
from tests.vendors.sound import pitch, tone

KEY = "k" * 20
STEP_SECONDS_MAX = 10
RATE = 24_000
ONCE = APIConnectOptions(max_retry=0, timeout=5)


@pytest.fixture
async def vendors(tmp_path: Path) -> AsyncIterator[Vendors]:
    """The vendors, with a control socket."""
    async with Vendors(socket=tmp_path / "v.sock") as servers:
        yield servers


@pytest.fixture
async def client(vendors: Vendors, tmp_path: Path) -> AsyncIterator[VendorsClient]:
    """Another process's view of them."""
    async with VendorsClient(tmp_path / "v.sock") as made:
        yield made


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A shared HTTP session."""
    async with aiohttp.ClientSession() as session:
        yield session


def frames(seconds: float, rate: int = RATE) -> list[rtc.AudioFrame]:
    """A tone and then a second of silence, in frames of 50 ms."""
    pcm = tone("caller", "word " * int(seconds * 10), rate) + b"\0\0" * rate
    step = rate // 10
    return [rtc.AudioFrame(pcm[i : i + step], rate, 1, step // 2) for i in range(0, len(pcm), step)]


async def ask(vendors: Vendors, key: str = KEY, **options: Any) -> tuple[str, list[llm.FunctionToolCall]]:
    """One turn with OpenAI's LLM: its text and its calls of tools."""
    model = openai.LLM(model="gpt-one", base_url=vendors.openai_url, api_key=key, max_retries=0)
    ctx = llm.ChatContext.empty()
    ctx.add_message(role="user", content="hello")
    text, calls = "", list[llm.FunctionToolCall]()
    async with model.chat(chat_ctx=ctx, conn_options=ONCE, **options) as stream:
        async for chunk in stream:
            if chunk.delta is not None:
                text += chunk.delta.content or ""
                calls += chunk.delta.tool_calls
    await model.aclose()
    return text, calls


SCHEMA = {
    "type": "object",
    "properties": {"mood": {"type": "string"}, "score": {"type": "integer"}},
    "required": ["mood", "score"],
    "additionalProperties": False,
}
FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA}}}


async def test_replies_are_planned_or_derived(vendors: Vendors) -> None:
    """A reply is the plan's: word for word, or its fields over those of the schema, or a
    tool's call; without a plan it obeys the schema."""
    vendors.replies.append(Text('{"broken": '))
    vendors.replies.append(Fields({"score": 3}))
    vendors.replies.append(ToolCall("look_up", {"city": "Bern"}))
    assert (await ask(vendors))[0] == '{"broken": '
    planned, _ = await ask(vendors, extra_kwargs=FORMAT)
    _, calls = await ask(vendors)
    derived, _ = await ask(vendors, extra_kwargs=FORMAT)

    assert json.loads(planned)["score"] == 3
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("look_up", {"city": "Bern"})]
    assert list(json.loads(derived)) == ["mood", "score"]
    assert isinstance(json.loads(derived)["score"], int)


async def test_plans_and_faults_of_one_key_leave_the_others_alone(vendors: Vendors) -> None:
    """Replies and faults for an API key wait for requests with that key."""
    vendors.replies.append(Text("for the other"), key="other")
    vendors.recorder.break_next("/v1/chat/completions", Fault.ERROR, key="third")
    assert "You said" in (await ask(vendors))[0]
    assert (await ask(vendors, key="other"))[0] == "for the other"
    with pytest.raises(Exception, match="told to fail"):
        await ask(vendors, key="third")
    assert [request.key for request in vendors.recorder.requests] == [KEY, "other", "third"]


async def test_another_process_tells_and_asks_over_the_control_socket(
    vendors: Vendors, client: VendorsClient
) -> None:
    """Replies, transcripts, faults and pace go in, requests come out, and a reset clears all."""
    await client.answer(Text("planned"))
    await client.hear("first", key="k")
    await client.break_next("/v1/chat/completions", Fault.HANG, times=2, key="other")
    await client.pace(first=0.01, chunk=0.001)
    assert (await ask(vendors))[0] == "planned"
    (request,) = await client.wait("/v1/chat/completions")
    assert (request.key, request.body["model"]) == (KEY, "gpt-one")
    assert vendors.transcripts.look("k") == "first"
    assert vendors.pace.first == 0.01
    assert (await client.traces_url()).startswith("http://127.0.0.1:")
    assert await client.spans() == []

    await client.reset()
    assert await client.requests() == []
    assert vendors.transcripts.look("k") is None
    assert vendors.recorder.take_fault("/v1/chat/completions", "other") is None
    with pytest.raises(TimeoutError):
        await client.wait("/v1/chat/completions", seconds=0.01)


@pytest.mark.parametrize("model", ["gpt-4o-mini-tts", "tts-1"])
async def test_speech_is_the_tone_of_its_voice(vendors: Vendors, model: str) -> None:
    """As a file or as events, the audio is the voice's tone, a tenth of a second a word."""
    speaker = openai.TTS(
        model=model,
        voice="ash",
        instructions="Whisper.",
        response_format="wav",
        base_url=vendors.openai_url,
        api_key=KEY,
    )
    async with speaker.synthesize("one two three four five") as stream:
        frame = await stream.collect()
    await speaker.aclose()
    assert frame.duration == pytest.approx(0.5, abs=0.02)
    crossings = sum(a < 0 <= b for a, b in zip(frame.data, frame.data[1:], strict=False))
    assert crossings / frame.duration == pytest.approx(pitch("ash"), rel=0.03)
    assert vendors.recorder.of("/v1/audio/speech")[0].body["instructions"] == "Whisper."


async def _finals(stream: stt.RecognizeStream) -> tuple[list[str], str]:
    """The interim transcripts, and the final one."""
    interims = list[str]()
    async with asyncio.timeout(STEP_SECONDS_MAX):
        async for event in stream:
            if event.type is stt.SpeechEventType.INTERIM_TRANSCRIPT:
                interims.append(event.alternatives[0].text)
            if event.type is stt.SpeechEventType.FINAL_TRANSCRIPT:
                return interims, event.alternatives[0].text
    raise AssertionError("there was no final transcript")


async def test_deepgram_hears_words_as_they_are_spoken(vendors: Vendors, http: aiohttp.ClientSession) -> None:
    """Interim transcripts grow while speech goes on; the final one comes with its end."""
    vendors.transcripts.append("one two three four five six")
    ears = deepgram.STT(base_url=f"{vendors.url}/v1/listen", api_key=KEY, http_session=http)
    stream = ears.stream()
    for frame in frames(1.0, 16_000):
        stream.push_frame(frame)
    interims, final = await _finals(stream)
    await stream.aclose()
    assert interims[:2] == ["one two", "one two three four"]
    assert final == "one two three four five six"
    assert vendors.recorder.of("/v1/listen")[0].key == KEY


async def test_openai_transcribes_a_file(vendors: Vendors) -> None:
    """A transcription of a recorded utterance is the plan's next transcript."""
    vendors.transcripts.append("good morning")
    ears = openai.STT(base_url=vendors.openai_url, api_key=KEY, language="de")
    event = await ears.recognize(frames(0.5))
    assert event.alternatives[0].text == "good morning"
    (request,) = vendors.recorder.of("/v1/audio/transcriptions")
    assert (request.body["language"], request.body["seconds"]) == ("de", 1.5)


async def test_openai_transcribes_a_stream(vendors: Vendors, http: aiohttp.ClientSession) -> None:
    """Over the realtime socket an utterance is heard when its speech ends."""
    vendors.transcripts.append("good evening")
    ears = openai.STT(base_url=vendors.openai_url, api_key=KEY, use_realtime=True)
    ears._session = http  # pyright: ignore[reportPrivateUsage]
    stream = ears.stream()
    for frame in frames(0.5):
        stream.push_frame(frame)
    _, final = await _finals(stream)
    await stream.aclose()
    await ears.aclose()
    assert final == "good evening"


class Talk:
    """A realtime session, and what it tells."""

    def __init__(self, model: RealtimeModel) -> None:
        self.session = model.session()
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        self.generations: asyncio.Queue[llm.GenerationCreatedEvent] = asyncio.Queue()
        self.session.on("input_audio_transcription_completed", self._on_transcript)  # pyright: ignore[reportUnknownMemberType]
        self.session.on("generation_created", self.generations.put_nowait)  # pyright: ignore[reportUnknownMemberType]

    def _on_transcript(self, event: llm.InputTranscriptionCompleted) -> None:
        if event.is_final:
            self.heard.put_nowait(event.transcript)

    async def reply(self) -> tuple[str, float, list[llm.FunctionCall]]:
        """The next reply: its text, its seconds of audio, its calls of tools."""
        async with asyncio.timeout(STEP_SECONDS_MAX):
            generation = await self.generations.get()
            text, seconds = "", 0.0
            async for message in generation.message_stream:
                text += "".join([str(part) async for part in message.text_stream])
                seconds += sum([frame.duration async for frame in message.audio_stream])
            return text, seconds, [call async for call in generation.function_stream]


@pytest.fixture
async def talk(vendors: Vendors, http: aiohttp.ClientSession) -> AsyncIterator[Talk]:
    """A realtime conversation."""
    model = RealtimeModel(
        model="gpt-realtime", voice="marin", base_url=vendors.openai_url, api_key=KEY, http_session=http
    )
    made = Talk(model)
    yield made
    await made.session.aclose()
    await model.aclose()


async def test_a_realtime_model_holds_a_turn(vendors: Vendors, talk: Talk) -> None:
    """Speech is heard, transcribed and answered in speech by the session's instructions and voice."""
    vendors.transcripts.append("how are you")
    await talk.session.update_instructions("Be kind.")
    for frame in frames(0.5):
        talk.session.push_audio(frame)
    assert await asyncio.wait_for(talk.heard.get(), STEP_SECONDS_MAX) == "how are you"
    text, seconds, _ = await talk.reply()
    assert "Be kind." in text
    assert "how are you" in text
    assert seconds == pytest.approx(len(text.split()) / 10, abs=0.15)
    updates = [each.body["session"] for each in vendors.recorder.of("/v1/realtime/session.update")]
    assert updates[0]["audio"]["output"]["voice"] == "marin"


async def test_a_realtime_model_calls_a_tool(vendors: Vendors, talk: Talk) -> None:
    """A planned call of a tool comes with its arguments; its result goes back, and a reply follows."""
    vendors.replies.append(ToolCall("look_up", {"city": "Bern"}))
    await talk.session.generate_reply(instructions="Begin.")
    _, _, calls = await talk.reply()
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("look_up", {"city": "Bern"})]

    ctx = talk.session.chat_ctx.copy()
    ctx.items.append(llm.FunctionCallOutput(call_id=calls[0].call_id, output="12°", is_error=False))
    await talk.session.update_chat_ctx(ctx)
    vendors.replies.append(Text("It is 12 degrees."))
    await talk.session.generate_reply()
    assert (await talk.reply())[0] == "It is 12 degrees."
    (created,) = vendors.recorder.of("/v1/realtime/conversation.item.create")
    assert created.body["item"]["output"] == "12°"
