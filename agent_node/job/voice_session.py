"""One voice call: a LiveKit session in a room that follows its agent's bundle."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress

import aiohttp
import structlog
from livekit import api, rtc
from livekit.agents import AgentSession, CloseEvent, CloseReason, JobContext
from livekit.agents.llm import ChatContext, ChatItem, Tool
from livekit.agents.voice.room_io.types import DEFAULT_CLOSE_ON_DISCONNECT_REASONS

from agent_node.job.agent import VoxplaneAgent
from agent_node.job.conversation import NOT_TRANSFERRED, Conversation, log_target
from agent_node.job.field_feed import FieldFeed, first_seq
from agent_node.job.frontend import Frontend
from agent_node.job.life import Ending
from agent_node.job.live import LiveHost, Session, follow, turn_detection_of, turn_handling_of
from agent_node.job.pipeline import Pipeline
from agent_node.job.relay_client import Attachment, RelayClosedError, relay_channel
from agent_node.job.reply_events import ReplyEvent
from agent_node.job.room_frontend import RoomPort
from agent_node.job.speech import speak
from agent_node.job.staging import Builder
from agent_node.job.tracing import Tracing
from agent_node.job.turn_listener import TurnListener
from agent_node.job.userdata import SessionData
from agent_node.logs import bind_session
from agent_node.providers import Availability, new_context
from voxplane.clock import SystemClock
from voxplane.errors import VoxplaneError
from voxplane.node.v1.relay_service_pb2 import CallerContext, FollowRefused, JobHello
from voxplane.v1 import session_pb2

NODE_ID_ENV = "VOXPLANE_NODE_ID"
FIRST_CONFIG_SECONDS_MAX = 10.0
CLOSE_TRANSCRIPT_SECONDS = 0.3
REPLY_SECONDS_MAX = 10.0
"""For the reply in flight when the session is to end."""
GOODBYE_SECONDS_MAX = 15.0
CLOSE_SECONDS_MAX = 10.0
"""For LiveKit's session, which waits for the tools that run."""
HANG_UP_SECONDS_MAX = 2.0

_CLOSED_ROOMS = (rtc.DisconnectReason.ROOM_DELETED, rtc.DisconnectReason.ROOM_CLOSED)

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def run_call(ctx: JobContext, caller: CallerContext, *, tools: Sequence[Tool] = ()) -> None:
    """Start the call; it ends with the session, which ends the job. `tools` are
    functions in Python that the model may call beside the config's; they find
    the session's SessionData in their context.

    Raises VoxplaneError if the agent's config cannot be used, RelayClosedError
    if the node does not know the agent, TimeoutError if neither comes.
    """
    bind_session(
        session_id=caller.session_id,
        tenant_id=caller.tenant_id,
        agent=caller.agent_id,
        user_id=caller.user_id or None,
    )
    held = AsyncExitStack()
    # runs after LiveKit has closed the session, whatever ended the job
    ctx.add_shutdown_callback(held.aclose)
    try:
        channel = await held.enter_async_context(relay_channel())
        hello = JobHello(
            caller=caller, kind=session_pb2.SESSION_KIND_VOICE, room=ctx.job.room.name, job_id=ctx.job.id
        )
        attachment = await held.enter_async_context(Attachment(channel, hello))
        call = VoiceCall(ctx, caller, attachment, tools)
        held.push_async_callback(call.aclose)
        await call.start()
    except BaseException:
        await held.aclose()
        raise


