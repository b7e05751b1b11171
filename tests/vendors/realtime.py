"""OpenAI's realtime protocol: a websocket for a conversation in speech, or for transcripts alone."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from itertools import count
from typing import Any, cast

from aiohttp import WSMsgType, web

from tests.vendors.answers import spoken_answer
from tests.vendors.recording import Fault, Recorder, came
from tests.vendors.script import Fields, Plan, ToolCall
from tests.vendors.sound import EnergyGate, tone

REALTIME = "/v1/realtime"
SAMPLE_RATE = 24_000
DELTA_BYTES = SAMPLE_RATE // 5
"""A tenth of a second."""

Event = dict[str, Any]


def routes(recorder: Recorder, plan: Plan) -> list[web.RouteDef]:
    """The route, on one recorder."""
    vendor = _Realtime(recorder, plan)
    return [web.get(REALTIME, vendor.serve)]


class _Realtime:
    def __init__(self, recorder: Recorder, plan: Plan) -> None:
        self._recorder = recorder
        self._plan = plan

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Recorded when it opens; then each event but audio, at /v1/realtime/<its type>."""
        opened = came(request, {})
        await self._recorder.add(opened)
        fault = self._recorder.take_fault(REALTIME, opened.key)
        if fault is Fault.ERROR:
            raise web.HTTPInternalServerError
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        talk = _Conversation(socket, self._plan, opened.key, opened.query, fault)
        try:
            await talk.open()
            async for message in socket:
                if message.type is not WSMsgType.TEXT:
                    continue
                event: Event = json.loads(message.data)
                if event["type"] != "input_audio_buffer.append":
                    await self._recorder.add(came(request, event, f"{REALTIME}/{event['type']}"))
                if fault is not Fault.HANG:
                    await talk.receive(event)
        finally:
            await talk.close()
        return socket


