"""OpenAI's protocol: chat completions as events, models, speech."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from agent_node.providers.offline.reply import Situation, plain_reply, structured_reply
from tests.vendors.recording import Fault, Recorder, Request
from tests.vendors.sound import tone, wav

CHAT, SPEECH, MODELS = "/v1/chat/completions", "/v1/audio/speech", "/v1/models"
SAMPLE_RATE = 24_000
CHUNK_CHARS = 7


def routes(recorder: Recorder) -> list[web.RouteDef]:
    """The routes, on one recorder."""
    vendor = _OpenAI(recorder)
    return [web.post(CHAT, vendor.chat), web.post(SPEECH, vendor.speech), web.get(MODELS, vendor.models)]


class _OpenAI:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "gpt-stub", "object": "model"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body, fault = await self._take(request)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        text = _reply(body)
        pieces = [text[i : i + CHUNK_CHARS] for i in range(0, len(text), CHUNK_CHARS)]
        for i, piece in enumerate(pieces):
            if fault is Fault.HALF and i == len(pieces) // 2:
                await answer.write(b'data: {"id": "chatcmpl-1", "object": "chat.comp')
                _cut(request)
            await _event(
                answer, body, choices=[{"index": 0, "delta": {"role": "assistant", "content": piece}}]
            )
        await _event(answer, body, choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
        if body.get("stream_options", {}).get("include_usage"):
            usage = {"prompt_tokens": 10, "completion_tokens": len(pieces), "total_tokens": 10 + len(pieces)}
            await _event(answer, body, choices=[], usage=usage)
        await answer.write(b"data: [DONE]\n\n")
        await answer.write_eof()
        return answer

    async def speech(self, request: web.Request) -> web.StreamResponse:
        body, fault = await self._take(request)
        audio = wav(tone(body["voice"], body["input"], SAMPLE_RATE), SAMPLE_RATE)
        if fault is Fault.HALF:
            answer = web.StreamResponse(
                headers={"Content-Type": "audio/wav", "Content-Length": str(len(audio))}
            )
            await answer.prepare(request)
            await answer.write(audio[: len(audio) // 2])
            _cut(request)
        return web.Response(body=audio, content_type="audio/wav")

    async def _take(self, request: web.Request) -> tuple[dict[str, Any], Fault | None]:
        body = await request.json()
        await self._recorder.add(Request(request.path, body))
        fault = self._recorder.take_fault(request.path)
        if fault is Fault.HANG:
            await asyncio.Event().wait()
        if fault is Fault.ERROR:
            raise web.HTTPInternalServerError(text='{"error": {"message": "told to fail"}}')
        return body, fault


def _reply(body: dict[str, Any]) -> str:
    messages = body["messages"]
    said = [_text(m) for m in messages if m["role"] == "user"]
    situation = Situation(
        model=body["model"],
        temperature=body.get("temperature"),
        instructions=next((_text(m) for m in messages if m["role"] in ("system", "developer")), ""),
        user=said[-1] if said else "",
        turn=len(said),
        label="openai stub",
    )
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return structured_reply(schema, situation)
        case _:
            return plain_reply(situation)


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


async def _event(answer: web.StreamResponse, body: dict[str, Any], **fields: Any) -> None:
    event = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": body["model"],
    } | fields
    await answer.write(f"data: {json.dumps(event)}\n\n".encode())


def _cut(request: web.Request) -> None:
    """End the connection without ending the answer."""
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError
