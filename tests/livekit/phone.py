"""One participant on the real rtc SDK: a microphone, ears, and all that a frontend is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any

import numpy as np
from livekit import rtc

from tests.livekit.ear import Began, Ear, Heard
from tests.livekit.speech import SAMPLE_RATE

EAR_RATE = 24_000
FRAME_MS = 10
STATS_SECONDS = 0.1
SPEECH_MS_MAX = 30_000
SILENCE_SECONDS_AHEAD = 0.04
TRANSCRIPTION = "lk.transcription"
AGENT_STATE = "lk.agent.state"
ANSWERED = "ok"

Tell = Callable[..., None]
"""tell(kind, **fields): an event of the call."""


class Microphone:
    """Sends frames all the time: speech where there is some, else silence.

    Speech is handed over whole, so that a process that is held up makes no
    pause in it, which would be heard as the end of an utterance.
    """

    def __init__(self) -> None:
        self.source = rtc.AudioSource(SAMPLE_RATE, 1, queue_size_ms=SPEECH_MS_MAX)
        self._speaking = asyncio.Lock()

    async def speak(self, pcm: bytes) -> tuple[float, float]:
        """Say it after what is being said; when its first and last samples were sent."""
        async with self._speaking:
            began = time.monotonic() + self.source.queued_duration
            await self.source.capture_frame(rtc.AudioFrame(pcm, SAMPLE_RATE, 1, len(pcm) // 2))
            await self.source.wait_for_playout()
            return began, time.monotonic()

    async def run(self) -> None:
        """Send until cancelled."""
        samples = SAMPLE_RATE * FRAME_MS // 1000
        silence = rtc.AudioFrame(bytes(samples * 2), SAMPLE_RATE, 1, samples)
        while True:
            async with self._speaking:
                while self.source.queued_duration < SILENCE_SECONDS_AHEAD:
                    await self.source.capture_frame(silence)
            await asyncio.sleep(FRAME_MS / 1000)


class Phone:
    """One call."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._microphone = Microphone()
        self._tasks: set[asyncio.Task[None]] = set()
        self._rpcs = 0
        self._rpc_delay = 0.0
        self._rpc_error = ""
        self.room = rtc.Room()

    async def join(self, url: str, token: str, methods: list[str], topics: list[str]) -> str:
        """Enter the room and speak into it; the own identity.

        Answers RPCs of `methods`, and reads text streams of `topics`.
        """
        self._listen_to_room()
        for topic in topics:
            self.room.register_text_stream_handler(topic, self._on_text)
        await self.room.connect(url, token)
        for who in self.room.remote_participants.values():
            self._on_participant(who)
        me = self.room.local_participant
        for method in methods:
            me.register_rpc_method(method, self._on_rpc)
        track = rtc.LocalAudioTrack.create_audio_track("microphone", self._microphone.source)
        await me.publish_track(track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE))
        self._keep(self._microphone.run())
        return me.identity

    async def speak(self, pcm: bytes) -> tuple[float, float]:
        """Say it; when that began and ended."""
        return await self._microphone.speak(pcm)

    async def ask(self, to: str, method: str, payload: str) -> str:
        """Call the other's RPC method. Raises rtc.RpcError."""
        me = self.room.local_participant
        return await me.perform_rpc(destination_identity=to, method=method, payload=payload)

    async def write(self, text: str, topic: str) -> None:
        """Send a text stream to all."""
        await self.room.local_participant.send_text(text, topic=topic)

    def answer_rpcs(self, delay: float, error: str) -> None:
        """How RPCs are answered from now on: after seconds, with an error if there is one."""
        self._rpc_delay, self._rpc_error = delay, error

    async def leave(self) -> None:
        """Hang up."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await self.room.disconnect()
        if tasks:
            await asyncio.wait(tasks)

    def _listen_to_room(self) -> None:
        def on(event: str, what: Callable[..., dict[str, Any]]) -> None:
            self.room.on(event, lambda *about: self._tell(event, **what(*about)))  # pyright: ignore

        self.room.on("participant_connected", self._on_participant)  # pyright: ignore
        on("participant_disconnected", lambda who: {"who": who.identity})
        self.room.on("participant_attributes_changed", self._on_attributes)  # pyright: ignore
        on("connection_state_changed", lambda state: {"state": int(state)})
        on("disconnected", lambda reason: {"reason": int(reason)})
        on("reconnecting", dict)
        on("reconnected", dict)
        on("data_received", lambda packet: {"topic": packet.topic, "text": packet.data.decode()})
        self.room.on("track_subscribed", self._on_track)  # pyright: ignore[reportUnknownMemberType]

    def _on_participant(self, who: rtc.RemoteParticipant) -> None:
        self._tell("participant_connected", who=who.identity)
        self._on_attributes(who.attributes, who)

    def _on_attributes(self, changed: dict[str, str], who: rtc.RemoteParticipant) -> None:
        if state := changed.get(AGENT_STATE):
            self._tell("agent_state", who=who.identity, state=state)

    def _on_track(
        self, track: rtc.Track, publication: rtc.RemoteTrackPublication, who: rtc.RemoteParticipant
    ) -> None:
        self._tell("track_subscribed", who=who.identity, sid=publication.sid)
        if track.kind == rtc.TrackKind.KIND_AUDIO:
            self._keep(self._hear(track, who.identity))

    async def _hear(self, track: rtc.Track, who: str) -> None:
        stream = rtc.AudioStream.from_track(
            track=track, sample_rate=EAR_RATE, num_channels=1, frame_size_ms=FRAME_MS
        )
        ear, losses = Ear(EAR_RATE), Losses(track)
        try:
            async for event in stream:
                now = time.monotonic()
                told = ear.hear(now, np.frombuffer(event.frame.data, dtype=np.int16))
                if ear.speaking:
                    losses.look(now)
                self._tell_heard(told, who, losses)
            self._tell_heard(ear.end(), who, losses)
        finally:
            await stream.aclose()

    def _tell_heard(self, told: list[Began | Heard], who: str, losses: Losses) -> None:
        for each in told:
            if isinstance(each, Began):
                losses.begin()
                self._tell("speech_began", who=who)
            else:
                self._tell("speech_heard", who=who, **asdict(each), **losses.since_began())

    def _on_text(self, reader: rtc.TextStreamReader, who: str) -> None:
        self._keep(self._read(reader, who))

    async def _read(self, reader: rtc.TextStreamReader, who: str) -> None:
        began = time.monotonic()
        try:
            text = await reader.read_all()
        except rtc.StreamError as error:
            self._tell("text_broken", who=who, topic=reader.info.topic, error=str(error))
            return
        # the attributes are complete when the stream has ended
        told = {"who": who, "text": text, "began": began, "attributes": reader.info.attributes or {}}
        if reader.info.topic != TRANSCRIPTION:
            self._tell("text", topic=reader.info.topic, **told)
            return
        mine = {publication.sid for publication in self.room.local_participant.track_publications.values()}
        attributes = told["attributes"]
        self._tell(
            "transcript",
            speaker="caller" if attributes.get("lk.transcribed_track_id") in mine else "agent",
            final=attributes.get("lk.transcription_final") == "true",
            segment=attributes.get("lk.segment_id", ""),
            **told,
        )

    async def _on_rpc(self, call: rtc.RpcInvocationData) -> str:
        self._rpcs += 1
        about = {"who": call.caller_identity, "method": call.method, "payload": call.payload}
        self._tell("rpc", **about, at_once=self._rpcs)
        try:
            await asyncio.sleep(self._rpc_delay)
        finally:
            self._rpcs -= 1
        if self._rpc_error:
            raise rtc.RpcError(rtc.RpcError.ErrorCode.APPLICATION_ERROR, self._rpc_error)
        return ANSWERED

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._tell("failed", error=repr(error))


class Losses:
    """What a track's receiver had to invent while somebody spoke."""

    def __init__(self, track: rtc.Track) -> None:
        self._track = track
        self._first: tuple[int, int] | None = None
        self._last: tuple[int, int] | None = None
        self._looked = 0.0
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Somebody begins to speak."""
        self._first = self._last = None
        self._looked = 0.0

    def look(self, now: float) -> None:
        """Look at the figures, if it is time to."""
        if now - self._looked < STATS_SECONDS or (self._task is not None and not self._task.done()):
            return
        self._looked = now
        self._task = asyncio.create_task(self._look())

    def since_began(self) -> dict[str, int]:
        """Concealed samples that are not silence, and lost packets."""
        first, last = self._first or (0, 0), self._last or (0, 0)
        return {"concealed_samples": last[0] - first[0], "lost_packets": last[1] - first[1]}

    async def _look(self) -> None:
        for figure in await self._track.get_stats():
            if figure.WhichOneof("stats") != "inbound_rtp":
                continue
            inbound = figure.inbound_rtp
            invented = inbound.inbound.concealed_samples - inbound.inbound.silent_concealed_samples
            seen = (int(invented), int(inbound.received.packets_lost))
            self._first = self._first or seen
            self._last = seen
