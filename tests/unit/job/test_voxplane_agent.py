"""The agent in real LiveKit sessions: speech, tools and models that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from livekit import rtc
from livekit.agents import (
    AgentSession,
    APIConnectOptions,
    UserStateChangedEvent,
    function_tool,
    llm,
)
from livekit.agents.voice.events import UserState
from livekit.agents.voice.io import AudioOutput, AudioOutputCapabilities

from agent_node.job.agent import VoxplaneAgent
from agent_node.job.live import LiveHost, follow, turn_handling_of
from agent_node.job.pipeline import Closer, Pipeline, SharedModel, Words
from agent_node.job.plan import Plan
from agent_node.job.reply_events import ReplyBegan, ReplyDone, ReplyEvent, ReplyFailed
from agent_node.job.session import PipelineBuilder, SessionSwap
from agent_node.job.staging import Builder
from agent_node.job.targets import Target
from agent_node.job.userdata import SessionData
from agent_node.providers import new_context
from agent_node.providers.offline import OfflineTTS
from tests.unit.job.job_world import SPOKEN_FIELDS, caller, delivery, offline_config
from tests.virtual_clock import VirtualClock
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig, TurnConfig
from voxplane.v1.config_sync_service_pb2 import BundleStatus

SECONDS_MAX = 20.0
HANDOFF_SECONDS = 2.0


class Ear(AudioOutput):
    """Takes the speech, and has played it as soon as it is all there."""

    def __init__(self) -> None:
        super().__init__(label="ear", capabilities=AudioOutputCapabilities(pause=False))
        self.seconds = 0.0

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        """Hear a frame."""
        await super().capture_frame(frame)
        self.seconds += frame.duration

    def flush(self) -> None:
        """All frames of a piece of speech have come."""
        super().flush()
        self.on_playback_finished(playback_position=self.seconds, interrupted=False)

    def clear_buffer(self) -> None:
        """Nothing is kept."""


class ScriptedLLM(llm.LLM[Any]):
    """Calls a tool first if it is told to, then answers with its name; raises
    what it is given to raise."""

    def __init__(self, name: str, *, tool: bool = False, error: Exception | None = None) -> None:
        super().__init__()
        self.name = name
        self.tool = tool
        self.error = error
        self.closed = 0

    def chat(
        self, *, chat_ctx: llm.ChatContext, conn_options: APIConnectOptions, **more: Any
    ) -> llm.LLMStream:
        """The next step of the script."""
        return _Stream(self, chat_ctx=chat_ctx, tools=more.get("tools") or [], conn_options=conn_options)

    async def aclose(self) -> None:
        """Count it."""
        self.closed += 1


class _Stream(llm.LLMStream):
    async def _run(self) -> None:
        model = self._llm
        assert isinstance(model, ScriptedLLM)
        if model.error is not None:
            raise model.error
        answered = any(item.type == "function_call_output" for item in self._chat_ctx.items[-1:])
        if model.tool and not answered:
            call = llm.FunctionToolCall(name="look_up", arguments="{}", call_id="call-1")
            delta = llm.ChoiceDelta(role="assistant", tool_calls=[call])
        else:
            delta = llm.ChoiceDelta(role="assistant", content=f"I am {model.name}.")
        self._event_ch.send_nowait(llm.ChatChunk(id="scripted", delta=delta))


class ScriptedBuilder:
    """Builds pipelines of scripted models; a config's instructions name them."""

    def __init__(self, models: dict[str, ScriptedLLM]) -> None:
        self._models = models
        self._closer = Closer()

    async def build(self, target: Target, plan: Plan, running: Pipeline | None) -> Pipeline:
        """See staging.Builder."""
        name = target.config.prompt_config.instructions
        return Pipeline(target, Words(name), SharedModel[Any](self._models[name], self._closer).hold())

    async def aclose(self) -> None:
        """See staging.Builder."""
        await self._closer.aclose()


