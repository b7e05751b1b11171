"""What a spoken turn took, of the real plugins, and what goes wrong at the vendors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from livekit import rtc
from livekit.agents.metrics import STTMetrics

from agent_node.job.agent import VoxplaneAgent
from agent_node.job.plan import EVERYTHING, Plan
from agent_node.job.staging import Builder
from agent_node.job.targets import target_of
from agent_node.job.turn_listener import listen
from agent_node.job.turns import TurnBook
from agent_node.job.userdata import SessionData
from agent_node.job.voice_session import new_session
from agent_node.providers import SecretResolver, new_context
from tests.e2e.test_vendor_plugins import (
    CHAT,
    SPEECH,
    TURN_SECONDS_MAX,
    Loudspeaker,
    Microphone,
    first_config,
)
from tests.unit.job.job_world import caller, delivery
from tests.unit.job.test_voxplane_agent import Control
from tests.vendors import Vendors
from tests.vendors.recording import Fault
from voxplane.clock import SystemClock
from voxplane.v1 import session_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig


class Call:
    """A voice call without a room, and its turns."""

    def __init__(self, vendors: Vendors) -> None:
        self.vendors = vendors
        keys = {"OPENAI_API_KEY": "o" * 20, "DEEPGRAM_API_KEY": "d" * 20}
        self._builder = Builder(caller(), new_context(SecretResolver(environ=keys)))
        self.told: asyncio.Queue[session_pb2.SessionTurn] = asyncio.Queue()
        self.figures = session_pb2.SessionFigures()
        self.microphone = SlowMicrophone()

    async def start(self, config: AgentConfig) -> None:
        """Open the session at version 1; its microphone is heard by the vendor
        alone, as a VAD does not take a tone for speech."""
        config.turn_config.turn_detection = "stt"
        target, clock = target_of(delivery(1, config)), SystemClock()
        self._pipeline = await self._builder.build(target, Plan(effects={}, rebuild=EVERYTHING), None)
        self.session = new_session(self._pipeline, SessionData(caller(), Control()))
        self.session.input.audio, self.session.output.audio = self.microphone, Speaking()
        turns = self._turns = listen(self.session, TurnBook(target, self._on_turn, clock), clock)
        await self.session.start(VoxplaneAgent(self._pipeline, turns.reply), record=False)

    async def say(self, words: str) -> session_pb2.SessionTurn:
        """The caller speaks; the turn that answers."""
        self.vendors.transcripts.append(words)
        self.microphone.speak()
        return await asyncio.wait_for(self.told.get(), TURN_SECONDS_MAX)

    def hear(self, seconds: float) -> None:
        """The transcriber tells how much it was given, as Deepgram's does after
        every five seconds."""
        assert self._pipeline.stt is not None
        self._pipeline.stt.model.emit("metrics_collected", heard(seconds))

    async def aclose(self) -> None:
        """Hang up."""
        await self.session.aclose()
        self._turns.close()
        self._pipeline.close()
        await self._builder.aclose()

    def _on_turn(self, turn: session_pb2.SessionTurn, figures: session_pb2.SessionFigures) -> None:
        self.figures = figures
        self.told.put_nowait(turn)


class SlowMicrophone(Microphone):
    """A microphone at the pace of speech, without which delays mean nothing."""

    async def __anext__(self) -> rtc.AudioFrame:
        frame = await super().__anext__()
        await asyncio.sleep(frame.duration)
        return frame


class Speaking(Loudspeaker):
    """A loudspeaker that says when it begins."""

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        """Hear a frame."""
        self.on_playback_started(created_at=time.time())
        await super().capture_frame(frame)


def heard(seconds: float) -> STTMetrics:
    """What a plugin tells of the audio that it was given."""
    return STTMetrics(
        label="stt", request_id="r", timestamp=0.0, duration=0.0, audio_duration=seconds, streamed=True
    )


@pytest.fixture
async def call() -> AsyncIterator[Call]:
    """A call; the test starts it."""
    async with Vendors() as vendors:
        made = Call(vendors)
        yield made
        await made.aclose()


async def test_a_spoken_turn_has_all_its_latencies(call: Call) -> None:
    """Each stage of a turn in speech is measured, and what was heard and spoken
    is in the figures."""
    await call.start(first_config(call.vendors))
    turn = await call.say("hello there")
    for name in ("transcription_delay", "end_of_turn_delay", "first_token", "first_speech", "response"):
        assert turn.HasField(name), name
        assert getattr(turn, name).ToNanoseconds() / 1e9 < TURN_SECONDS_MAX
    assert (turn.turn, turn.version, turn.interrupted) == (1, 1, False)
    assert turn.input_tokens > 0
    assert turn.output_tokens > 0
    assert not turn.errors
    assert call.figures.spoken_characters > 0
    assert call.figures.spoken_audio.ToNanoseconds() > 0
    call.hear(4.5)
    await call.say("and again")
    assert call.figures.heard_audio.ToNanoseconds() == 4_500_000_000
    assert call.figures.turns == 2


async def test_what_goes_wrong_at_a_vendor_is_an_error_of_the_turn(call: Call) -> None:
    """A request that fails and is made again is an error by its status; the turn
    is spoken all the same."""
    await call.start(first_config(call.vendors))
    call.vendors.recorder.break_next(CHAT, Fault.ERROR)
    call.vendors.recorder.break_next(SPEECH, Fault.ERROR)
    turn = await call.say("hello there")
    said = {error.source: error.message for error in turn.errors}
    assert set(said) == {"llm", "tts"}
    assert all(message.endswith("(500); tried again") for message in said.values())
    assert turn.HasField("first_speech")
    assert call.figures.errors == len(turn.errors)
    assert not (await call.say("and again")).errors
