"""`voxplane demo-call`: a caller on LiveKit's rtc SDK, for the tour.

It tells what happens by a line of JSON each, {"event", "at", …}, and takes
lines of JSON: {"write": TEXT} says something, by text, as there is no offline
ear; {"measure": ID} asks what was heard since the last time. It hangs up when
its standard input ends.
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import sys
import time
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Annotated, Any

import typer
from livekit import api, rtc

from agent_node.demo.hearing import Hearing

AGENT_NAME = "voxplane"
SAMPLE_RATE = 24_000
FRAME_MS = 10
CHAT, TRANSCRIPTION = "lk.chat", "lk.transcription"
STATE = "lk.agent.state"


def command(
    url: Annotated[str, typer.Option(help="Address of LiveKit.")],
    room: Annotated[str, typer.Option(help="Name of the room.")],
    metadata: Annotated[str, typer.Option(help="JSON for the dispatch of the agent.")],
    user: Annotated[str, typer.Option(help="Who calls.")],
    fields: Annotated[str, typer.Option(help="RPC method that takes the fields.")] = "voxplane.fields",
) -> None:
    """Call an agent, and tell what is heard.

    LIVEKIT_API_KEY and LIVEKIT_API_SECRET sign the caller's token.
    """
    asyncio.run(_call(fields, url, _token(room, user, metadata)))


async def _call(fields: str, url: str, token: str) -> None:
    # a room belongs to the loop that runs when it is made
    await _Caller(fields).call(url, token)


class _Caller:
    def __init__(self, method: str) -> None:
        self._method = method
        self._room = rtc.Room()
        self._hearing = Hearing(SAMPLE_RATE)
        self._tasks: set[asyncio.Task[None]] = set()

    async def call(self, url: str, token: str) -> None:
        """Join, do as the standard input says, and leave with its end."""
        _tell("dialled")
        self._listen()
        await self._room.connect(url, token)
        self._room.local_participant.register_rpc_method(self._method, self._on_fields)
        _tell("joined")
        for who in self._room.remote_participants.values():
            self._on_joined(who)
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            await self._do(json.loads(line))
        for task in self._tasks:
            task.cancel()
        await self._room.disconnect()

    async def _do(self, asked: dict[str, Any]) -> None:
        if "write" in asked:
            await self._room.local_participant.send_text(asked["write"], topic=CHAT)
        elif "measure" in asked:
            heard = self._hearing.heard
            _tell("measured", measure=asked["measure"], heard=asdict(heard) if heard else None)
            self._hearing.measure_anew()

    def _listen(self) -> None:
        room: Any = self._room  # its events are not typed
        room.on("participant_connected", self._on_joined)
        room.on("participant_attributes_changed", self._on_attributes)
        room.on("participant_disconnected", self._on_left)
        room.on("disconnected", self._on_disconnected)
        room.on("track_subscribed", self._on_track)
        self._room.register_text_stream_handler(
            TRANSCRIPTION, lambda reader, who: self._keep(self._read(reader, who))
        )

    def _on_joined(self, who: rtc.RemoteParticipant) -> None:
        # one who joins with a state does not change it
        self._on_attributes(who.attributes, who)

    def _on_attributes(self, changed: dict[str, str], who: rtc.Participant) -> None:
        if STATE in changed:
            _tell("agent", state=changed[STATE], who=who.identity)

    def _on_left(self, who: rtc.RemoteParticipant) -> None:
        _tell("left", who=who.identity)

    def _on_disconnected(self, reason: int) -> None:
        _tell("disconnected", reason=int(reason))

    def _on_track(self, track: rtc.Track, *_: object) -> None:
        if track.kind == rtc.TrackKind.KIND_AUDIO:
            self._keep(self._hear(track))

    async def _on_fields(self, data: rtc.RpcInvocationData) -> str:
        _tell("fields", payload=json.loads(data.payload))
        return ""

    async def _read(self, reader: rtc.TextStreamReader, who: str) -> None:
        text = ""
        async for piece in reader:
            text += piece
            _tell("words", who=who, text=text)

    async def _hear(self, track: rtc.Track) -> None:
        stream = rtc.AudioStream.from_track(
            track=track, sample_rate=SAMPLE_RATE, num_channels=1, frame_size_ms=FRAME_MS
        )
        try:
            async for event in stream:
                changed = self._hearing.hear(time.monotonic(), array.array("h", bytes(event.frame.data)))
                if changed is not None:
                    _tell("speech", begins=changed)
        finally:
            await stream.aclose()

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _token(room: str, user: str, metadata: str) -> str:
    """The caller's ticket to the room, which sends the agent there too."""
    dispatch = api.RoomAgentDispatch(agent_name=AGENT_NAME, metadata=metadata)
    token = api.AccessToken(os.environ["LIVEKIT_API_KEY"], os.environ["LIVEKIT_API_SECRET"])
    token = token.with_identity(user).with_grants(api.VideoGrants(room_join=True, room=room))
    return token.with_room_config(api.RoomConfiguration(agents=[dispatch])).to_jwt()


def _tell(event: str, **about: object) -> None:
    sys.stdout.write(json.dumps({"event": event, "at": time.monotonic()} | about, ensure_ascii=False) + "\n")
    sys.stdout.flush()
