"""Turns of real LiveKit sessions, without a room."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from livekit import rtc
from livekit.agents import (
    AgentSession,
    APIConnectionError,
    APIStatusError,
    function_tool,
    llm,
    stt,
    tts,
)
from livekit.agents.voice.agent_session import SessionConnectOptions
from structlog.testing import capture_logs

from agent_node.job.agent import VoxplaneAgent
from agent_node.job.live import turn_handling_of
from agent_node.job.pipeline import Pipeline
from agent_node.job.plan import EVERYTHING, Plan
from agent_node.job.reply_events import ReplyBegan, ReplyCut, ReplyDone, ReplyEvent
from agent_node.job.staging import Builder
from agent_node.job.targets import target_of
from agent_node.job.turn_listener import TurnListener, described, listen, log_turn, source_of
from agent_node.job.turns import TurnBook
from agent_node.job.userdata import SessionData
from agent_node.providers import new_context
from tests.unit.job.job_world import SPOKEN_FIELDS, caller, delivery, offline_config
from tests.unit.job.test_voxplane_agent import SECONDS_MAX, Control, Ear, ScriptedBuilder, ScriptedLLM
from voxplane.clock import SystemClock
from voxplane.v1 import session_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig, TurnConfig


class PlayingEar(Ear):
    """An ear that says when it begins to hear."""

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        """Hear a frame."""
        self.on_playback_started(created_at=time.time())
        await super().capture_frame(frame)


class HeldLLM(ScriptedLLM):
    """Begins to speak, and ends when it may."""

    def __init__(self) -> None:
        super().__init__("held")
        self.may_end = asyncio.Event()
        self.began = asyncio.Event()

    def chat(self, **more: Any) -> llm.LLMStream:
        """One step of the script."""
        return _HeldStream(
            self,
            chat_ctx=more["chat_ctx"],
            tools=more.get("tools") or [],
            conn_options=more["conn_options"],
        )


class _HeldStream(llm.LLMStream):
    async def _run(self) -> None:
        model = self._llm
        assert isinstance(model, HeldLLM)
        delta = llm.ChoiceDelta(role="assistant", content="I am held. ")
        self._event_ch.send_nowait(llm.ChatChunk(id="held", delta=delta))
        model.began.set()
        await model.may_end.wait()
        usage = llm.CompletionUsage(completion_tokens=3, prompt_tokens=9, total_tokens=12)
        self._event_ch.send_nowait(llm.ChatChunk(id="held", usage=usage))


class Acting(VoxplaneAgent):
    """An agent whose tool does what the test wants."""

    in_tool: Callable[[], Any] = staticmethod(lambda: None)

    @function_tool
    async def look_up(self) -> str:
        """Look something up."""
        await self.in_tool()
        return "found"


@dataclass
class Call:
    """A session that runs, and the turns that were told."""

    session: AgentSession[SessionData]
    agent: Acting
    book: TurnBook
    turns: TurnListener
    ear: Ear | None
    told: list[session_pb2.SessionTurn] = field(default_factory=list[session_pb2.SessionTurn])
    figures: list[session_pb2.SessionFigures] = field(default_factory=list[session_pb2.SessionFigures])
    replies: list[tuple[int, ReplyEvent]] = field(default_factory=list[tuple[int, ReplyEvent]])
    problems: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def say(self, text: str) -> session_pb2.SessionTurn:
        """One turn, once it was told."""
        handle = self.session.generate_reply(user_input=text, input_modality="text")
        await asyncio.wait_for(handle.wait_for_playout(), SECONDS_MAX)
        return await self.ended()

    async def ended(self) -> session_pb2.SessionTurn:
        """The newest turn, once all that have begun were told."""
        async with asyncio.timeout(SECONDS_MAX):
            while self.book.newest or not self.told:
                self.news.clear()
                await self.news.wait()
        return self.told[-1]


@asynccontextmanager
async def call(config: AgentConfig, models: dict[str, ScriptedLLM] | None = None) -> AsyncIterator[Call]:
    """A session at version 1; it has a mouth if the config has a voice."""
    target = target_of(delivery(1, config))
    builder = ScriptedBuilder(models) if models else Builder(caller(), new_context())
    pipeline: Pipeline = await builder.build(target, Plan(effects={}, rebuild=EVERYTHING), None)
    session = AgentSession[SessionData](
        vad=None,
        turn_handling=turn_handling_of(TurnConfig(), None),
        userdata=SessionData(caller(), Control()),
        conn_options=SessionConnectOptions(max_unrecoverable_errors=100),
    )
    clock = SystemClock()
    told: list[session_pb2.SessionTurn] = []
    figures: list[session_pb2.SessionFigures] = []
    replies: list[tuple[int, ReplyEvent]] = []
    problems: list[tuple[str, str]] = []
    news = asyncio.Event()

    def tell(turn: session_pb2.SessionTurn, sums: session_pb2.SessionFigures) -> None:
        told.append(turn)
        figures.append(sums)
        news.set()

    book = TurnBook(target, tell, clock)
    turns = listen(session, book, clock, problem=lambda *problem: problems.append(problem))

    def on_reply(event: ReplyEvent) -> None:
        turns.reply(event)
        replies.append((turns.turn, event))

    ear = None
    if pipeline.tts is not None:
        ear = session.output.audio = PlayingEar()
    agent = Acting(pipeline, on_reply, voice=ear is not None)
    await session.start(agent, record=False)
    try:
        yield Call(session, agent, book, turns, ear, told, figures, replies, problems, news)
    finally:
        await session.aclose()
        turns.close()
        pipeline.close()
        await builder.aclose()


async def test_a_spoken_reply_has_what_it_took() -> None:
    """Version, tokens and latencies of a reply, and what was spoken of it, are in
    its turn and in the figures."""
    config = offline_config(schema_config=SPOKEN_FIELDS, tts_config={"provider": "offline"})
    async with call(config) as run:
        turn = await run.say("Hello?")
        assert (turn.turn, turn.agent_id, turn.version, turn.revision) == (1, "support", 1, 1)
        assert all(turn.HasField(name) for name in ("first_token", "first_speech", "response", "start_time"))
        assert not any(turn.HasField(name) for name in ("transcription_delay", "end_of_turn_delay"))
        assert turn.input_tokens > 0
        assert turn.output_tokens > 0
        [figures] = run.figures
        assert (figures.turns, figures.errors, figures.interruptions) == (1, 0, 0)
        assert (figures.input_tokens, figures.output_tokens) == (turn.input_tokens, turn.output_tokens)
        assert run.ear is not None
        assert abs(figures.spoken_audio.ToNanoseconds() / 1e9 - run.ear.seconds) < 0.01
        spoken = [
            item.text_content or "" for item in run.session.history.messages() if item.role == "assistant"
        ]
        assert figures.spoken_characters == len("".join(spoken)) > 0
        await run.say("And now?")
        assert [(each.turn, each.version) for each in run.told] == [(1, 1), (2, 1)]


async def test_a_turn_by_text_has_its_first_text() -> None:
    """Without a voice the response is the first text, and nothing was spoken."""
    async with call(offline_config()) as run:
        turn = await run.say("Hello?")
        assert turn.HasField("first_token")
        assert turn.HasField("response")
        assert not turn.HasField("first_speech")
        assert run.figures[-1].spoken_characters == 0


async def test_a_reply_with_tools_is_one_turn() -> None:
    """Both steps of a reply, the tool between them and what the tool says belong
    where they should: the tool's own speech is a turn of its own."""
    models: dict[str, ScriptedLLM] = {"one": ScriptedLLM("one", tool=True)}
    async with call(offline_config("one"), models) as run:

        async def speak() -> None:
            run.session.say("One moment.")

        run.agent.in_tool = speak
        await run.say("Hello?")
        by_number = {turn.turn: turn for turn in run.told}
        assert list(by_number[1].tools) == ["look_up"]
        assert list(by_number[2].tools) == []
        assert by_number[1].HasField("response")
        assert not by_number[2].HasField("response")
        assert {turn for turn, _ in run.replies} == {1}
        assert sum(isinstance(event, ReplyBegan) for _, event in run.replies) == 2
        assert (run.figures[-1].turns, run.figures[-1].tool_calls) == (2, 1)


