"""Deepgram's protocol: listening and speaking over websockets."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from typing import Any

from aiohttp import WSMsgType, web

from tests.vendors.recording import Fault, Recorder, Request
from tests.vendors.sound import EnergyGate, tone

LISTEN, SPEAK = "/v1/listen", "/v1/speak"


def routes(recorder: Recorder, transcripts: deque[str]) -> list[web.RouteDef]:
    """The routes; an utterance is heard as the next of `transcripts`, or is numbered."""
    vendor = _Deepgram(recorder, transcripts)
    return [web.get(LISTEN, vendor.listen), web.get(SPEAK, vendor.speak), web.post(SPEAK, vendor.speak_once)]


class _Deepgram:
    def __init__(self, recorder: Recorder, transcripts: deque[str]) -> None:
        self._recorder = recorder
        self._transcripts = transcripts
        self._utterances = 0

    async def listen(self, request: web.Request) -> web.WebSocketResponse:
        """Recorded when it opens: the query holds model and language."""
        socket, fault = await self._open(request, record=True)
        gate = EnergyGate(int(request.query.get("sample_rate", "16000")))
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                if fault is not Fault.HANG:
                    await self._hear(socket, gate, message.data, fault)
                continue
            match json.loads(message.data)["type"]:
                case "Finalize" if gate.speaking and fault is not Fault.HANG:
                    gate.speaking = False
                    await self._final(socket, gate)
                case "CloseStream":
                    await socket.send_json(
                        {"type": "Metadata", "request_id": "r-1", "duration": gate.seconds}
                    )
                    await socket.close()
                case _:
                    pass
        return socket

    async def speak(self, request: web.Request) -> web.WebSocketResponse:
        """Each flushed text is recorded with the query, which holds the voice as `model`."""
        socket, _ = await self._open(request, record=False)
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
                    await self._say(socket, request.query, said)
                case {"type": "Close"}:
                    await socket.close()
                case _:
                    pass
        return socket

    async def speak_once(self, request: web.Request) -> web.Response:
        body = await request.json()
        await self._recorder.add(Request(SPEAK, body, dict(request.query)))
        if self._recorder.take_fault(SPEAK) is Fault.ERROR:
            raise web.HTTPInternalServerError
        return web.Response(body=_tone(request.query, body["text"]), content_type="audio/pcm")

    async def _open(
        self, request: web.Request, *, record: bool
    ) -> tuple[web.WebSocketResponse, Fault | None]:
        if record:
            await self._recorder.add(Request(request.path, {}, dict(request.query)))
        fault = self._recorder.take_fault(request.path) if record else None
        if fault is Fault.ERROR:
            raise web.HTTPInternalServerError
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        return socket, fault

    async def _hear(
        self, socket: web.WebSocketResponse, gate: EnergyGate, pcm: bytes, fault: Fault | None
    ) -> None:
        heard = gate.hear(pcm)
        if heard == "started":
            await socket.send_json({"type": "SpeechStarted", "channel": [0, 1], "timestamp": gate.seconds})
        if heard == "ended" and fault is Fault.HALF:
            await socket.send_str('{"type": "Results", "channel": {"altern')
            await socket.close()
        elif heard == "ended":
            await self._final(socket, gate)

    async def _final(self, socket: web.WebSocketResponse, gate: EnergyGate) -> None:
        self._utterances += 1
        text = self._transcripts.popleft() if self._transcripts else f"utterance {self._utterances}"
        for final in (False, True):
            await socket.send_json(_results(text, gate.seconds, final=final))
        await socket.send_json({"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": gate.seconds})

    async def _say(self, socket: web.WebSocketResponse, query: Mapping[str, str], text: str) -> None:
        await self._recorder.add(Request(SPEAK, {"text": text}, dict(query)))
        fault = self._recorder.take_fault(SPEAK)
        if fault is Fault.HANG:
            return
        audio = _tone(query, text)
        if fault is not None:
            await socket.send_bytes(audio[: len(audio) // 4 * 2])
            await socket.close()
            return
        await socket.send_bytes(audio)
        await socket.send_json({"type": "Flushed", "sequence_id": 0})


def _tone(query: Mapping[str, str], text: str) -> bytes:
    return tone(query.get("model", ""), text, int(query.get("sample_rate", "24000")))


def _results(text: str, seconds: float, *, final: bool) -> dict[str, Any]:
    step = seconds / max(len(text.split()), 1)
    words = [
        {"word": word, "start": i * step, "end": (i + 1) * step, "confidence": 0.99}
        for i, word in enumerate(text.split())
    ]
    return {
        "type": "Results",
        "is_final": final,
        "speech_final": final,
        "start": 0.0,
        "duration": seconds,
        "channel": {"alternatives": [{"transcript": text, "confidence": 0.99, "words": words}]},
        "metadata": {"request_id": "r-1"},
    }