class Control:
    """A session that does nothing of what it is told."""

    def end(self, *, now: bool, reason: str) -> None:
        """See SessionControl."""

    def transfer(self, agent_id: str) -> None:
        """See SessionControl."""

    def score(self, name: str, value: float) -> None:
        """See SessionControl."""


class LookingUp(VoxplaneAgent):
    """An agent with a tool."""

    in_tool: Callable[[], Any] = staticmethod(lambda: None)

    @function_tool
    async def look_up(self) -> str:
        """Look something up."""
        await self.in_tool()
        return "found"


@dataclass
class Call:
    """A session that runs, what its replies brought, and what was reported."""

    session: AgentSession[SessionData]
    agent: LookingUp
    swap: SessionSwap
    host: LiveHost
    ear: Ear
    replies: list[ReplyEvent] = field(default_factory=list[ReplyEvent])
    reports: list[BundleStatus] = field(default_factory=list[BundleStatus])
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def reported(self, revision: int, phase: sync_pb2.ConfigPhase) -> None:
        """Wait until a bundle has come so far."""
        async with asyncio.timeout(SECONDS_MAX):
            while not any(r.revision == revision and r.phase == phase for r in self.reports):
                self.news.clear()
                await self.news.wait()

    async def say(self, text: str) -> str:
        """One turn; what the agent said."""
        handle = self.session.generate_reply(user_input=text)
        await asyncio.wait_for(handle.wait_for_playout(), SECONDS_MAX)
        said = [item for item in handle.chat_items if isinstance(item, llm.ChatMessage)]
        return " ".join(item.text_content or "" for item in said)


@asynccontextmanager
async def call(
    config: AgentConfig,
    builder: PipelineBuilder | None = None,
    kind: type[LookingUp] = LookingUp,
    on_stuck: Callable[[], None] = lambda: None,
) -> AsyncIterator[Call]:
    """A session with a mouth, that has started with the config at revision 1."""
    reports: list[BundleStatus] = []
    replies: list[ReplyEvent] = []
    news = asyncio.Event()

    def report(status: BundleStatus) -> None:
        reports.append(status)
        news.set()

    swap = SessionSwap(caller(), builder or Builder(caller(), new_context()), VirtualClock(), report=report)
    swap.deliver(delivery(1, config))
    pipeline = await swap.first()
    session = AgentSession[SessionData](
        vad=None,
        turn_handling=turn_handling_of(TurnConfig(), None),
        userdata=SessionData(caller(), Control()),
    )
    ear = session.output.audio = Ear()
    agent = kind(pipeline, replies.append)
    await session.start(agent, record=False)
    host = follow(session, agent, swap, on_stuck=on_stuck, handoff_seconds=HANDOFF_SECONDS)
    try:
        yield Call(session, agent, swap, host, ear, replies, reports, news)
    finally:
        await session.aclose()
        await swap.aclose()


async def test_all_steps_of_a_reply_are_made_by_one_revision() -> None:
    """A change that comes between the tool call and the answer waits for the
    answer; the replaced model is closed after it, once."""
    models = {"one": ScriptedLLM("one", tool=True), "two": ScriptedLLM("two")}
    async with call(offline_config("one"), ScriptedBuilder(models)) as run:

        async def change() -> None:
            run.swap.deliver(delivery(2, offline_config("two")))
            await run.reported(2, sync_pb2.CONFIG_PHASE_APPLYING)

        run.agent.in_tool = change
        assert await run.say("Hello?") == "I am one."
        await run.reported(2, sync_pb2.CONFIG_PHASE_APPLIED)
        made_by = [each.target.bundle.revision for each in run.replies if isinstance(each, ReplyDone)]
        assert set(made_by) == {1}
        assert await run.say("And now?") == "I am two."
        assert models["one"].closed == 1
        assert models["two"].closed == 0
    assert models["two"].closed == 1


