"""A session by text: a real LiveKit session without a room and without audio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from google.protobuf import json_format, struct_pb2
from livekit.agents import AgentSession
from livekit.agents.voice.agent_session import SessionConnectOptions
from livekit.agents.voice.io import TextOutput

from agent_node.job.agent import ReplyDone, ReplyEvent, ReplyFailed, ReplyField, VoxplaneAgent
from agent_node.job.live import LiveHost, Session, follow, turn_handling_of
from agent_node.job.outbox import Outbox
from agent_node.job.outcomes import Outcome, notice_of
from agent_node.job.session import PipelineBuilder, SessionSwap
from agent_node.job.targets import Target
from voxplane.clock import Clock
from voxplane.node.v1.relay_service_pb2 import (
    BundleDelivery,
    CallerContext,
    ChatField,
    ChatOpened,
    ChatResponse,
    ChatTurn,
)
from voxplane.v1.config_sync_service_pb2 import BundleStatus

# a model that fails is a matter of the config, which may be changed: the session stays
MODEL_ERRORS_MAX = 1_000_000


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

    number: int
    began: float
    target: Target
    made_by: Target | None = None
    first_text: float | None = None
    text: list[str] = field(default_factory=list[str])
    fields: struct_pb2.Struct = field(default_factory=struct_pb2.Struct)


class TextSession:
    """One session; what happens in it goes to `outbox`, reports to `report`."""

    def __init__(
        self,
        caller: CallerContext,
        builder: PipelineBuilder,
        clock: Clock,
        *,
        outbox: Outbox[ChatResponse],
        report: Callable[[BundleStatus], None],
    ) -> None:
        self._caller = caller
        self._clock = clock
        self._outbox = outbox
        self._swap = SessionSwap(caller, builder, clock, report=report, notice=self._show_swap)
        self._session: Session | None = None
        self._host: LiveHost | None = None
        self._turn: _Turn | None = None
        self._turns = 0

    @property
    def session(self) -> Session:
        """The LiveKit session, once `start` has returned."""
        assert self._session is not None
        return self._session

    def deliver(self, delivery: BundleDelivery) -> None:
        """The bundle is there, or has changed."""
        self._swap.deliver(delivery)

    async def start(self) -> None:
        """Open the session with the first bundle that is delivered.

        Raises VoxplaneError if it cannot be used.
        """
        pipeline = await self._swap.first()
        session: Session = AgentSession(
            vad=None,
            turn_handling={**turn_handling_of(pipeline.target.config.turn_config), "turn_detection": None},
            user_away_timeout=None,
            conn_options=SessionConnectOptions(max_unrecoverable_errors=MODEL_ERRORS_MAX),
        )
        session.output.transcription = _Screen(self._show_text, self._outbox)
        agent = VoxplaneAgent(pipeline, self._on_reply, voice=False)
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
        self._host = follow(session, agent, self._swap)

    async def take(self, text: str) -> None:
        """One turn: what the user wrote, and the reply to its end."""
        running = self._swap.running
        assert running is not None
        self._turns += 1
        turn = self._turn = _Turn(self._turns, self._clock.monotonic(), running)
        name = f"turn {turn.number}"
        # until the turn is shown: its own notice must not come before it
        self._swap.reply_began(name)
        try:
            if self._host is not None:
                await self._host.settled()
            await self.session.generate_reply(user_input=text, input_modality="text").wait_for_playout()
            self._show_turn(turn)
        finally:
            self._turn = None
            self._swap.reply_ended(name)

    async def aclose(self) -> None:
        """End the session and close its models."""
        if self._session is not None:
            await self._session.aclose()
        await self._swap.aclose()

    def _on_reply(self, event: ReplyEvent) -> None:
        turn = self._turn
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

    def _show_swap(self, outcome: Outcome) -> None:
        if (notice := notice_of(outcome, self._clock.time())) is not None:
            self._outbox.put(ChatResponse(swap=notice))
