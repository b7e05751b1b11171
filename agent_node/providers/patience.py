"""How long a model may take and how often it is asked again: as its config
says, whatever the session gives with a request.

LiveKit's streams ask again by themselves, as their APIConnectOptions say. How
long they wait is left to the plugins, and each has a view of its own: for
some the timeout is that of the connection alone. So a limit is put around the
run of each stream.
"""

# The streams are the plugins' own, made inside of them: there is no other place for the limit.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from livekit.agents import APIConnectOptions, APITimeoutError, llm, stt, tts

from agent_node.providers.arguments import seconds_of
from agent_node.providers.models import LLM, STT, TTS
from agent_node.providers.schema_prompt import schema_in_prompt
from voxplane.v1.agent_config_pb2 import LlmConfig, SttConfig, TtsConfig

Block: TypeAlias = "LlmConfig | SttConfig | TtsConfig"

LLM_TIMEOUT_SECONDS, LLM_RETRIES = 20.0, 2
STT_TIMEOUT_SECONDS, STT_RETRIES = 10.0, 3
TTS_TIMEOUT_SECONDS, TTS_RETRIES = 10.0, 3
RETRY_INTERVAL_SECONDS = 0.5


def llm_patience(config: LlmConfig, *, last: bool) -> APIConnectOptions:
    """How patient an LLM is with its provider. One that others follow is asked
    but once, unless its block says otherwise: they are the second attempt."""
    return _patience(config, LLM_TIMEOUT_SECONDS, LLM_RETRIES if last else 0)


def stt_patience(config: SttConfig, *, last: bool) -> APIConnectOptions:
    """As llm_patience."""
    return _patience(config, STT_TIMEOUT_SECONDS, STT_RETRIES if last else 0)


def tts_patience(config: TtsConfig, *, last: bool) -> APIConnectOptions:
    """As llm_patience."""
    return _patience(config, TTS_TIMEOUT_SECONDS, TTS_RETRIES if last else 0)


def _patience(config: Block, timeout: float, retries: int) -> APIConnectOptions:
    seconds = seconds_of(config, "timeout")
    return APIConnectOptions(
        max_retry=config.max_retries if config.HasField("max_retries") else retries,
        retry_interval=RETRY_INTERVAL_SECONDS,
        timeout=timeout if seconds is None else seconds,
    )


def _ours(patience: APIConnectOptions, request: Mapping[str, Any]) -> APIConnectOptions:
    """Ours count; only who wants no second attempt, to make one itself, gets none."""
    theirs: APIConnectOptions | None = request.get("conn_options")
    return replace(patience, max_retry=0) if theirs and theirs.max_retry == 0 else patience


