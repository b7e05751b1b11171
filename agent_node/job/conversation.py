"""What a session is to its node, by voice or by text: it follows its agent's
bundle, is recorded, traced, commanded and limited, and can be taken over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from livekit.agents import AgentStateChangedEvent, UserInputTranscribedEvent, UserStateChangedEvent
from livekit.agents.llm import ChatContext, ChatItem
from livekit.agents.voice.speech_handle import SpeechHandle

from agent_node.job.commands import Commands
from agent_node.job.life import Ending, Life
from agent_node.job.link import NodeLink
from agent_node.job.live import Session
from agent_node.job.memory import Memory, recalled
from agent_node.job.outcomes import Outcome
from agent_node.job.process_memory import proportional_bytes
from agent_node.job.record import SessionRecord
from agent_node.job.reply_events import ReplyDone, ReplyEvent, ReplyFailed
from agent_node.job.reporting import Reporting
from agent_node.job.session import PipelineBuilder, SessionSwap
from agent_node.job.swap import Applied, Refused
from agent_node.job.targets import Target
from agent_node.job.tracing import Tracing
from agent_node.job.turn_listener import LLM, TurnListener, listen, log_turn
from agent_node.job.turns import TurnBook
from agent_node.job.userdata import SessionData
from agent_node.logs import bind_session
from agent_node.providers import Availability
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError
from voxplane.names import split_agent_name
from voxplane.node.v1.relay_service_pb2 import BundleDelivery, CallerContext, SessionLegacy
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1 import session_pb2
from voxplane.v1.bundle_pb2 import VersionContent
from voxplane.v1.session_service_pb2 import SessionCommand

LOOK_SECONDS_MAX = 3600.0
MEMORY_SECONDS = 15.0
"""Between two looks at the memory of the process."""
TRANSFER = "session"
NOT_TRANSFERRED = (
    "Tell the caller that the transfer is not possible just now, and go on with the conversation."
)
_WORKING = ("thinking", "speaking")

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


def log_target(target: Target) -> None:
    """Say on every log line of the process by what the session runs."""
    agent_id = split_agent_name(target.bundle.name)[1]
    bind_session(agent=agent_id, version=target.version, revision=target.bundle.revision)


class Conversation:
    """One session. `end` is called, perhaps more than once, when it has to end;
    `kept` with the agent that could not take the session over, as it was to;
    `notice` with what became of a bundle, `on_target` with what makes the next
    turn. `tracing` is None where nothing can be traced. `aclose` it after
    LiveKit's session."""

    def __init__(
        self,
        caller: CallerContext,
        kind: session_pb2.SessionKind,
        builder: PipelineBuilder,
        clock: Clock,
        *,
        link: NodeLink,
        end: Callable[[Ending], None],
        kept: Callable[[str], None],
        notice: Callable[[Outcome], None] = lambda outcome: None,
        on_target: Callable[[Target], None] = lambda target: None,
        tracing: Tracing | None = None,
        node_id: str = "",
        room: str = "",
    ) -> None:
        self.caller = caller
        self.record = SessionRecord(caller, kind, tell=link.tell, clock=clock, node_id=node_id, room=room)
        self.reporting = Reporting(self.record, link, tracing)
        self.swap = SessionSwap(caller, builder, clock, report=link.report, notice=self._on_outcome)
        self.data = SessionData(caller, _Control(self))
        self.turns_before = 0
        self._clock = clock
        self._link = link
        self._end = end
        self._kept = kept
        self._notice = notice
        self._on_target = on_target
        self._commands = Commands(self, link.answer)
        self._life = Life(clock.monotonic())
        self._life_changed = asyncio.Event()
        self._working: tuple[asyncio.Task[None], ...] = ()
        self._memory = Memory()
        self._book: TurnBook | None = None
        self._listener: TurnListener | None = None

    def deliver(self, delivery: BundleDelivery) -> None:
        """The bundle is there, or has changed."""
        self.swap.deliver(delivery)

    def command(self, command: SessionCommand) -> None:
        """Do what the control plane asks. Never raises."""
        self._commands.receive(command)

    def take_over(self, legacy: SessionLegacy, delivery: BundleDelivery) -> list[ChatItem]:
        """Go on where a process that died left the session; what was said so
        far. Call it before `deliver`. A version that it was pinned to and that
        the bundle does not have is left: the session follows its alias."""
        self.record.inherit(legacy.session)
        if legacy.session.HasField("start_time"):
            ago = self._clock.time() - legacy.session.start_time.ToNanoseconds() / 1e9
            self._life = Life(self._clock.monotonic() - max(0.0, ago))
        self.turns_before = max(legacy.memory.turns, legacy.session.figures.turns)
        items = recalled(legacy.memory.items)
        self._memory = Memory(items)
        if pinned := legacy.session.pinned_version:
            if any(version.number == pinned for version in delivery.bundle.versions):
                self.swap.pin(pinned)
            else:
                _log.warning("the pinned version is not there any more", pinned_version=pinned)
                self.record.pinned(0)
        return items

    def prepare(self, target: Target) -> None:
        """The target is about to make the first turn; LiveKit's session has
        not started."""
        self.reporting.trace_by(target)
        self._on_target(target)

    def listen(self, session: Session, target: Target, problem: Callable[[str, str], None]) -> TurnListener:
        """Record the turns of LiveKit's session, which is about to start with
        the target. `problem` gets source and type of what goes wrong beside
        the model's replies."""
        book = self._book = TurnBook(
            target,
            self._on_turn,
            self._clock,
            first_turn=self.turns_before + 1,
            figures=self.record.session.figures,
        )

        def on_problem(source: str, message: str) -> None:
            self._link.count(error=source)
            problem(source, message)

        self._listener = listen(session, book, self._clock, problem=on_problem)
        return self._listener

    def availability(self, change: Availability) -> None:
        """A model that has fallbacks has failed, or is back."""
        model = {
            "kind": change.kind,
            "index": change.index,
            "provider": change.provider,
            "model": change.model,
        }
        if change.available:
            _log.info("a model is back", **model)
            return
        _log.warning("a model failed, and the next one takes over", **model)
        self._link.count(error=change.kind)
        if self._listener is not None:
            self._listener.problem(change.kind, f"{change.provider} failed; a fallback takes over")

    def turn_of(self, speech: SpeechHandle) -> int:
        """Number of the turn that a speech, which has just begun, is."""
        assert self._book is not None
        return self._book.number(speech.id)

    def replied(self, event: ReplyEvent) -> None:
        """Count what went wrong in a reply."""
        if isinstance(event, ReplyFailed) or (isinstance(event, ReplyDone) and event.problem is not None):
            self._link.count(error=LLM)

    def began(self, session: Session, target: Target) -> None:
        """LiveKit's session has started with the target."""
        self.record.runs(target)
        self._life.limit(target.config.limits_config)
        self._working = (
            asyncio.create_task(self._watch_life(), name="limits of the session"),
            asyncio.create_task(self._tell_memory(), name="memory of the process"),
        )

        def on_user(event: UserStateChangedEvent) -> None:
            self._life.user(self._clock.monotonic(), speaks=event.new_state == "speaking")
            self._life_changed.set()

        def on_words(_: UserInputTranscribedEvent) -> None:
            self.heard()

        def on_agent(event: AgentStateChangedEvent) -> None:
            self._life.agent(self._clock.monotonic(), works=event.new_state in _WORKING)
            self._life_changed.set()

        def on_item(_: object) -> None:
            self.remember(session.history)

        session.on("user_state_changed", on_user)  # pyright: ignore[reportUnknownMemberType]
        session.on("user_input_transcribed", on_words)  # pyright: ignore[reportUnknownMemberType]
        session.on("agent_state_changed", on_agent)  # pyright: ignore[reportUnknownMemberType]
        session.on("conversation_item_added", on_item)  # pyright: ignore[reportUnknownMemberType]
        session.on("function_tools_executed", on_item)  # pyright: ignore[reportUnknownMemberType]

    def heard(self) -> None:
        """The caller has said or written something."""
        self._life.heard(self._clock.monotonic())
        self._life_changed.set()

    def remember(self, history: ChatContext) -> None:
        """Leave with the node what is new of the conversation."""
        if news := self._memory.news(history):
            self._link.remember(self.turns_before + self.record.turns, *news)

    def end(self, *, now: bool, reason: str) -> None:
        """See Commanded."""
        self._end(Ending(session_pb2.SESSION_OUTCOME_OPERATOR_ENDED, reason, now))

    def end_by_agent(self, *, now: bool, reason: str) -> None:
        """The model ends the session."""
        self._end(Ending(session_pb2.SESSION_OUTCOME_AGENT_ENDED, reason, now))

    def pin(self, version: int | None, content: VersionContent | None) -> None:
        """See Commanded."""
        self.swap.pin(version, content)
        self.record.pinned(version or 0)

    def trace(self, traced: bool) -> None:
        """See Commanded."""
        self.reporting.may_trace(traced)
        # a turn is traced as a whole, or not
        self.swap.between_turns(lambda: self.reporting.trace(traced))

    def follow_agent(self, agent_id: str) -> None:
        """Get the bundle of another agent, which takes the session over at the
        next turn. Raises VoxplaneError if it has the session."""
        running = self.swap.running
        if running is not None and split_agent_name(running.bundle.name)[1] == agent_id:
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_INVALID_REQUEST, f"{agent_id} has the session already"
            )
        self._link.follow(agent_id)

    def not_followed(self, agent_id: str, reason: str) -> None:
        """Another agent cannot take the session over."""
        _log.error("the session keeps its agent", wanted=agent_id, reason=reason)
        self._link.count(error=TRANSFER)
        self._kept(agent_id)

    def stuck(self) -> None:
        """The agent that was to go on has not begun: nobody answers any more."""
        _log.error("the next agent did not begin")
        self._link.count(error=TRANSFER)
        self._end(Ending(session_pb2.SESSION_OUTCOME_FAILED, "the next agent did not begin", now=True))

    async def aclose(self) -> None:
        """The session is over: close what it held, and send what is left of
        its traces."""
        for task in self._working:
            task.cancel()
        await self.swap.aclose()
        await self.reporting.aclose()

    def _on_outcome(self, outcome: Outcome) -> None:
        if isinstance(outcome, Applied):
            self._life.limit(outcome.target.config.limits_config)
            self._life_changed.set()
            if self._book is not None:
                self._book.runs(outcome.target)
            if outcome.before is not None:
                self._on_target(outcome.target)
        self.reporting.outcome(outcome)
        self._notice(outcome)
        if isinstance(outcome, Refused):
            self._refused(outcome)

    def _refused(self, refused: Refused) -> None:
        running = refused.running
        if running is not None and refused.bundle.name != running.bundle.name:
            self._link.follow(split_agent_name(running.bundle.name)[1])
            self.not_followed(split_agent_name(refused.bundle.name)[1], refused.error.reason_name)

    def _on_turn(self, turn: session_pb2.SessionTurn, figures: session_pb2.SessionFigures) -> None:
        self.record.turn(turn, figures)
        log_turn(turn)

    async def _watch_life(self) -> None:
        while (ending := self._life.ending(self._clock.monotonic())) is None:
            self._life_changed.clear()
            left = min(self._life.left(self._clock.monotonic()), LOOK_SECONDS_MAX)
            await self._life_or(left)
        self._end(ending)

    async def _tell_memory(self) -> None:
        while True:
            self._link.count(pss_bytes=await asyncio.to_thread(proportional_bytes))
            await self._clock.sleep(MEMORY_SECONDS)

    async def _life_or(self, seconds: float) -> None:
        """Until the time is over, or the life has changed."""
        waits = (
            asyncio.create_task(self._clock.sleep(seconds)),
            asyncio.create_task(self._life_changed.wait()),
        )
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


class _Control:
    """The conversation as its tools see it."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def end(self, *, now: bool, reason: str) -> None:
        """See SessionControl."""
        self._conversation.end_by_agent(now=now, reason=reason)

    def transfer(self, agent_id: str) -> None:
        """See SessionControl."""
        self._conversation.follow_agent(agent_id)

    def score(self, name: str, value: float) -> None:
        """See SessionControl."""
        self._conversation.record.scored(name, value)
