"""Deepgram's protocol: listening and speaking over websockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import WSMsgType, web

from tests.vendors.recording import Fault, Recorder, came
from tests.vendors.script import Plan
from tests.vendors.sound import EnergyGate, tone

LISTEN, SPEAK = "/v1/listen", "/v1/speak"
INTERIM_SECONDS = 0.4
"""Of speech, from one interim transcript to the next."""
WORDS_PER_INTERIM = 2


def routes(recorder: Recorder, plan: Plan) -> list[web.RouteDef]:
    """The routes, on one recorder."""
    vendor = _Deepgram(recorder, plan)
    return [web.get(LISTEN, vendor.listen), web.get(SPEAK, vendor.speak), web.post(SPEAK, vendor.speak_once)]


class _Ear:
    """One connection that listens; an utterance is heard as the plan's next transcript."""

    def __init__(self, socket: web.WebSocketResponse, query: Mapping[str, str], plan: Plan, key: str) -> None:
        self._socket = socket
        self._plan = plan
        self._key = key
        self._interims = query.get("interim_results") == "true"
        self._words: list[str] = []
        self._shown = 0
        self.gate = EnergyGate(int(query.get("sample_rate", "16000")))

    async def hear(self, pcm: bytes, fault: Fault | None) -> None:
        heard = self.gate.hear(pcm)
        if heard == "started":
            self._words, self._shown = self._plan.hear(self._key).split(), 0
            started = {"type": "SpeechStarted", "channel": [0, 1], "timestamp": self.gate.began}
            await self._socket.send_json(started)
        if self._interims and self.gate.speaking:
            await self._interim()
        if heard == "ended" and fault is Fault.HALF:
            await self._socket.send_str('{"type": "Results", "channel": {"altern')
            await self._socket.close()
        elif heard == "ended":
            await self.final()

    async def _interim(self) -> None:
        """The words so far, whenever some more have been heard; never the last one."""
        due = int((self.gate.seconds - self.gate.began) / INTERIM_SECONDS) * WORDS_PER_INTERIM
        shown = min(due, len(self._words) - 1)
        if shown > self._shown:
            self._shown = shown
            await self._socket.send_json(self._results(self._words[:shown], final=False))

    async def final(self) -> None:
        self.gate.speaking = False
        await self._socket.send_json(self._results(self._words, final=False))
        await self._socket.send_json(self._results(self._words, final=True))
        end = {"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": self.gate.seconds}
        await self._socket.send_json(end)

    def _results(self, heard: list[str], *, final: bool) -> dict[str, Any]:
        start, length = self.gate.began, self.gate.seconds - self.gate.began
        step = length / max(len(heard), 1)
        words = [
            {
                "word": word,
                "punctuated_word": word,
                "start": start + i * step,
                "end": start + (i + 1) * step,
                "confidence": 0.99,
            }
            for i, word in enumerate(heard)
        ]
        return {
            "type": "Results",
            "is_final": final,
            "speech_final": final,
            "start": start,
            "duration": length,
            "channel_index": [0, 1],
            "channel": {
                "alternatives": [{"transcript": " ".join(heard), "confidence": 0.99, "words": words}]
            },
            "metadata": {"request_id": "r-1"},
        }


class _Deepgram:
    def __init__(self, recorder: Recorder, plan: Plan) -> None:
        self._recorder = recorder
        self._plan = plan

    async def listen(self, request: web.Request) -> web.WebSocketResponse:
        """Recorded when it opens: the query holds model and language."""
        opened = came(request, {})
        await self._recorder.add(opened)
        fault = self._recorder.take_fault(LISTEN, opened.key)
        if fault is Fault.ERROR:
            raise web.HTTPInternalServerError
        socket = await _socket(request)
        ear = _Ear(socket, request.query, self._plan, opened.key)
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                if fault is not Fault.HANG:
                    await ear.hear(message.data, fault)
                continue
            match json.loads(message.data)["type"]:
                case "Finalize" if ear.gate.speaking and fault is not Fault.HANG:
                    await ear.final()
                case "CloseStream":
                    told = {"type": "Metadata", "request_id": "r-1", "duration": ear.gate.seconds}
                    await socket.send_json(told)
                    await socket.close()
                case _:
                    pass
        return socket

    async def speak(self, request: web.Request) -> web.WebSocketResponse:
        """Each flushed text is recorded with the query, which holds the voice as `model`."""
        socket = await _socket(request)
        words: list[str] = []
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                continue
            match json.loads(message.data):
                case {"type": "Speak", "text": text}:
                    words.append(text)
                case {"type": "Flush"} if words:
                    said = "".join(words).strip()
                    words.clear()
                    await self._say(socket, request, said)
                case {"type": "Clear"}:
                    words.clear()
                    await socket.send_json({"type": "Cleared", "sequence_id": 0})
                case {"type": "Close"}:
                    await socket.close()
                case _:
                    pass
        return socket

    async def speak_once(self, request: web.Request) -> web.Response:
        body = await request.json()
        fault = await self._asked(request, body)
        if fault is Fault.ERROR:
            raise web.HTTPInternalServerError
        return web.Response(body=_tone(request.query, body["text"]), content_type="audio/pcm")

    async def _say(self, socket: web.WebSocketResponse, request: web.Request, text: str) -> None:
        fault = await self._asked(request, {"text": text})
        if fault is Fault.HANG:
            return
        await asyncio.sleep(self._plan.pace.speech)
        audio = _tone(request.query, text)
        if fault is not None:
            await socket.send_bytes(audio[: len(audio) // 4 * 2])
            await socket.close()
            return
        await socket.send_bytes(audio)
        await socket.send_json({"type": "Flushed", "sequence_id": 0})

    async def _asked(self, request: web.Request, body: Mapping[str, Any]) -> Fault | None:
        asked = came(request, body)
        await self._recorder.add(asked)
        return self._recorder.take_fault(SPEAK, asked.key)


async def _socket(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    return socket


def _tone(query: Mapping[str, str], text: str) -> bytes:
    return tone(query.get("model", ""), text, int(query.get("sample_rate", "24000")))