class PatientLLM(LLM):
    """An LLM whose replies have parts that come within a time."""

    def __init__(self, *, patience: APIConnectOptions, structured: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self._patience = patience
        self._structured = structured

    def chat(self, **request: Any) -> Any:
        """A streamed reply; `conn_options` of the caller do not count. A model
        that is not `structured` finds the schema of the reply in its prompt."""
        if not self._structured:
            request = schema_in_prompt(request)
        request["conn_options"] = _ours(self._patience, request)
        stream = super().chat(**request)  # pyright: ignore[reportAbstractUsage]
        _limit_reply(stream, self._patience.timeout)
        return stream


class PatientSTT(STT):
    """An STT that connects, or without streaming recognizes, within a time."""

    def __init__(self, *, patience: APIConnectOptions, **options: Any) -> None:
        super().__init__(**options)
        self._patience = patience

    def stream(self, **request: Any) -> Any:
        """A stream; `conn_options` of the caller do not count."""
        request["conn_options"] = _ours(self._patience, request)
        return super().stream(**request)

    async def recognize(self, buffer: Any, **request: Any) -> stt.SpeechEvent:
        """A transcript; `conn_options` of the caller do not count."""
        request["conn_options"] = _ours(self._patience, request)
        return await super().recognize(buffer, **request)

    async def _recognize_impl(self, buffer: Any, **request: Any) -> stt.SpeechEvent:
        limit = asyncio.timeout(self._patience.timeout)
        try:
            async with limit:
                return await super()._recognize_impl(buffer, **request)  # pyright: ignore[reportAbstractUsage]
        except TimeoutError:
            if not limit.expired():
                raise
            raise APITimeoutError("no transcript in time") from None


class PatientTTS(TTS):
    """A TTS whose speech has pieces that come within a time."""

    def __init__(self, *, patience: APIConnectOptions, **options: Any) -> None:
        super().__init__(**options)
        self._patience = patience

    def synthesize(self, text: str, **request: Any) -> Any:
        """The speech of a text; `conn_options` of the caller do not count."""
        request["conn_options"] = _ours(self._patience, request)
        stream = super().synthesize(text, **request)  # pyright: ignore[reportAbstractUsage]
        _limit_speech(stream, self._patience.timeout)
        return stream

    def stream(self, **request: Any) -> Any:
        """The speech of a text that is still being made; as `synthesize`."""
        request["conn_options"] = _ours(self._patience, request)
        stream = super().stream(**request)
        _limit_streamed_speech(stream, self._patience.timeout)
        return stream


class _Limit:
    """The longest silence of one attempt of a stream."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._running: asyncio.Timeout | None = None

    def start(self, after: float = 0.0) -> None:
        """Count from now on, or from `after` seconds later, again."""
        if self._running is not None and not self._running.expired():
            self._running.reschedule(asyncio.get_running_loop().time() + after + self._seconds)

    async def over(self, work: Awaitable[None], *, started: bool) -> bool:
        """Do the work; whether it was given up."""
        try:
            async with asyncio.timeout(self._seconds if started else None) as self._running:
                await work
        except TimeoutError:
            if not self._running or not self._running.expired():
                raise
            return True
        finally:
            self._running = None
        return False


def _limit_reply(stream: llm.LLMStream, seconds: float) -> None:
    limit = _Limit(seconds)
    run, chunks = stream._run, stream._event_ch
    send = chunks.send_nowait

    def send_in_time(value: llm.ChatChunk) -> None:
        limit.start()
        send(value)

    async def run_in_time() -> None:
        if await limit.over(run(), started=True):
            # what has been said must not be said again
            raise APITimeoutError("no part of the reply in time", retryable=not chunks.output_sent)

    chunks.send_nowait = send_in_time
    stream._run = run_in_time


def _limit_speech(stream: tts.ChunkedStream, seconds: float) -> None:
    limit = _Limit(seconds)
    run = stream._run

    async def run_in_time(output_emitter: tts.AudioEmitter) -> None:
        _tell_of_audio(output_emitter, limit.start)
        if await limit.over(run(output_emitter), started=True):
            raise APITimeoutError("no piece of the speech in time")

    stream._run = run_in_time


def _limit_streamed_speech(stream: tts.SynthesizeStream, seconds: float) -> None:
    """Before the text has ended its author may be the one who takes time."""
    limit = _Limit(seconds)
    run, end_input = stream._run, stream.end_input

    def heard(after: float) -> None:
        if stream._input_ended:
            limit.start(after)

    def end_text() -> None:
        end_input()
        limit.start()

    async def run_in_time(output_emitter: tts.AudioEmitter) -> None:
        _tell_of_audio(output_emitter, heard)
        if await limit.over(run(output_emitter), started=stream._input_ended):
            raise APITimeoutError("no piece of the speech in time")

    stream.end_input = end_text
    stream._run = run_in_time


def _tell_of_audio(emitter: tts.AudioEmitter, heard: Callable[[float], None]) -> None:
    """Call `heard` with each piece, and with how long what has come is still
    played: some plugins hold text back that long."""
    push = emitter.push
    push_frame = emitter.push_frame
    began: list[float] = []

    def told() -> None:
        now = asyncio.get_running_loop().time()
        began.append(now) if not began else None
        heard(max(0.0, began[0] + emitter.pushed_duration() - now))

    def push_told(data: bytes) -> None:
        push(data)
        told()

    def push_frame_told(frame: Any) -> None:
        push_frame(frame)
        told()

    emitter.push = push_told
    emitter.push_frame = push_frame_told
