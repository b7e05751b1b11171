"""One voice call: a LiveKit session that follows its agent's bundle."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Literal

import structlog
from livekit.agents import AgentSession, CloseEvent, JobContext

from agent_node.job.agent import ReplyEvent, ReplyFailed, VoxplaneAgent
from agent_node.job.live import Session, follow, turn_handling_of
from agent_node.job.pipeline import Pipeline
from agent_node.job.relay_client import Attachment, RelayClosedError, relay_channel
from agent_node.job.session import SessionSwap
from agent_node.job.staging import Builder
from agent_node.providers import new_context
from voxplane.clock import SystemClock
from voxplane.node.v1.relay_service_pb2 import CallerContext, JobHello
from voxplane.v1 import session_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig

FIRST_CONFIG_SECONDS_MAX = 10.0
CLOSE_TRANSCRIPT_SECONDS = 0.3

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def run_call(ctx: JobContext, caller: CallerContext) -> None:
    """Start the call; it ends with the session, which ends the job.

    Raises VoxplaneError if the agent's config cannot be used, RelayClosedError
    if the node does not know the agent, TimeoutError if neither comes.
    """
    structlog.contextvars.bind_contextvars(
        session_id=caller.session_id, tenant_id=caller.tenant_id, agent=caller.agent_id
    )
    held = AsyncExitStack()
    # runs after LiveKit has closed the session, whatever ended the job
    ctx.add_shutdown_callback(held.aclose)
    channel = await held.enter_async_context(relay_channel())
    hello = JobHello(
        caller=caller, kind=session_pb2.SESSION_KIND_VOICE, room=ctx.job.room.name, job_id=ctx.job.id
    )
    attachment = await held.enter_async_context(Attachment(channel, hello))
    swap = SessionSwap(caller, Builder(caller, new_context()), SystemClock(), report=attachment.report)
    held.push_async_callback(swap.aclose)
    following = asyncio.create_task(_follow(attachment, swap), name="follow the bundle")
    held.callback(following.cancel)

    pipeline, _ = await asyncio.gather(_first(swap, following), ctx.connect())
    agent = VoxplaneAgent(pipeline, _on_reply)
    session = new_session(pipeline.target.config)

    def on_close(event: CloseEvent) -> None:
        # else the job stays until the room closes, and holds up a drain
        ctx.shutdown(reason=f"session closed: {event.reason}")

    session.on("close", on_close)  # pyright: ignore[reportUnknownMemberType]
    await session.start(agent, room=ctx.room, record=False)  # pyright: ignore[reportUnknownMemberType]
    follow(session, agent, swap)


def new_session(config: AgentConfig) -> Session:
    """A session for calls, by the parts of the config that count for the whole call."""
    turn = turn_handling_of(config.turn_config)
    turn["turn_detection"] = _turn_detection(config)
    return AgentSession[None](
        vad=None, turn_handling=turn, session_close_transcript_timeout=CLOSE_TRANSCRIPT_SECONDS
    )


def _turn_detection(config: AgentConfig) -> Literal["stt", "manual"]:
    """The best that works without a VAD of our own, of which the node has none yet."""
    if config.turn_config.turn_detection == "manual" or not config.HasField("stt_config"):
        return "manual"
    return "stt"


async def _follow(attachment: Attachment, swap: SessionSwap) -> None:
    """Hand on the bundles. Without the relay a running call goes on as it is."""
    try:
        async for delivery in attachment:
            swap.deliver(delivery)
    except RelayClosedError:
        if swap.running is None:
            raise
        _log.warning("the relay is gone; the call goes on with the config that it has")


async def _first(swap: SessionSwap, following: asyncio.Task[None]) -> Pipeline:
    """The pipeline to start with. Raises as run_call says."""
    first = asyncio.create_task(swap.first())
    try:
        async with asyncio.timeout(FIRST_CONFIG_SECONDS_MAX):
            await asyncio.wait((first, following), return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            following.result()  # raises: it has ended before there was a config
        return await first
    finally:
        first.cancel()


def _on_reply(event: ReplyEvent) -> None:
    if isinstance(event, ReplyFailed):
        _log.warning("the reply failed", version=event.target.version, reason=event.error.message)
