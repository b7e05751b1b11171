"""OpenAI's protocol over HTTP: chat completions as events, models, speech, transcriptions."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import wave
from typing import Any, NoReturn

from aiohttp import BodyPartReader, web

from tests.vendors.answers import answer_to
from tests.vendors.recording import Fault, Recorder, Request, came
from tests.vendors.script import Plan, ToolCall
from tests.vendors.sound import tone, wav

CHAT, SPEECH, MODELS = "/v1/chat/completions", "/v1/audio/speech", "/v1/models"
TRANSCRIPTIONS = "/v1/audio/transcriptions"
SAMPLE_RATE = 24_000
CHUNK_CHARS = 7
AUDIO_CHUNK_BYTES = 9_600
FAILED = '{"error": {"message": "told to fail", "type": "server_error", "code": null}}'

UNSPOKEN = '{"error": {"message": "events are of wav or pcm here", "type": "invalid_request_error"}}'


def routes(recorder: Recorder, plan: Plan) -> list[web.RouteDef]:
    """The routes, on one recorder."""
    vendor = _OpenAI(recorder, plan)
    return [
        web.post(CHAT, vendor.chat),
        web.post(SPEECH, vendor.speech),
        web.post(TRANSCRIPTIONS, vendor.transcribe),
        web.get(MODELS, vendor.models),
    ]


class _OpenAI:
    def __init__(self, recorder: Recorder, plan: Plan) -> None:
        self._recorder = recorder
        self._plan = plan

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "gpt-stub", "object": "model"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """A reply of the plan, else one that is derived from the schema and the words."""
        asked, fault = await self._take(request, await request.json())
        # a reply that breaks off is made again when it is asked for again
        replies = self._plan.replies
        line = replies.look(asked.key) if fault is Fault.HALF else replies.take(asked.key)
        reply = answer_to(asked.body, line)
        await asyncio.sleep(self._plan.pace.first)
        if not asked.body.get("stream"):
            return web.json_response(_completion(asked.body, reply))
        answer = await _events(request)
        pieces = _deltas(reply)
        for i, delta in enumerate(pieces):
            if fault is Fault.HALF and i == len(pieces) // 2:
                await answer.write(b'data: {"id": "chatcmpl-1", "object": "chat.comp')
                _cut(request)
            await _chunk(answer, asked.body, choices=[{"index": 0, "delta": delta}])
            await asyncio.sleep(self._plan.pace.chunk)
        ended: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": _finish(reply)}
        await _chunk(answer, asked.body, choices=[ended])
        if asked.body.get("stream_options", {}).get("include_usage"):
            await _chunk(answer, asked.body, choices=[], usage=_usage(len(pieces)))
        await answer.write(b"data: [DONE]\n\n")
        await answer.write_eof()
        return answer

    async def speech(self, request: web.Request) -> web.StreamResponse:
        """The voice's tone: as a file, or as events if the request wants them. A file is
        WAV or PCM; events do not say what they carry, so that there no other can be wanted."""
        asked, fault = await self._take(request, await request.json())
        events = asked.body.get("stream_format") == "sse"
        if events and asked.body.get("response_format", "wav") not in ("wav", "pcm"):
            raise web.HTTPBadRequest(text=UNSPOKEN, content_type="application/json")
        await asyncio.sleep(self._plan.pace.speech)
        pcm = tone(asked.body["voice"], asked.body["input"], SAMPLE_RATE)
        bare = asked.body.get("response_format") == "pcm"
        audio = pcm if bare else wav(pcm, SAMPLE_RATE)
        if events:
            return await _spoken_events(request, audio, fault)
        kind = "audio/pcm" if bare else "audio/wav"
        if fault is Fault.HALF:
            answer = web.StreamResponse(headers={"Content-Type": kind, "Content-Length": str(len(audio))})
            await answer.prepare(request)
            await answer.write(audio[: len(audio) // 2])
            _cut(request)
        return web.Response(body=audio, content_type=kind)

    async def transcribe(self, request: web.Request) -> web.StreamResponse:
        """The plan's next transcript. The file is recorded as its length in `seconds`."""
        asked, fault = await self._take(request, await _form(request))
        body: dict[str, Any] = {"text": self._plan.hear(asked.key)}
        if asked.body.get("response_format") == "verbose_json":
            body |= {"language": "english", "duration": asked.body["seconds"], "segments": []}
        if fault is Fault.HALF:
            answer = web.StreamResponse(headers={"Content-Type": "application/json"})
            await answer.prepare(request)
            await answer.write(json.dumps(body).encode()[:10])
            _cut(request)
        return web.json_response(body)

    async def _take(self, http: web.Request, body: dict[str, Any]) -> tuple[Request, Fault | None]:
        asked = came(http, body)
        await self._recorder.add(asked)
        fault = self._recorder.take_fault(asked.path, asked.key)
        if fault is Fault.HANG:
            await asyncio.Event().wait()
        if fault is Fault.ERROR:
            raise web.HTTPInternalServerError(text=FAILED, content_type="application/json")
        return asked, fault


