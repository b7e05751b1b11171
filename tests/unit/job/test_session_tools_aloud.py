"""The session's own tools in sessions that speak: what was said is heard first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from livekit import rtc
from livekit.agents import Agent, AgentSession, APIConnectOptions, function_tool, llm
from livekit.agents.voice.io import AudioOutput, AudioOutputCapabilities

from agent_node.job.tools import build_tools
from agent_node.job.tools import session_tools as own
from agent_node.job.userdata import SessionData
from agent_node.providers import new_context
from agent_node.providers.offline import OfflineTTS
from tests.unit.job.test_session_tools import Control, config
from tests.unit.job.tool_world import secrets
from voxplane.node.v1.relay_service_pb2 import CallerContext
from voxplane.v1.agent_config_pb2 import AgentConfig

SECONDS_MAX = 20


class Loudspeaker(AudioOutput):
    """Has played a piece of speech when the test says so."""

    def __init__(self, happened: list[str]) -> None:
        super().__init__(label="loudspeaker", capabilities=AudioOutputCapabilities(pause=False))
        self.come = asyncio.Queue[None]()
        self._happened = happened
        self._seconds = 0.0

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        """Take a frame."""
        await super().capture_frame(frame)
        self._seconds += frame.duration

    def flush(self) -> None:
        """All of a piece of speech is there, and not yet heard."""
        super().flush()
        if self._seconds:
            self.come.put_nowait(None)

    def clear_buffer(self) -> None:
        """The caller has interrupted."""
        self.heard(interrupted=True)

    def heard(self, *, interrupted: bool = False) -> None:
        """The caller has heard it."""
        self._happened.append("interrupted" if interrupted else "heard")
        seconds, self._seconds = self._seconds, 0.0
        self.on_playback_finished(playback_position=seconds, interrupted=interrupted)


class Scripted(llm.LLM[Any]):
    """Says and calls what each of its steps has, all in one step."""

    def __init__(self, *steps: tuple[str, Sequence[str]]) -> None:
        super().__init__()
        self.steps = list(steps)
        self.asked = 0

    def chat(
        self, *, chat_ctx: llm.ChatContext, conn_options: APIConnectOptions, **more: Any
    ) -> llm.LLMStream:
        """The next step."""
        return _Stream(self, chat_ctx=chat_ctx, tools=more.get("tools") or [], conn_options=conn_options)


class _Stream(llm.LLMStream):
    async def _run(self) -> None:
        model = self._llm
        assert isinstance(model, Scripted)
        said, tools = model.steps[model.asked]
        model.asked += 1
        calls = [
            llm.FunctionToolCall(name=name, arguments="{}", call_id=f"{name}-{model.asked}") for name in tools
        ]
        delta = llm.ChoiceDelta(role="assistant", content=said or None, tool_calls=calls)
        self._event_ch.send_nowait(llm.ChatChunk(id="scripted", delta=delta))


@function_tool
async def weather() -> str:
    """The weather."""
    return "sunny"


@asynccontextmanager
async def aloud(
    model: Scripted, made: AgentConfig, announcements: dict[str, str], *, voice: bool = True
) -> AsyncIterator[tuple[AgentSession[SessionData], Loudspeaker, list[str]]]:
    """A session with a loudspeaker."""
    control = Control()
    context = new_context(secrets())
    tools = await build_tools(made, context, announcements=announcements)
    session = AgentSession[SessionData](
        userdata=SessionData(CallerContext(), control),
        vad=None,
        turn_handling={"turn_detection": None},
        user_away_timeout=None,
        tts=OfflineTTS(model="hum", voice="low") if voice else None,
    )
    speaker = Loudspeaker(control.happened)
    session.output.audio = speaker
    await session.start(Agent(instructions="", llm=model, tools=[*tools.tools, weather]), record=False)
    try:
        async with asyncio.timeout(SECONDS_MAX):
            yield session, speaker, control.happened
    finally:
        await session.aclose()
        await tools.aclose()
        await context.aclose()


async def test_what_was_said_is_heard_before_the_session_ends() -> None:
    """The words that came with the call are played to their end first, and two
    tools in one step do not make the model speak again."""
    model = Scripted(("Goodbye.", ["weather", "end_session"]))
    async with aloud(model, config(can_end=True), {}) as (session, speaker, happened):
        turn = session.generate_reply(user_input="Bye.")
        await speaker.come.get()
        assert happened == []
        speaker.heard()
        await turn
        assert happened == ["heard", "end: "]
    assert model.asked == 1


async def test_the_announcement_is_heard_before_the_transfer() -> None:
    """First the model's words, then the announcement, then the other agent."""
    model = Scripted(("Of course.", ["transfer_to_sales"]))
    announced = {"sales": "One moment."}
    async with aloud(model, config("sales"), announced) as (session, speaker, happened):
        turn = session.generate_reply(user_input="Sales, please.")
        for before in ([], ["heard"]):
            await speaker.come.get()
            assert happened == before
            speaker.heard()
        await turn
        assert happened == ["heard", "heard", "transfer: sales"]
        said = [each.text_content for each in session.history.items if each.type == "message"]
        assert said == ["Sales, please.", "Of course.", "One moment."]
    assert model.asked == 1


async def test_a_caller_who_interrupts_the_announcement_is_handed_on() -> None:
    """The announcement is cut, the transfer is not."""
    model = Scripted(("", ["transfer_to_sales"]))
    async with aloud(model, config("sales"), {"sales": "One moment."}) as (session, speaker, happened):
        turn = session.generate_reply(user_input="Sales, please.")
        await speaker.come.get()
        announcement = session.current_speech
        assert announcement is not None
        announcement.interrupt()
        await turn
        assert happened == ["interrupted", "transfer: sales"]


async def test_without_a_voice_the_announcement_is_left_out() -> None:
    """A session that cannot say it hands on all the same."""
    model = Scripted(("", ["transfer_to_sales"]))
    async with aloud(model, config("sales"), {"sales": "One moment."}, voice=False) as (session, _, happened):
        await session.generate_reply(user_input="Sales, please.")
        assert happened == ["transfer: sales"]


async def test_speech_that_never_ends_does_not_hold_a_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loudspeaker that never reports is waited for to a bound."""
    monkeypatch.setattr(own, "SPEECH_SECONDS_MAX", 0.05)
    model = Scripted(("", ["transfer_to_sales"]))
    async with aloud(model, config("sales"), {"sales": "One moment."}) as (session, speaker, happened):
        turn = session.generate_reply(user_input="Sales, please.")
        await speaker.come.get()
        await turn
        assert happened == ["transfer: sales"]
        speaker.heard()
