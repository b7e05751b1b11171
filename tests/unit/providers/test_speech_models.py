"""Silero and OpenAI's realtime model: speech without a text between."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from livekit.agents import llm, vad

from agent_node.providers import BuildContext, build_realtime, build_vad, warm_providers, warm_vad
from tests.livekit.speech import SAMPLE_RATE, recorded
from tests.unit.providers.asking import STEP_SECONDS_MAX, frames, frames_of
from tests.unit.providers.conftest import KEYS
from tests.vendors import Text, Vendors
from voxplane.v1.agent_config_pb2 import RealtimeConfig, VadConfig

REALTIME = "/v1/realtime"


async def utterances(model: vad.VAD, pcm: bytes) -> list[float]:
    """The seconds of each utterance that the VAD finds."""
    stream = model.stream()
    for frame in frames_of(pcm, SAMPLE_RATE):
        stream.push_frame(frame)
    stream.end_input()
    found = [event async for event in stream if event.type is vad.VADEventType.END_OF_SPEECH]
    await stream.aclose()
    return [sum(frame.duration for frame in event.frames) for event in found]


async def test_silero_finds_speech(context: BuildContext) -> None:
    """Real speech is one utterance between two silences; silence alone is none."""
    model = build_vad(VadConfig(), context)
    silence = b"\0\0" * SAMPLE_RATE
    [seconds] = await utterances(model, silence + recorded() + silence)
    assert seconds == pytest.approx(len(recorded()) / 2 / SAMPLE_RATE + 0.8, abs=0.6)
    assert await utterances(model, silence * 2) == []


async def test_silero_takes_its_settings_from_the_config(context: BuildContext) -> None:
    """Thresholds and durations are each config's own, though all share one copy of the model."""
    strict = VadConfig(activation_threshold=0.999)
    strict.min_speech_duration.FromSeconds(5)
    strict.options.update({"sample_rate": 8000, "prefix_padding_duration": 0.1})
    refuses, finds = build_vad(strict, context), build_vad(VadConfig(provider="silero"), context)
    silence = b"\0\0" * SAMPLE_RATE
    assert await utterances(refuses, recorded() + silence) == []
    assert len(await utterances(finds, recorded() + silence)) == 1


async def test_a_warm_process_builds_without_a_wait(context: BuildContext) -> None:
    """A swap of what finds speech costs the loop next to nothing."""
    warm_providers()
    warm_vad()
    began = time.perf_counter()
    for _ in range(100):
        build_vad(VadConfig(activation_threshold=0.6), context)
        await build_realtime(RealtimeConfig(provider="openai"), context).aclose()
    assert (time.perf_counter() - began) / 100 < 0.01


class Talk:
    """A conversation with a realtime model."""

    def __init__(self, model: llm.RealtimeModel) -> None:
        self.session: Any = model.session()
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        self.generations: asyncio.Queue[llm.GenerationCreatedEvent] = asyncio.Queue()
        self.session.on("input_audio_transcription_completed", self._on_transcript)
        self.session.on("generation_created", self.generations.put_nowait)

    def _on_transcript(self, event: llm.InputTranscriptionCompleted) -> None:
        if event.is_final:
            self.heard.put_nowait(event.transcript)

    async def reply(self) -> tuple[str, float]:
        """The next reply: its text, and its seconds of audio."""
        async with asyncio.timeout(STEP_SECONDS_MAX):
            generation = await self.generations.get()
            text, seconds = "", 0.0
            async for message in generation.message_stream:
                text += "".join([str(part) async for part in message.text_stream])
                seconds += sum([frame.duration async for frame in message.audio_stream])
            return text, seconds


async def test_a_realtime_model_holds_a_turn_as_the_config_says(
    vendors: Vendors, context: BuildContext
) -> None:
    """Model, voice, key and options reach OpenAI; speech is heard and answered in speech."""
    config = RealtimeConfig(
        enabled=True,
        provider="openai",
        model="gpt-live",
        voice="coral",
        base_url=vendors.openai_url,
        api_key="env:SECOND_API_KEY",
    )
    config.options.update(
        {
            "speed": 1.25,
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 300},
            "input_audio_transcription": {"model": "gpt-4o-transcribe"},
        }
    )
    model = build_realtime(config, context)
    talk = Talk(model)
    vendors.transcripts.append("how are you")
    await talk.session.update_instructions("Be kind.")
    for frame in frames(0.5):
        talk.session.push_audio(frame)
    assert await asyncio.wait_for(talk.heard.get(), STEP_SECONDS_MAX) == "how are you"
    text, seconds = await talk.reply()
    await talk.session.aclose()
    await model.aclose()

    assert "Be kind." in text
    assert seconds == pytest.approx(len(text.split()) / 10, abs=0.15)
    [opened] = vendors.recorder.of(REALTIME)
    assert (opened.query["model"], opened.key) == ("gpt-live", KEYS["SECOND_API_KEY"])
    audio = vendors.recorder.of(f"{REALTIME}/session.update")[0].body["session"]["audio"]
    assert (audio["output"]["voice"], audio["output"]["speed"]) == ("coral", 1.25)
    assert audio["input"]["turn_detection"]["silence_duration_ms"] == 300
    assert audio["input"]["transcription"]["model"] == "gpt-4o-transcribe"


async def test_realtime_models_share_the_jobs_session(vendors: Vendors, context: BuildContext) -> None:
    """Closing one leaves the other's connection alone."""
    config = RealtimeConfig(provider="openai", base_url=vendors.openai_url)
    one, two = build_realtime(config, context), build_realtime(config, context)
    first, other = Talk(one), Talk(two)
    await first.session.aclose()
    await one.aclose()
    vendors.replies.append(Text("Still here."))
    await other.session.generate_reply()
    assert (await other.reply())[0] == "Still here."
    await other.session.aclose()
    await two.aclose()
