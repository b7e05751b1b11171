"""Pages in a room that a RoomPort tells of fields: python -m tests.livekit.frontends URL AGENT PAGE.

AGENT and PAGE are tickets to one room. Prints, for each kind of page, how the
payloads came and what fields they made, as one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from livekit import rtc

from agent_node.job.agent import ReplyBegan, ReplyDone, ReplyField, ReplyFieldPart
from agent_node.job.field_feed import DEFAULT_METHOD, FieldFeed
from agent_node.job.frontend import Frontend
from agent_node.job.room_frontend import RoomPort
from agent_node.job.targets import Bundle, Target
from voxplane.clock import SystemClock
from voxplane.v1.agent_config_pb2 import AgentConfig

SECONDS_MAX = 15.0
LARGE = "x" * 20_000
TARGET = Target(Bundle("tenants/acme/agents/support", "", 1), 1, "", AgentConfig())


class Page:
    """A page: how payloads came, and the fields that they made."""

    def __init__(self, *, rpc: bool) -> None:
        self.room = rtc.Room()
        self.ways: list[str] = []
        self.fields: dict[str, Any] = {}
        self.done = asyncio.Event()
        self._rpc = rpc
        self._reading: set[asyncio.Task[None]] = set()

    async def join(self, url: str, ticket: str) -> None:
        """Enter the room, and take payloads from the beginning."""
        self.room.register_text_stream_handler(DEFAULT_METHOD, self._on_text)
        await self.room.connect(url, ticket)
        me = self.room.local_participant
        if self._rpc:
            me.register_rpc_method(DEFAULT_METHOD, self._on_rpc)
        # of those who publish nothing LiveKit tells the others up to three seconds later
        microphone = rtc.AudioSource(48_000, 1)
        await me.publish_track(rtc.LocalAudioTrack.create_audio_track("microphone", microphone))

    async def told(self) -> dict[str, Any]:
        """What it was told, once the reply is done."""
        await asyncio.wait_for(self.done.wait(), SECONDS_MAX)
        return {"ways": self.ways, "fields": {name: len(text) for name, text in self.fields.items()}}

    async def _on_rpc(self, call: rtc.RpcInvocationData) -> str:
        self._take("rpc", call.payload)
        return ""

    def _on_text(self, reader: rtc.TextStreamReader, _: str) -> None:
        task = asyncio.create_task(self._read(reader))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _read(self, reader: rtc.TextStreamReader) -> None:
        self._take("text", await reader.read_all())

    def _take(self, way: str, payload: str) -> None:
        self.ways.append(way)
        said = json.loads(payload)
        if said["whole"]:
            self.fields = {}
        self.fields |= said["fields"]
        for name, text in said["deltas"].items():
            self.fields[name] = self.fields.get(name, "") + text
        if said["done"]:
            self.done.set()


@asynccontextmanager
async def telling(room: rtc.Room) -> AsyncIterator[Frontend]:
    """A frontend of whoever else is in the room."""
    port = RoomPort(room, lambda: next(iter(room.remote_participants.values()), None))
    frontend = Frontend(FieldFeed("s-1", TARGET), port, SystemClock(), count=lambda **_: None)
    port.watch(lambda present: frontend.caller(present=present))
    try:
        yield frontend
    finally:
        port.unwatch()
        await frontend.aclose()


def reply(frontend: Frontend, turn: int, text: str) -> None:
    """A whole reply with a string of two pieces."""
    half = len(text) // 2
    frontend.take(ReplyBegan(TARGET), turn)
    for piece in (text[:half], text[half:]):
        frontend.take(ReplyFieldPart("answer", piece), turn)
    frontend.take(ReplyField("answer", text), turn)
    frontend.take(ReplyDone(TARGET, {"answer": text}, None), turn)


async def main(url: str, agents: str, pages: str) -> dict[str, Any]:
    """What each kind of page was told."""
    told: dict[str, Any] = {}
    agent = rtc.Room()
    await agent.connect(url, agents)
    async with telling(agent) as frontend:
        reply(frontend, 1, "said before anybody came")
        for turn, (kind, page, text) in enumerate(
            (
                ("joins late", Page(rpc=True), ""),
                ("takes rpcs", Page(rpc=True), "a short answer"),
                ("takes text streams", Page(rpc=False), "a short answer"),
                ("is told much", Page(rpc=True), LARGE),
            ),
            2,
        ):
            left = asyncio.Event()
            agent.on("participant_disconnected", lambda _, left=left: left.set())
            await page.join(url, pages)
            if text:
                await page.told()
                page.done.clear()
                page.ways.clear()
                reply(frontend, turn, text)
            told[kind] = await page.told()
            await page.room.disconnect()
            await asyncio.wait_for(left.wait(), SECONDS_MAX)
    await agent.disconnect()
    return told


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))  # noqa: T201
