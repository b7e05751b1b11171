"""Models asked in the way a session does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from livekit import rtc
from livekit.agents import llm, stt

from agent_node.providers.models import LLM, TTS
from tests.vendors.sound import tone

STEP_SECONDS_MAX = 10
RATE = 24_000


def chat(words: str, instructions: str = "Be brief.") -> llm.ChatContext:
    """A chat of one turn."""
    ctx = llm.ChatContext.empty()
    ctx.add_message(role="system", content=instructions)
    ctx.add_message(role="user", content=words)
    return ctx


async def reply(model: LLM, words: str, **request: Any) -> str:
    """The whole reply to the words."""
    async with model.chat(chat_ctx=chat(words), **request) as stream:
        return "".join([chunk.delta.content or "" async for chunk in stream if chunk.delta])


async def spoken(model: TTS, text: str, **request: Any) -> list[rtc.AudioFrame]:
    """The speech of a streaming TTS, with all of its text at once."""
    async with model.stream(**request) as stream:
        stream.push_text(text)
        stream.end_input()
        return [event.frame async for event in stream]


def frames(seconds: float, rate: int = RATE) -> list[rtc.AudioFrame]:
    """A tone and then a second of silence, in frames of 50 ms."""
    return frames_of(tone("caller", "word " * int(seconds * 10), rate) + b"\0\0" * rate, rate)


def frames_of(pcm: bytes, rate: int) -> list[rtc.AudioFrame]:
    """PCM of 16 bit in frames of 50 ms."""
    step = rate // 10
    pcm = pcm[: len(pcm) // step * step]
    return [rtc.AudioFrame(pcm[i : i + step], rate, 1, step // 2) for i in range(0, len(pcm), step)]


async def heard(stream: stt.RecognizeStream, pushed: Sequence[rtc.AudioFrame] = ()) -> str:
    """The first final transcript of what is pushed; closes the stream."""
    async with asyncio.timeout(STEP_SECONDS_MAX), stream:
        for frame in pushed:
            stream.push_frame(frame)
        async for event in stream:
            if event.type is stt.SpeechEventType.FINAL_TRANSCRIPT:
                return event.alternatives[0].text
    raise AssertionError("there was no final transcript")