async def test_a_tool_that_fails_is_an_error_of_its_turn() -> None:
    """The error names the tool and not what it said."""
    models: dict[str, ScriptedLLM] = {"one": ScriptedLLM("one", tool=True)}
    async with call(offline_config("one"), models) as run:

        async def fail() -> None:
            raise ValueError("secret words")

        run.agent.in_tool = fail
        turn = await run.say("Hello?")
        assert [(each.source, each.message) for each in turn.errors] == [("tool", "look_up failed")]
        assert run.problems == [("tool", "look_up failed")]
        assert run.figures[-1].errors == 1


async def test_a_greeting_is_a_turn() -> None:
    """What is said without a model is of the version in force, and answers
    nobody."""
    config = offline_config(tts_config={"provider": "offline"})
    async with call(config) as run:
        run.session.say("Welcome.")
        turn = await run.ended()
        assert (turn.turn, turn.version, turn.agent_id) == (1, 1, "support")
        assert not turn.HasField("response")
        assert not turn.HasField("first_token")
        assert run.figures[-1].spoken_characters == len("Welcome.")


@pytest.mark.parametrize(("source", "interrupted"), [("user_turn", True), ("programmatic", False)])
async def test_an_interruption_is_the_callers(source: Any, interrupted: bool) -> None:
    """A speech that the caller breaks off is interrupted, one that the session
    ends is not; the end of its reply is told of its own turn, though another
    has begun meanwhile."""
    held = HeldLLM()
    async with call(offline_config("held"), {"held": held}) as run:
        handle = run.session.generate_reply(user_input="Hello?")
        await asyncio.wait_for(held.began.wait(), SECONDS_MAX)
        run.session.say("Something else.")
        handle.interrupt(source=source)
        await asyncio.wait_for(handle.wait_for_playout(), SECONDS_MAX)
        await run.ended()
        assert {turn.turn: turn.interrupted for turn in run.told} == {1: interrupted, 2: False}
        assert run.figures[-1].interruptions == int(interrupted)
        assert [turn for turn, event in run.replies if isinstance(event, ReplyCut)] == [1]


