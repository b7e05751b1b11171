"""The control endpoint: what a test in another process tells the vendors, and asks of them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from aiohttp import web

from tests.vendors.otlp import TraceReceiver
from tests.vendors.recording import Fault, Recorder
from tests.vendors.script import Plan, from_json

CONTROL = "/control"
WAIT_SECONDS_MAX = 60.0


def routes(recorder: Recorder, plan: Plan, receiver: TraceReceiver | None) -> list[web.RouteDef]:
    """The routes below /control."""
    control = _Control(recorder, plan, receiver)
    return [
        web.get(f"{CONTROL}/requests", control.requests),
        web.get(f"{CONTROL}/spans", control.spans),
        web.post(f"{CONTROL}/faults", control.faults),
        web.post(f"{CONTROL}/transcripts", control.transcripts),
        web.post(f"{CONTROL}/replies", control.replies),
        web.post(f"{CONTROL}/pace", control.pace),
        web.post(f"{CONTROL}/reset", control.reset),
    ]


class _Control:
    def __init__(self, recorder: Recorder, plan: Plan, receiver: TraceReceiver | None) -> None:
        self._recorder = recorder
        self._plan = plan
        self._receiver = receiver

    async def requests(self, request: web.Request) -> web.Response:
        """GET ?path=&key=&count=&seconds=: what was asked; with count, once there is
        so much of it, or what there is when the seconds are over."""
        path, key = request.query.get("path", ""), request.query.get("key", "")
        seconds = min(float(request.query.get("seconds", "0")), WAIT_SECONDS_MAX)
        try:
            async with asyncio.timeout(seconds):
                await self._recorder.wait(path, int(request.query.get("count", "0")), key)
        except TimeoutError:
            pass
        found = [
            each
            for each in self._recorder.requests
            if path in ("", each.path) and (not key or each.key == key)
        ]
        return web.json_response([asdict(each) for each in found])

    async def spans(self, request: web.Request) -> web.Response:
        """GET ?keys=&holding=&seconds=: the base_url of the receiver of traces, and
        what it has received; with seconds, once there is some of it."""
        if self._receiver is None:
            raise web.HTTPNotFound
        keys, holding = request.query.get("keys", ""), request.query.get("holding", "")
        seconds = min(float(request.query.get("seconds", "0")), WAIT_SECONDS_MAX)
        try:
            async with asyncio.timeout(seconds):
                await self._receiver.wait(keys, holding)
        except TimeoutError:
            pass
        spans = [asdict(span) for span in self._receiver.of(keys, holding)]
        return web.json_response({"url": self._receiver.url, "spans": spans})

    async def faults(self, request: web.Request) -> web.Response:
        """POST {path, fault, times?, key?}: the next requests go wrong."""
        told = await request.json()
        try:
            fault = Fault(told["fault"])
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        self._recorder.break_next(told["path"], fault, told.get("times", 1), told.get("key", ""))
        return web.json_response({})

    async def transcripts(self, request: web.Request) -> web.Response:
        """POST {texts, key?}: what the next utterances are heard as."""
        told = await request.json()
        for text in told["texts"]:
            self._plan.transcripts.append(text, told.get("key", ""))
        return web.json_response({})

    async def replies(self, request: web.Request) -> web.Response:
        """POST {replies, key?}: the model's next replies, each as script.to_json has it."""
        told = await request.json()
        try:
            replies = [from_json(each) for each in told["replies"]]
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        for reply in replies:
            self._plan.replies.append(reply, told.get("key", ""))
        return web.json_response({})

    async def pace(self, request: web.Request) -> web.Response:
        """POST {first?, chunk?, speech?}: the seconds that the vendors take."""
        told: dict[str, Any] = await request.json()
        for name in ("first", "chunk", "speech"):
            setattr(self._plan.pace, name, float(told.get(name, 0.0)))
        return web.json_response({})

    async def reset(self, request: web.Request) -> web.Response:
        """POST: as in the beginning."""
        self._recorder.clear()
        self._plan.clear()
        if self._receiver is not None:
            self._receiver.spans.clear()
        return web.json_response({})