class _Conversation:
    """The state of one connection."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        plan: Plan,
        key: str,
        query: Mapping[str, str],
        fault: Fault | None,
    ) -> None:
        self._socket = socket
        self._plan = plan
        self._key = key
        self._fault = fault
        self._ids = count(1)
        self._transcribes_only = query.get("intent") == "transcription"
        self._session: Event = {"id": "sess_1", "object": "realtime.session", "model": query.get("model", "")}
        self._items: list[Event] = []
        self._gate = EnergyGate(SAMPLE_RATE)
        self._heard_item = ""
        self._turns = 0
        self._user = ""
        self._response: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Greet the client."""
        if self._fault is not Fault.HANG:
            await self._send("session.created", session=self._session)

    async def close(self) -> None:
        """Speak no more."""
        if self._response is not None:
            self._response.cancel()
            await asyncio.wait((self._response,))

    async def receive(self, event: Event) -> None:
        """Do as the client's event says."""
        match event:
            case {"type": "session.update", "session": update}:
                _merge(self._session, update)
                await self._send("session.updated", session=self._session)
            case {"type": "input_audio_buffer.append", "audio": audio}:
                await self._hear(base64.b64decode(audio))
            case {"type": "input_audio_buffer.commit"}:
                await self._commit()
            case {"type": "input_audio_buffer.clear"}:
                self._gate = EnergyGate(SAMPLE_RATE)
                await self._send("input_audio_buffer.cleared")
            case {"type": "conversation.item.create", "item": item}:
                await self._add(item, event.get("previous_item_id"))
            case {"type": "conversation.item.delete", "item_id": item_id}:
                self._items = [each for each in self._items if each["id"] != item_id]
                await self._send("conversation.item.deleted", item_id=item_id)
            case {"type": "conversation.item.truncate"}:
                told = {name: event[name] for name in ("item_id", "content_index", "audio_end_ms")}
                await self._send("conversation.item.truncated", **told)
            case {"type": "response.create"}:
                await self._respond(event.get("response") or {})
            case {"type": "response.cancel"}:
                await self.close()
            case _:
                error = {"type": "invalid_request_error", "message": f"unknown event {event['type']}"}
                await self._send("error", error={**error, "event_id": event.get("event_id")})

    async def _hear(self, pcm: bytes) -> None:
        detection = self._input().get("turn_detection")
        heard = self._gate.hear(pcm)
        milliseconds = int(self._gate.seconds * 1000)
        if heard == "started":
            self._heard_item = self._id("item")
            if detection:
                where = {"item_id": self._heard_item, "audio_start_ms": milliseconds}
                await self._send("input_audio_buffer.speech_started", **where)
                if detection.get("interrupt_response", True):
                    await self.close()
        if heard == "ended" and detection:
            where = {"item_id": self._heard_item, "audio_end_ms": milliseconds}
            await self._send("input_audio_buffer.speech_stopped", **where)
            await self._commit()
            if detection.get("create_response", True) and not self._transcribes_only:
                await self._respond({})

    async def _commit(self) -> None:
        item_id, self._heard_item = self._heard_item or self._id("item"), ""
        seconds, self._gate = self._gate.seconds, EnergyGate(SAMPLE_RATE)
        previous = self._items[-1]["id"] if self._items else None
        await self._send("input_audio_buffer.committed", item_id=item_id, previous_item_id=previous)
        content = [{"type": "input_audio", "transcript": None}]
        await self._add({"id": item_id, "type": "message", "role": "user", "content": content}, previous)
        self._user = self._plan.hear(self._key)
        self._turns += 1
        if not self._input().get("transcription"):
            return
        about = {"item_id": item_id, "content_index": 0}
        stem = "conversation.item.input_audio_transcription"
        for word in self._user.split():
            await self._send(f"{stem}.delta", **about, delta=f"{word} ")
        usage = {"type": "duration", "seconds": seconds}
        await self._send(f"{stem}.completed", **about, transcript=self._user, usage=usage)

    async def _add(self, item: Event, previous: str | None) -> None:
        item = {"id": self._id("item"), "object": "realtime.item", "status": "completed"} | item
        if previous is None and self._items:
            previous = self._items[-1]["id"]
        self._items.append(item)
        if item["type"] == "message" and item["role"] == "user":
            texts = [part.get("text") for part in item["content"]]
            self._user = next((text for text in texts if text), self._user)
        await self._send("conversation.item.added", previous_item_id=previous, item=item)

    async def _respond(self, wanted: Event) -> None:
        if self._response is not None and not self._response.done():
            error = {"type": "invalid_request_error", "code": "conversation_already_has_active_response"}
            await self._send("error", error=error | {"message": "a response is active"})
            return
        self._response = asyncio.create_task(self._make(wanted))

    async def _make(self, wanted: Event) -> None:
        response: Event = {
            "id": self._id("resp"),
            "object": "realtime.response",
            "status": "in_progress",
            "metadata": wanted.get("metadata"),
            "output": [],
        }
        await self._send("response.created", response=response)
        status = "cancelled"
        try:
            await asyncio.sleep(self._plan.pace.first)
            if self._fault is Fault.HALF:
                await self._socket.send_str('{"type": "response.output_it')
                await self._socket.close()
                return
            await self._output(response, wanted)
            status = "completed"
        finally:
            if not self._socket.closed:
                usage = {"total_tokens": 20, "input_tokens": 10, "output_tokens": 10}
                await self._send("response.done", response={**response, "status": status, "usage": usage})

    async def _output(self, response: Event, wanted: Event) -> None:
        line = self._plan.replies.take(self._key)
        if isinstance(line, ToolCall):
            await self._call(response["id"], line)
            return
        told = wanted.get("instructions") or self._session.get("instructions") or ""
        match line:
            case Fields(fields):
                said = json.dumps(dict(fields), ensure_ascii=False)
            case None:
                said = spoken_answer(self._session["model"], told, self._user, self._turns)
            case _:
                said = line.text
        await self._say(response["id"], said)

    async def _call(self, response_id: str, call: ToolCall) -> None:
        item_id, call_id = self._id("item"), self._id("call")
        item = {"id": item_id, "type": "function_call", "name": call.name, "call_id": call_id}
        about = {"response_id": response_id, "output_index": 0}
        await self._send("response.output_item.added", **about, item=item | {"arguments": ""})
        await self._add(item | {"arguments": ""}, None)
        arguments = {**about, "item_id": item_id, "call_id": call_id}
        await self._send("response.function_call_arguments.done", **arguments, arguments=call.text)
        item |= {"arguments": call.text, "status": "completed"}
        await self._send("response.output_item.done", **about, item=item)

    async def _say(self, response_id: str, text: str) -> None:
        item: Event = {"id": self._id("item"), "type": "message", "role": "assistant", "content": []}
        about = {"response_id": response_id, "output_index": 0}
        await self._send("response.output_item.added", **about, item=item)
        await self._add(item, None)
        spoken = self._session.get("output_modalities", ["audio"]) != ["text"]
        where = {**about, "item_id": item["id"], "content_index": 0}
        part = {"type": "audio", "transcript": ""} if spoken else {"type": "text", "text": ""}
        await self._send("response.content_part.added", **where, part=part)
        kind = "output_audio_transcript" if spoken else "output_text"
        words = text.split(" ")
        for i, word in enumerate(words):
            await self._send(f"response.{kind}.delta", **where, delta=word + " " * (i < len(words) - 1))
            await asyncio.sleep(self._plan.pace.chunk)
        if spoken:
            await self._speak(where, text)
        await self._send(f"response.{kind}.done", **where)
        await self._send("response.content_part.done", **where, part=part)
        await self._send("response.output_item.done", **about, item=item | {"status": "completed"})

    async def _speak(self, where: Event, text: str) -> None:
        await asyncio.sleep(self._plan.pace.speech)
        voice = self._session.get("audio", {}).get("output", {}).get("voice", "")
        audio = tone(voice, text, SAMPLE_RATE)
        for start in range(0, len(audio), DELTA_BYTES):
            delta = base64.b64encode(audio[start : start + DELTA_BYTES]).decode()
            await self._send("response.output_audio.delta", **where, delta=delta)
        await self._send("response.output_audio.done", **where)

    def _input(self) -> Event:
        return self._session.get("audio", {}).get("input", {})

    def _id(self, kind: str) -> str:
        return f"{kind}_{next(self._ids)}"

    async def _send(self, kind: str, **fields: Any) -> None:
        if not self._socket.closed:
            await self._socket.send_json({"type": kind, "event_id": self._id("event")} | fields)


def _merge(session: Event, update: Event) -> None:
    """Put the update over the session, block by block."""
    for name, value in update.items():
        known = session.get(name)
        if isinstance(value, dict) and isinstance(known, dict):
            _merge(cast("Event", known), cast("Event", value))
        else:
            session[name] = value