async def test_two_turns_in_hand_are_told_apart() -> None:
    """While a reply waits for its model another is made; tokens and ends are
    each of its own turn."""
    held = HeldLLM()
    async with call(offline_config("held"), {"held": held}) as run:
        first = run.session.generate_reply(user_input="Hello?")
        await asyncio.wait_for(held.began.wait(), SECONDS_MAX)
        second = run.session.generate_reply(user_input="And?")
        held.may_end.set()
        for handle in (first, second):
            await asyncio.wait_for(handle.wait_for_playout(), SECONDS_MAX)
        await run.ended()
        assert [(turn.turn, turn.input_tokens) for turn in run.told] == [(1, 9), (2, 9)]
        done = [turn for turn, event in run.replies if isinstance(event, ReplyDone)]
        assert sorted(done) == [1, 2]


async def test_a_model_that_fails_is_one_error() -> None:
    """A failed reply is told once, by the error's type, though LiveKit tells of
    it too."""
    broken = ScriptedLLM("broken", error=ValueError("secret words"))
    async with call(offline_config("broken"), {"broken": broken}) as run:
        turn = await run.say("Hello?")
        assert [each.source for each in turn.errors] == ["llm"]
        assert "secret" not in turn.errors[0].message
        assert run.figures[-1].errors == 1
        assert turn.version == 1


async def test_a_session_that_ends_tells_its_turns() -> None:
    """A turn that is open when the session is closed is told."""
    held = HeldLLM()
    async with call(offline_config("held"), {"held": held}) as run:
        run.session.generate_reply(user_input="Hello?")
        await asyncio.wait_for(held.began.wait(), SECONDS_MAX)
        assert run.told == []
    [turn] = run.told
    assert not turn.interrupted


async def test_a_line_tells_of_a_turn_but_not_what_was_said() -> None:
    """The line has version, revision and latencies."""
    async with call(offline_config()) as run:
        turn = await run.say("Hello secret words?")
        with capture_logs() as lines:
            log_turn(turn)
        [line] = lines
        assert (line["event"], line["turn"], line["version"], line["revision"]) == ("turn ended", 1, 1, 1)
        assert line["response_ms"] >= 0
        assert "secret" not in str(line)


def _error(kind: Any, error: Exception, *, recoverable: bool) -> Any:
    return kind(timestamp=0.0, label="x", error=error, recoverable=recoverable)


@pytest.mark.parametrize(
    ("error", "source", "said"),
    [
        (
            _error(stt.STTError, APIConnectionError("secret"), recoverable=True),
            "stt",
            "APIConnectionError; tried again",
        ),
        (
            _error(tts.TTSError, APIStatusError("secret", status_code=503), recoverable=False),
            "tts",
            "APIStatusError (503)",
        ),
        (_error(llm.LLMError, ValueError("secret"), recoverable=True), "llm", "ValueError; tried again"),
        (_error(llm.RealtimeModelError, OSError("secret"), recoverable=False), "realtime", "OSError"),
        (RuntimeError("secret"), "session", "RuntimeError"),
    ],
)
def test_errors_are_named_by_their_type(error: Any, source: str, said: str) -> None:
    """An error's text may hold anything, and is left out."""
    assert (source_of(error), described(error)) == (source, said)
