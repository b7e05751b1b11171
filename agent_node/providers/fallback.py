"""Several models in place of one: where the first fails the next takes over.

LiveKit's adapters choose, and look in the background whether one that has
failed is back. What they do not do is done here: each model keeps the time and
the retries of its own block, the chain is gone through once, what was heard
and not yet understood is heard again by the next, instructions of speech reach
all, and the models are closed with the chain.
"""

# pyright: reportPrivateUsage=false
# What an adapter knows of its models is in its private part, and the other half of it here.

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import structlog
from livekit import rtc
from livekit.agents import APIConnectionError, APIConnectOptions, llm, stt, tts, utils
from livekit.agents.stt.fallback_adapter import AvailabilityChangedEvent, FallbackRecognizeStream

from agent_node.providers.models import LLM, STT, TTS, VAD

HEARD_SECONDS_MAX = 15.0

_ONCE = APIConnectOptions(max_retry=0)
_ANEW = APIConnectOptions(max_retry=1)
"""Ears that have all failed are tried once more, for the first may be back."""
_EACH_ITS_OWN = 1
"""Told to LiveKit, where each model's own count holds; 0 would mean none."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class FallbackLLM(llm.FallbackAdapter):
    """LLMs in order."""

    def __init__(self, models: Sequence[LLM]) -> None:
        self.models = models
        super().__init__(list(models), max_retry_per_llm=_EACH_ITS_OWN)  # pyright: ignore[reportUnknownMemberType]

    def chat(self, **request: Any) -> llm.LLMStream:
        """A reply of the first that begins one; the rest of a reply that broke
        off is not asked of another."""
        request["conn_options"] = _ONCE
        return super().chat(**request)

    async def aclose(self) -> None:
        """Close the models too."""
        await super().aclose()
        await utils.aio.cancel_and_wait(
            *[each.recovering_task for each in self._status if each.recovering_task]
        )
        await _close(self.models)


class FallbackTTS(tts.FallbackAdapter):
    """TTSs in order, in the highest of their sample rates."""

    def __init__(self, models: Sequence[TTS]) -> None:
        self.models = models
        super().__init__(list(models), max_retry_per_tts=_EACH_ITS_OWN)  # pyright: ignore[reportUnknownMemberType]

    def synthesize(self, text: str, **request: Any) -> tts.fallback_adapter.FallbackChunkedStream:
        """The speech of the first that speaks."""
        request["conn_options"] = _ONCE
        return super().synthesize(text, **request)

    def stream(self, **request: Any) -> tts.fallback_adapter.FallbackSynthesizeStream:
        """The speech of the first that speaks."""
        request["conn_options"] = _ONCE
        return super().stream(**request)

    async def aclose(self) -> None:
        """Close the models too."""
        await super().aclose()
        await _close(self.models)


class FallbackSTT(stt.FallbackAdapter):
    """STTs in order; those that do not stream do so by the VAD."""

    def __init__(self, models: Sequence[STT], vad: VAD | None) -> None:
        self.models = models
        super().__init__(list(models), vad=vad, max_retry_per_stt=_EACH_ITS_OWN)  # pyright: ignore[reportUnknownMemberType]

    def stream(self, **request: Any) -> stt.RecognizeStream:
        """A stream that goes on with the next where one fails."""
        request["conn_options"] = _ANEW
        return _Hearing(stt=self, **request)

    async def recognize(self, buffer: Any, **request: Any) -> stt.SpeechEvent:
        """A transcript by the first that gives one."""
        request["conn_options"] = _ONCE
        return await super().recognize(buffer, **request)

    async def aclose(self) -> None:
        """Close the models too."""
        await super().aclose()
        await _close(self.models)


class _Hearing(FallbackRecognizeStream):
    """LiveKit's stream loses what the failed model was given. This one keeps
    what has not become a transcript, and gives it to the next."""

    def __init__(self, **request: Any) -> None:
        self._unheard = _Unheard()
        self._ear: stt.RecognizeStream | None = None
        super().__init__(**request)

    async def _run(self) -> None:
        adapter = self._fallback_adapter
        all_failed = not any(status.available for status in adapter._status)
        listening = asyncio.create_task(self._listen())
        models = cast("list[STT]", adapter._stt_instances)  # pyright: ignore[reportUnknownMemberType]
        try:
            for model, status in zip(models, adapter._status, strict=True):
                if status.available or all_failed:
                    if await self._through(model):
                        return
                    if status.available:
                        status.available = False
                        adapter.emit("stt_availability_changed", AvailabilityChangedEvent(model, False))
                self._try_recovery(model)  # pyright: ignore[reportUnknownMemberType]
        finally:
            await utils.aio.cancel_and_wait(listening)
            await asyncio.gather(*[each.aclose() for each in list(self._recovering_streams)])
        raise APIConnectionError("all STTs failed")

    async def _through(self, model: STT) -> bool:
        """Listen by one model, to its end; False if it failed."""
        try:
            ear = model.stream(language=self._language, conn_options=APIConnectOptions(_EACH_ITS_OWN))
            ear.start_time_offset = self.start_time_offset + (time.time() - self._start_time)
            self._unheard.play(ear)
            async with ear:
                self._ear = ear
                async for event in ear:
                    self._fallback_adapter._active_instance = model
                    if event.type is stt.SpeechEventType.FINAL_TRANSCRIPT:
                        self._unheard.forget()
                    self._event_ch.send_nowait(event)
        except Exception as error:
            _log.warning("an STT failed, the next takes over", model=model.label, error=type(error).__name__)
            return False
        finally:
            self._ear = None
        return True

    async def _listen(self) -> None:
        async for data in self._input_ch:
            self._unheard.add(data)
            for ear in (*self._recovering_streams, self._ear):
                if ear is not None:
                    _give(ear, data)
        self._unheard.ended = True
        if self._ear is not None:
            _end(self._ear)


class _Unheard:
    """The audio since the last transcript, no more than HEARD_SECONDS_MAX of it."""

    def __init__(self) -> None:
        self.ended = False
        self._kept: deque[Any] = deque()
        self._seconds = 0.0

    def add(self, data: Any) -> None:
        self._kept.append(data)
        self._seconds += _duration(data)
        while self._seconds > HEARD_SECONDS_MAX:
            self._seconds -= _duration(self._kept.popleft())

    def forget(self) -> None:
        self._kept.clear()
        self._seconds = 0.0

    def play(self, ear: stt.RecognizeStream) -> None:
        for data in self._kept:
            _give(ear, data)
        if self.ended:
            _end(ear)


def _duration(data: Any) -> float:
    return data.duration if isinstance(data, rtc.AudioFrame) else 0.0


def _give(ear: stt.RecognizeStream, data: Any) -> None:
    with suppress(Exception):  # it may have just failed, which its reader is told
        if isinstance(data, rtc.AudioFrame):
            ear.push_frame(data)
        else:
            ear.flush()


def _end(ear: stt.RecognizeStream) -> None:
    with suppress(RuntimeError):
        ear.end_input()


@dataclass(frozen=True, slots=True)
class Availability:
    """A model of a chain has failed, or is back. `index` is its place: 0 is the
    block's own, 1 the first of its fallbacks."""

    kind: str
    index: int
    model: str
    provider: str
    available: bool


def on_availability(model: object, tell: Callable[[Availability], None]) -> None:
    """Be told when a model of a chain fails or is back; a single model has
    nothing to tell."""
    if not isinstance(model, FallbackLLM | FallbackSTT | FallbackTTS):
        return
    kind = {FallbackLLM: "llm", FallbackSTT: "stt", FallbackTTS: "tts"}[type(model)]
    order: list[Any] = list(model.models)

    def pass_on(event: Any) -> None:
        changed = getattr(event, kind)
        index = order.index(getattr(changed, "wrapped_stt", changed))
        tell(Availability(kind, index, changed.model, changed.provider, event.available))

    cast("Any", model).on(f"{kind}_availability_changed", pass_on)


async def _close(models: Sequence[LLM] | Sequence[STT] | Sequence[TTS]) -> None:
    closing: list[Coroutine[Any, Any, None]] = [model.aclose() for model in models]
    for model, ended in zip(models, await asyncio.gather(*closing, return_exceptions=True), strict=True):
        if isinstance(ended, Exception):
            kind = type(ended).__name__
            _log.warning("a model did not close", model=type(model).__name__, error=kind)