class VoiceCall:
    """One call; `aclose` it after LiveKit's session."""

    def __init__(
        self, ctx: JobContext, caller: CallerContext, attachment: Attachment, tools: Sequence[Tool]
    ) -> None:
        self._ctx = ctx
        self._attachment = attachment
        self._clock = SystemClock()
        context = new_context()
        self._conversation = Conversation(
            caller,
            session_pb2.SESSION_KIND_VOICE,
            Builder(caller, context, tools, on_availability=self._on_availability),
            self._clock,
            link=attachment,
            end=self._end,
            kept=self._on_kept,
            tracing=Tracing(caller, context.secrets),
            node_id=os.environ.get(NODE_ID_ENV, ""),
            room=ctx.job.room.name,
            on_target=log_target,
        )
        attachment.on_command = self._conversation.command
        attachment.on_follow_refused = self._on_follow_refused
        self._session: Session | None = None
        self._host: LiveHost | None = None
        self._turns: TurnListener | None = None
        self._frontend: Frontend | None = None
        self._port: RoomPort | None = None
        self._handlers: dict[rtc.room.EventTypes, Callable[..., None]] = {
            "disconnected": self._on_disconnected,
            "participant_disconnected": self._on_left,
        }
        self._ending: Ending | None = None
        self._closed = False
        self._lost: rtc.DisconnectReason.ValueType | None = None
        self._hurry = asyncio.Event()
        self._recalled: list[ChatItem] = []
        self._following: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Join the room and begin to talk. Raises as run_call does."""
        try:
            await self._start()
        except Exception as error:
            self._conversation.record.end(
                session_pb2.SESSION_OUTCOME_FAILED, f"the call cannot start: {_why(error)}"
            )
            raise

    async def _start(self) -> None:
        self._following = asyncio.create_task(self._follow(), name="follow the bundle")
        pipeline, _ = await asyncio.gather(self._first(), self._ctx.connect())
        for event, handler in self._handlers.items():
            self._ctx.room.on(event, handler)  # pyright: ignore[reportUnknownMemberType]
        conversation = self._conversation
        session = self._session = new_session(pipeline, conversation.data)
        session.on("close", self._on_close)  # pyright: ignore[reportUnknownMemberType]
        session.history.insert(self._recalled)
        agent = VoxplaneAgent(pipeline, self._on_reply, history=ChatContext(list(self._recalled)))
        conversation.prepare(pipeline.target)
        self._turns = conversation.listen(session, pipeline.target, self._on_problem)
        await session.start(agent, room=self._ctx.room, record=False)  # pyright: ignore[reportUnknownMemberType]
        conversation.began(session, pipeline.target)
        self._open_frontend(session, pipeline)
        self._host = follow(
            session,
            agent,
            conversation.swap,
            hears=True,
            on_transfer=self._on_transfer,
            on_stuck=conversation.stuck,
        )
        if self._recalled:
            self._resume()
        else:
            self._introduce(pipeline)

    def _open_frontend(self, session: Session, pipeline: Pipeline) -> None:
        conversation = self._conversation
        port = self._port = RoomPort(self._ctx.room, lambda: session.room_io.linked_participant)
        feed = FieldFeed(
            conversation.caller.session_id,
            pipeline.target,
            seq=first_seq(conversation.record.session.replacements),
        )
        frontend = self._frontend = Frontend(
            feed,
            port,
            self._clock,
            count=self._attachment.count,
            failed=self._turns.problem if self._turns is not None else None,
        )
        port.watch(lambda present: frontend.caller(present=present))

    async def _close_frontend(self) -> None:
        """Send what is left, for a moment at most."""
        frontend, self._frontend = self._frontend, None
        if frontend is not None and self._port is not None:
            self._port.unwatch()
            await frontend.aclose()

    async def aclose(self) -> None:
        """Close what LiveKit does not know."""
        self._closed = True
        for event, handler in self._handlers.items():
            with suppress(ValueError, KeyError):  # the room was never joined
                self._ctx.room.off(event, handler)  # pyright: ignore[reportUnknownMemberType]
        ending = self._ending or Ending(session_pb2.SESSION_OUTCOME_NODE_STOPPED, "the job was ended")
        self._conversation.record.end(ending.outcome, ending.reason)
        tasks = [*self._tasks, *([self._following] if self._following else [])]
        for task in tasks:
            task.cancel()
        await self._close_frontend()
        await self._conversation.aclose()

    async def _follow(self) -> None:
        """Hand on the bundles. Without the relay a running call goes on as it is."""
        try:
            async for delivery in self._attachment:
                if (legacy := self._attachment.legacy) is not None:
                    self._attachment.legacy = None
                    self._recalled = self._conversation.take_over(legacy, delivery)
                self._conversation.deliver(delivery)
        except RelayClosedError:
            if self._conversation.swap.running is None:
                raise
            _log.warning("the relay is gone; the call goes on with the config that it has")

    async def _first(self) -> Pipeline:
        """The pipeline to start with."""
        first = asyncio.create_task(self._conversation.swap.first())
        following = self._following
        assert following is not None
        try:
            async with asyncio.timeout(FIRST_CONFIG_SECONDS_MAX):
                await asyncio.wait((first, following), return_when=asyncio.FIRST_COMPLETED)
            if not first.done():
                following.result()  # raises: it has ended before there was a config
            return await first
        finally:
            first.cancel()

    def _introduce(self, pipeline: Pipeline, *, anyhow: bool = False) -> None:
        """The first words of an agent, if it has some; `anyhow` it speaks first."""
        words = pipeline.words
        if words.greeting:
            speak(self._live, words.greeting)
        elif words.greeting_instructions:
            self._live.generate_reply(instructions=words.greeting_instructions)
        elif anyhow:
            self._live.generate_reply()

    def _on_transfer(self, pipeline: Pipeline) -> None:
        if self._ending is None:
            with suppress(RuntimeError):  # the session closes
                self._introduce(pipeline, anyhow=True)

    def _on_follow_refused(self, refused: FollowRefused) -> None:
        self._conversation.not_followed(refused.agent_id, refused.error.message)

    def _on_kept(self, agent_id: str) -> None:
        if self._ending is None and self._host is not None:
            with suppress(RuntimeError):  # the session closes
                self._live.generate_reply(instructions=NOT_TRANSFERRED)

    def _resume(self) -> None:
        """Answer what the process that died has not answered."""
        last = next((item for item in reversed(self._recalled) if item.type == "message"), None)
        if last is not None and last.role == "user":
            self._live.generate_reply()

    @property
    def _live(self) -> Session:
        assert self._session is not None
        return self._session

    def _end(self, ending: Ending) -> None:
        """See Conversation; the first ending counts, a hurried one is obeyed."""
        if ending.now:
            self._hurry.set()
        if self._ending is None and not self._closed:
            self._ending = ending
            self._keep(self._finish())

    async def _finish(self) -> None:
        """Say goodbye and end the session, and with it the job."""
        session = self._session
        try:
            if session is not None and self._host is not None:
                caller = session.room_io.linked_participant
                session.input.set_audio_enabled(False)
                await self._until_hurried(self._say_goodbye())
                self._stop_tools()
                await self._close_frontend()
                await self._close(session)
                await self._hang_up(caller.identity if caller is not None else "")
        finally:
            self._ctx.shutdown(reason="the session has ended")

    async def _close(self, session: Session) -> None:
        """Close it; one that waits for a tool which does not end is left."""
        closing = asyncio.create_task(session.aclose())
        await asyncio.wait({closing}, timeout=CLOSE_SECONDS_MAX)

    async def _until_hurried(self, work: Coroutine[None, None, None]) -> None:
        """Do the work, unless the session is to end at once."""
        working = asyncio.create_task(work)
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait((working, hurry), return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        working.cancel()
        await asyncio.wait((working,))

    async def _say_goodbye(self) -> None:
        # not LiveKit's wait_for_idle: it waits for the caller too, who is no longer heard
        idle = asyncio.Event()
        self._conversation.swap.between_turns(idle.set)
        with suppress(TimeoutError):
            async with asyncio.timeout(REPLY_SECONDS_MAX):
                await idle.wait()
        assert self._host is not None
        if words := self._host.agent.pipeline.words.goodbye:
            with suppress(TimeoutError, RuntimeError):  # the session may end by itself meanwhile
                async with asyncio.timeout(GOODBYE_SECONDS_MAX):
                    await speak(self._live, words, interruptible=False).wait_for_playout()

    async def _hang_up(self, identity: str) -> None:
        """Take the caller out of the room: the agent has ended the call."""
        if not identity:
            return
        request = api.RoomParticipantIdentity(room=self._ctx.room.name, identity=identity)
        try:
            async with asyncio.timeout(HANG_UP_SECONDS_MAX):
                await self._ctx.api.room.remove_participant(request)
        except (api.TwirpError, aiohttp.ClientError, TimeoutError) as error:
            _log.warning("the caller could not be taken out of the room", error=type(error).__name__)

    def _on_close(self, event: CloseEvent) -> None:
        self._closed = True
        ending = self._ending or _ending_of(event, self._lost)
        if self._turns is not None:
            self._turns.close()
        self._conversation.record.end(ending.outcome, ending.reason)
        if self._ending is None:
            self._keep(self._leave(event))

    async def _leave(self, event: CloseEvent) -> None:
        """End the job with its session: else it stays until the room closes,
        and holds up a drain."""
        if event.error is not None:
            await self._close_frontend()
        self._ctx.shutdown(reason=f"session closed: {event.reason.value}")

    def _on_disconnected(self, reason: rtc.DisconnectReason.ValueType) -> None:
        self._lost = reason
        self._stop_tools()

    def _on_left(self, participant: rtc.RemoteParticipant) -> None:
        if self._closed or self._host is None:
            return
        caller = self._live.room_io.linked_participant
        # else he may be back, as after a change of network
        for_good = participant.disconnect_reason in DEFAULT_CLOSE_ON_DISCONNECT_REASONS
        if for_good and caller is not None and participant.identity == caller.identity:
            self._stop_tools()
            self._keep(self._leave_in_time())

    async def _leave_in_time(self) -> None:
        await asyncio.sleep(CLOSE_SECONDS_MAX)
        self._ctx.shutdown(reason="the session does not close")

    def _on_reply(self, event: ReplyEvent) -> None:
        turns = self._turns
        assert turns is not None
        turns.reply(event)
        self._conversation.replied(event)
        if self._frontend is not None:
            self._frontend.take(event, turns.turn)

    def _on_availability(self, change: Availability) -> None:
        self._conversation.availability(change)

    def _on_problem(self, source: str, message: str) -> None:
        if self._frontend is not None and self._turns is not None:
            self._frontend.problem(source, message, self._turns.turn)

    def _stop_tools(self) -> None:
        """LiveKit would wait for those that run."""
        if self._host is not None and (called := self._host.agent.pipeline.called) is not None:
            called.model.stop()

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def new_session(pipeline: Pipeline, data: SessionData) -> Session:
    """A session for a call, by the parts of the config that count for the whole call."""
    turn = turn_handling_of(pipeline.target.config.turn_config, turn_detection_of(pipeline))
    return AgentSession(
        vad=None,
        turn_handling=turn,
        user_away_timeout=None,
        userdata=data,
        session_close_transcript_timeout=CLOSE_TRANSCRIPT_SECONDS,
    )


def _why(error: Exception) -> str:
    """Why a call cannot start; of unforeseen errors the text may hold anything."""
    match error:
        case VoxplaneError():
            return error.reason_name
        case RelayClosedError():
            return str(error)
        case TimeoutError():
            return "no config came"
        case _:
            return type(error).__name__


def _ending_of(event: CloseEvent, lost: rtc.DisconnectReason.ValueType | None) -> Ending:
    """How a session has ended that nobody has ended here."""
    match event.reason:
        case CloseReason.PARTICIPANT_DISCONNECTED:
            return Ending(session_pb2.SESSION_OUTCOME_CALLER_LEFT)
        case CloseReason.ERROR:
            kind = getattr(event.error, "type", "error")
            return Ending(session_pb2.SESSION_OUTCOME_FAILED, f"too many errors ({kind})")
        case _ if lost in _CLOSED_ROOMS:
            return Ending(session_pb2.SESSION_OUTCOME_CALLER_LEFT, "the room was closed")
        case _ if lost is not None:
            said = f"the room was lost ({rtc.DisconnectReason.Name(lost)})"
            return Ending(session_pb2.SESSION_OUTCOME_FAILED, said)
        case _:
            return Ending(session_pb2.SESSION_OUTCOME_NODE_STOPPED, "the job was ended")