async def test_another_agent_takes_over_with_the_history() -> None:
    """After a transfer the other agent answers in the same session, knows what
    was said before, and the first one's model is closed; it changes like any."""
    models = {name: ScriptedLLM(name) for name in ("one", "two", "three")}
    async with call(offline_config("one"), ScriptedBuilder(models)) as run:
        assert await run.say("Hello?") == "I am one."
        run.swap.deliver(delivery(7, offline_config("two"), agent="sales"))
        await run.reported(7, sync_pb2.CONFIG_PHASE_APPLIED)
        await run.host.settled()
        assert await run.say("And you?") == "I am two."
        messages = run.session.current_agent.chat_ctx.messages()
        said = [item.text_content for item in messages if item.role != "system"]
        assert said == ["Hello?", "I am one.", "And you?", "I am two."]
        assert (models["one"].closed, models["two"].closed) == (1, 0)
        run.swap.deliver(delivery(8, offline_config("three"), agent="sales"))
        await run.reported(8, sync_pb2.CONFIG_PHASE_APPLIED)
        assert await run.say("And now?") == "I am three."


async def test_a_new_recogniser_waits_for_the_answer_to_the_last_words() -> None:
    """The end of speech is no boundary for what hears it: the transcript may not
    be there yet, and is answered by the config that heard it."""
    models = {name: ScriptedLLM(name) for name in ("one", "two")}
    async with call(offline_config("one"), ScriptedBuilder(models)) as run:
        user_state(run, "listening", "speaking")
        run.swap.deliver(delivery(2, offline_config("two", stt_config={"provider": "deepgram"})))
        await run.reported(2, sync_pb2.CONFIG_PHASE_APPLYING)
        user_state(run, "speaking", "listening")
        assert run.reports[-1].phase == sync_pb2.CONFIG_PHASE_APPLYING
        answer = run.session.generate_reply(user_input="Hello?", input_modality="audio")
        await run.reported(2, sync_pb2.CONFIG_PHASE_APPLIED)
        assert [item.text_content for item in answer.chat_items if item.type == "message"][-1] == "I am one."


def user_state(run: Call, before: UserState, now: UserState) -> None:
    """The user begins or ceases to speak."""
    run.session.emit("user_state_changed", UserStateChangedEvent(old_state=before, new_state=now))


async def test_a_successor_that_does_not_take_the_history_has_the_session_all_the_same() -> None:
    """Changes go on, and the next words are not waited for for ever."""
    models = {name: ScriptedLLM(name) for name in ("one", "two", "three")}

    class Forgetful(LookingUp):
        async def update_chat_ctx(
            self, chat_ctx: llm.ChatContext, *, exclude_invalid_function_calls: bool = True
        ) -> None:
            raise llm.RealtimeError("update_chat_ctx timed out.")

    async with call(offline_config("one"), ScriptedBuilder(models), Forgetful) as run:
        assert await run.say("Hello?") == "I am one."
        run.swap.deliver(delivery(7, offline_config("two"), agent="sales"))
        await run.reported(7, sync_pb2.CONFIG_PHASE_APPLIED)
        async with asyncio.timeout(SECONDS_MAX):
            await run.host.settled()
        assert await run.say("And you?") == "I am two."
        run.swap.deliver(delivery(8, offline_config("three"), agent="sales"))
        await run.reported(8, sync_pb2.CONFIG_PHASE_APPLIED)


async def test_an_agent_that_does_not_begin_is_told() -> None:
    """A session whose next agent cannot start would be silent for ever."""
    stuck = asyncio.Event()

    class Cold(ScriptedLLM):
        def prewarm(self, *arguments: Any) -> None:
            raise ConnectionError("there is no way")

    models = {"one": ScriptedLLM("one"), "two": Cold("two")}
    async with call(offline_config("one"), ScriptedBuilder(models), on_stuck=stuck.set) as run:
        run.swap.deliver(delivery(7, offline_config("two"), agent="sales"))
        await run.reported(7, sync_pb2.CONFIG_PHASE_APPLIED)
        await asyncio.wait_for(stuck.wait(), SECONDS_MAX)


async def test_the_voice_changes_between_replies() -> None:
    """A new voice speaks the next reply; the language model is kept, the old
    voice closed."""
    config = offline_config("mark-1", tts_config={"provider": "offline", "voice": "low"})
    async with call(config) as run:
        await run.say("Hello?")
        heard = run.ear.seconds
        assert heard > 0
        first = run.agent.pipeline
        run.swap.deliver(
            delivery(2, offline_config("mark-1", tts_config={"provider": "offline", "voice": "high"}))
        )
        await run.reported(2, sync_pb2.CONFIG_PHASE_APPLIED)
        await run.say("And now?")
        assert run.ear.seconds > heard
        second = run.agent.pipeline
        assert second.llm is first.llm
        assert isinstance(run.agent.tts, OfflineTTS)
        assert run.agent.tts.voice == "high"


async def test_a_field_steers_the_speech_of_its_own_reply() -> None:
    """The value of instruction_field is in force before the reply is spoken, and
    the field is neither spoken nor part of the history."""
    schema = {
        "fields": [
            *SPOKEN_FIELDS["fields"],
            {"field_name": "voice_instructions", "field_type": "string", "required": True},
        ]
    }
    tts = {"provider": "offline", "instruction_field": "voice_instructions", "instructions": "Plainly."}
    async with call(offline_config("mark-1", schema_config=schema, tts_config=tts)) as run:
        voice = run.agent.tts
        assert isinstance(voice, OfflineTTS)
        said = await run.say("Hello?")
        assert voice.instructions == "Speak calmly and clearly, at an even pace."
        assert "calmly" not in said
        assert run.ear.seconds > 0


async def test_what_no_field_steers_is_spoken_as_the_config_says() -> None:
    """A field steers its own reply alone: neither a text that is said after it,
    nor the replies of a config that has no such field any more."""
    fields = [
        *SPOKEN_FIELDS["fields"],
        {"field_name": "voice_instructions", "field_type": "string", "required": True},
    ]
    tts = {"provider": "offline", "instructions": "Plainly."}
    steered = {**tts, "instruction_field": "voice_instructions"}
    schema = {"schema_config": {"fields": fields}}
    async with call(offline_config("mark-1", **schema, tts_config=steered)) as run:
        voice = run.agent.tts
        assert isinstance(voice, OfflineTTS)
        await run.say("Hello?")
        assert voice.instructions != "Plainly."
        await asyncio.wait_for(run.session.say("Goodbye.").wait_for_playout(), SECONDS_MAX)
        assert voice.instructions == "Plainly."

        await run.say("Hello?")
        assert voice.instructions != "Plainly."
        run.swap.deliver(delivery(2, offline_config("mark-1", **schema, tts_config=tts)))
        await run.reported(2, sync_pb2.CONFIG_PHASE_APPLIED)
        await run.say("And now?")
        assert run.agent.tts is voice
        assert voice.instructions == "Plainly."


async def test_a_model_that_fails_does_not_end_the_session() -> None:
    """The reply fails with an error that quotes nothing; after a change of the
    model the session answers."""
    models = {
        "one": ScriptedLLM("one", error=ValueError("the key sk-123 is wrong")),
        "two": ScriptedLLM("two"),
    }
    async with call(offline_config("one"), ScriptedBuilder(models)) as run:
        assert await run.say("Hello?") == ""
        began, failed = run.replies
        assert isinstance(began, ReplyBegan)
        assert isinstance(failed, ReplyFailed)
        assert failed.error.message == "the language model failed (ValueError)"
        run.swap.deliver(delivery(2, offline_config("two")))
        await run.reported(2, sync_pb2.CONFIG_PHASE_APPLIED)
        assert await run.say("And now?") == "I am two."


async def test_endpointing_changes_in_the_running_session() -> None:
    """The delays at the end of a turn follow the config."""
    config = offline_config("mark-1")
    async with call(config) as run:
        changed = offline_config("mark-1", turn_config={"min_endpointing_delay": "0.2s"})
        run.swap.deliver(delivery(2, changed))
        await run.reported(2, sync_pb2.CONFIG_PHASE_APPLIED)
        assert run.session.options.endpointing["min_delay"] == 0.2
