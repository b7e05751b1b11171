"""A session by text: a real LiveKit session without a room and without audio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

import structlog
from google.protobuf import json_format, struct_pb2
from livekit.agents import AgentSession
from livekit.agents.voice.agent_session import SessionConnectOptions
from livekit.agents.voice.io import TextOutput
from livekit.agents.voice.speech_handle import SpeechHandle

from agent_node.job.agent import VoxplaneAgent
from agent_node.job.conversation import NOT_TRANSFERRED, Conversation
from agent_node.job.life import Ending
from agent_node.job.link import NodeLink
from agent_node.job.live import LiveHost, Session, follow, turn_handling_of
from agent_node.job.outbox import Outbox
from agent_node.job.outcomes import Outcome, notice_of
from agent_node.job.pipeline import Pipeline
from agent_node.job.reply_events import ReplyDone, ReplyEvent, ReplyFailed, ReplyField
from agent_node.job.session import PipelineBuilder
from agent_node.job.targets import Target
from agent_node.job.tracing import Tracing
from agent_node.job.turn_listener import TurnListener
from agent_node.providers import Availability
from voxplane.clock import Clock
from voxplane.node.v1.relay_service_pb2 import (
    BundleDelivery,
    CallerContext,
    ChatField,
    ChatOpened,
    ChatResponse,
    ChatTurn,
    FollowRefused,
)
from voxplane.v1 import session_pb2
from voxplane.v1.session_service_pb2 import SessionCommand

# a model that fails is a matter of the config, which may be changed: the session stays
MODEL_ERRORS_MAX = 1_000_000
GOODBYE_SECONDS_MAX = 15.0
"""For the reply in flight and the goodbye."""
TURN = "the turn"

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class _Screen(TextOutput):
    """Where LiveKit puts what the agent says."""

    def __init__(self, show: Callable[[str], None], outbox: Outbox[ChatResponse]) -> None:
        super().__init__(label="text session", next_in_chain=None)
        self._show = show
        self._outbox = outbox

    async def capture_text(self, text: str) -> None:
        await self._outbox.room()
        self._show(str(text))

    def flush(self) -> None:
        pass


@dataclass(slots=True)
class _Turn:
    """One message of the user and the reply to it."""

    began: float
    target: Target
    number: int = 0
    made_by: Target | None = None
    first_text: float | None = None
    text: list[str] = field(default_factory=list[str])
    fields: struct_pb2.Struct = field(default_factory=struct_pb2.Struct)


class TextSession:
    """One session; what happens in it goes to `outbox`, and what the node is to
    know to `link`. `tracing` is None where nothing can be traced."""

    def __init__(
        self,
        caller: CallerContext,
        builder: PipelineBuilder,
        clock: Clock,
        *,
        outbox: Outbox[ChatResponse],
        link: NodeLink,
        on_target: Callable[[Target], None] = lambda target: None,
        tracing: Tracing | None = None,
        node_id: str = "",
    ) -> None:
        self._caller = caller
        self._clock = clock
        self._outbox = outbox
        self._link = link
        self._conversation = Conversation(
            caller,
            session_pb2.SESSION_KIND_TEXT,
            builder,
            clock,
            link=link,
            end=self._end,
            kept=self._on_kept,
            notice=self._on_outcome,
            on_target=on_target,
            tracing=tracing,
            node_id=node_id,
        )
        self._swap = self._conversation.swap
        self._ending: Ending | None = None
        self._ended = asyncio.Event()
        self._session: Session | None = None
        self._listener: TurnListener | None = None
        self._host: LiveHost | None = None
        self._turn: _Turn | None = None
        self._talking = asyncio.Lock()
        self._speaking: set[asyncio.Task[None]] = set()

    @property
    def session(self) -> Session:
        """The LiveKit session, once `start` has returned."""
        assert self._session is not None
        return self._session

    def deliver(self, delivery: BundleDelivery) -> None:
        """The bundle is there, or has changed."""
        self._conversation.deliver(delivery)

    def command(self, command: SessionCommand) -> None:
        """Do what the control plane asks. Never raises."""
        self._conversation.command(command)

    async def until_ended(self) -> None:
        """Until the session is to end, and its goodbye is said."""
        await self._ended.wait()

    async def start(self) -> None:
        """Open the session with the first bundle that is delivered.

        Raises VoxplaneError if it cannot be used.
        """
        pipeline = await self._swap.first()
        session: Session = AgentSession(
            vad=None,
            turn_handling=turn_handling_of(pipeline.target.config.turn_config, None),
            user_away_timeout=None,
            userdata=self._conversation.data,
            conn_options=SessionConnectOptions(max_unrecoverable_errors=MODEL_ERRORS_MAX),
        )
        session.output.transcription = _Screen(self._show_text, self._outbox)
        agent = VoxplaneAgent(pipeline, self._on_reply, voice=False)
        self._conversation.prepare(pipeline.target)
        self._listener = self._conversation.listen(session, pipeline.target, lambda source, message: None)
        await session.start(agent, record=False)  # pyright: ignore[reportUnknownMemberType]
        self._session = session
        target = pipeline.target
        opened = ChatOpened(
            session_id=self._caller.session_id,
            version=target.version,
            version_label=target.config.version,
            revision=target.bundle.revision,
        )
        self._outbox.put(ChatResponse(opened=opened))
        self._conversation.began(session, target)
        self._host = follow(
            session,
            agent,
            self._swap,
            on_transfer=self._on_transfer,
            on_stuck=self._conversation.stuck,
        )
        await self._introduce(pipeline)

    async def take(self, text: str) -> None:
        """One turn: what the user wrote, and the reply to its end. It waits
        while the outbox is full: who does not read is not answered."""
        await self._outbox.room()
        self._conversation.heard()
        await self._say(lambda: self.session.generate_reply(user_input=text, input_modality="text"))

    async def aclose(self) -> None:
        """End the session and close its models."""
        ending = self._ending or Ending(session_pb2.SESSION_OUTCOME_CALLER_LEFT)
        self._conversation.record.end(ending.outcome, ending.reason)
        for task in self._speaking:
            task.cancel()
        if self._session is not None:
            await self._session.aclose()
        if self._listener is not None:
            self._listener.close()
        await self._conversation.aclose()

    async def _introduce(self, pipeline: Pipeline, *, anyhow: bool = False) -> None:
        """The first words of an agent, if it has some; `anyhow` it speaks first."""
        words = pipeline.words
        if words.greeting:
            await self._say(lambda: self.session.say(words.greeting))
        elif words.greeting_instructions:
            await self._say(lambda: self.session.generate_reply(instructions=words.greeting_instructions))
        elif anyhow:
            await self._say(self.session.generate_reply)

    def _on_transfer(self, pipeline: Pipeline) -> None:
        if self._ending is None:
            self._soon(self._introduce(pipeline, anyhow=True))

    def _on_kept(self, agent_id: str) -> None:
        if self._ending is None:
            self._soon(self._say(lambda: self.session.generate_reply(instructions=NOT_TRANSFERRED)))

    def availability(self, change: Availability) -> None:
        """A model that has fallbacks has failed, or is back."""
        self._conversation.availability(change)

    def follow_refused(self, refused: FollowRefused) -> None:
        """Another agent cannot take the session over."""
        self._conversation.not_followed(refused.agent_id, refused.error.message)

    def _soon(self, words: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(words)
        self._speaking.add(task)
        task.add_done_callback(self._speaking.discard)

    async def _say(self, speak: Callable[[], SpeechHandle]) -> None:
        """One turn of the agent, to its end."""
        async with self._talking:
            running = self._swap.running
            assert running is not None
            turn = self._turn = _Turn(self._clock.monotonic(), running)
            # until the turn is shown: its own notice must not come before it
            self._swap.reply_began(TURN)
            try:
                if self._host is not None:
                    await self._host.settled()
                handle = speak()
                turn.number = self._conversation.turn_of(handle)
                await handle.wait_for_playout()
                self._show_turn(turn)
            finally:
                self._turn = None
                self._swap.reply_ended(TURN)

    def _end(self, ending: Ending) -> None:
        if self._ending is None:
            self._ending = ending
            self._soon(self._say_goodbye())
        if ending.now:
            self._ended.set()

    async def _say_goodbye(self) -> None:
        """A chat has no reply in flight for long: it is waited for."""
        try:
            async with asyncio.timeout(GOODBYE_SECONDS_MAX):
                agent = self._host.agent if self._host is not None else None
                if agent is not None and (goodbye := agent.pipeline.words.goodbye):
                    await self._say(lambda: self.session.say(goodbye))
                else:
                    async with self._talking:
                        pass
        except TimeoutError:
            _log.warning("the goodbye took too long")
        finally:
            self._ended.set()

    def _on_reply(self, event: ReplyEvent) -> None:
        turn = self._turn
        if self._listener is not None:
            self._listener.reply(event)
        self._conversation.replied(event)
        if turn is None:
            return
        match event:
            case ReplyField(name, value):
                shown = json_format.ParseDict(value, struct_pb2.Value())
                self._outbox.put(ChatResponse(field=ChatField(name=name, value=shown)))
            case ReplyDone(target, fields, problem):
                turn.made_by = turn.made_by or target
                turn.fields = json_format.ParseDict(dict(fields), struct_pb2.Struct())
                if problem is not None:
                    self._outbox.put(ChatResponse(error=problem))
            case ReplyFailed(target, error):
                turn.made_by = turn.made_by or target
                self._outbox.put(ChatResponse(error=error))
            case _:
                pass

    def _show_text(self, text: str) -> None:
        if self._turn is not None:
            self._turn.text.append(text)
            if self._turn.first_text is None:
                self._turn.first_text = self._clock.monotonic()
        self._outbox.put(ChatResponse(text_delta=text))

    def _show_turn(self, turn: _Turn) -> None:
        target = turn.made_by or turn.target
        shown = ChatTurn(
            turn=turn.number,
            version=target.version,
            revision=target.bundle.revision,
            text="".join(turn.text),
            fields=turn.fields,
        )
        if turn.first_text is not None:
            shown.first_token.FromNanoseconds(round((turn.first_text - turn.began) * 1e9))
        shown.total.FromNanoseconds(round((self._clock.monotonic() - turn.began) * 1e9))
        self._outbox.put(ChatResponse(turn=shown))

    def _on_outcome(self, outcome: Outcome) -> None:
        if (notice := notice_of(outcome, self._clock.time())) is not None:
            self._outbox.put(ChatResponse(swap=notice))