async def _form(request: web.Request) -> dict[str, Any]:
    body: dict[str, Any] = {}
    async for part in await request.multipart():
        assert isinstance(part, BodyPartReader)
        if part.name == "file":
            with wave.open(io.BytesIO(bytes(await part.read()))) as file:
                body["seconds"] = file.getnframes() / file.getframerate()
        elif part.name is not None:
            body[part.name] = await part.text()
    return body


def _deltas(reply: str | ToolCall) -> list[dict[str, Any]]:
    text = reply if isinstance(reply, str) else reply.text
    pieces = [text[i : i + CHUNK_CHARS] for i in range(0, len(text), CHUNK_CHARS)]
    if isinstance(reply, str):
        return [{"role": "assistant", "content": piece} for piece in pieces]
    function = {"name": reply.name, "arguments": ""}
    opened = {"index": 0, "id": f"call_{reply.name}", "type": "function", "function": function}
    return [
        {"role": "assistant", "content": None, "tool_calls": [opened]},
        *({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces),
    ]


def _completion(body: dict[str, Any] | Any, reply: str | ToolCall) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply}
    if isinstance(reply, ToolCall):
        function = {"name": reply.name, "arguments": reply.text}
        call = {"id": f"call_{reply.name}", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": _finish(reply)}],
        "usage": _usage(1),
    }


def _finish(reply: str | ToolCall) -> str:
    return "stop" if isinstance(reply, str) else "tool_calls"


def _usage(pieces: int) -> dict[str, Any]:
    return {"prompt_tokens": 10, "completion_tokens": pieces, "total_tokens": 10 + pieces}


async def _spoken_events(request: web.Request, audio: bytes, fault: Fault | None) -> web.StreamResponse:
    answer = await _events(request)
    starts = range(0, len(audio), AUDIO_CHUNK_BYTES)
    for i, start in enumerate(starts):
        if fault is Fault.HALF and i == len(starts) // 2:
            await answer.write(b'data: {"type": "speech.audio.del')
            _cut(request)
        piece = base64.b64encode(audio[start : start + AUDIO_CHUNK_BYTES]).decode()
        await _event(answer, {"type": "speech.audio.delta", "audio": piece})
    usage = {"input_tokens": 10, "output_tokens": len(starts), "total_tokens": 10 + len(starts)}
    await _event(answer, {"type": "speech.audio.done", "usage": usage})
    await answer.write_eof()
    return answer


async def _events(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    return answer


async def _chunk(answer: web.StreamResponse, body: Any, **fields: Any) -> None:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}
    await _event(answer, head | fields)


async def _event(answer: web.StreamResponse, event: dict[str, Any]) -> None:
    await answer.write(f"data: {json.dumps(event)}\n\n".encode())


def _cut(request: web.Request) -> NoReturn:
    """End the connection without ending the answer."""
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError
