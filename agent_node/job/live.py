"""A running LiveKit session as the host of its config."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from livekit.agents import (
    AgentSession,
    EndpointingOptions,
    SpeechCreatedEvent,
    TurnHandlingOptions,
    UserStateChangedEvent,
)

from agent_node.job.agent import VoxplaneAgent
from agent_node.job.pipeline import Pipeline
from agent_node.job.plan import Plan
from agent_node.job.session import SessionSwap
from voxplane.v1.agent_config_pb2 import TurnConfig

MIN_ENDPOINTING_SECONDS = 0.5
MAX_ENDPOINTING_SECONDS = 3.0
HANDOFF = "the handoff"

Session = AgentSession[None]


def endpointing_of(turn: TurnConfig) -> EndpointingOptions:
    """When a silence of the user ends the turn."""
    least, most = MIN_ENDPOINTING_SECONDS, MAX_ENDPOINTING_SECONDS
    if turn.HasField("min_endpointing_delay"):
        least = turn.min_endpointing_delay.ToNanoseconds() / 1e9
    if turn.HasField("max_endpointing_delay"):
        most = turn.max_endpointing_delay.ToNanoseconds() / 1e9
    return EndpointingOptions(min_delay=least, max_delay=max(least, most))


def turn_handling_of(turn: TurnConfig) -> TurnHandlingOptions:
    """The turn's options for a new session, but turn_detection, which depends
    on the session's ears. No reply is begun before the turn has ended: it
    would be by a config that may be replaced, and show fields of a turn that
    never happens."""
    interruptible = turn.allow_interruptions if turn.HasField("allow_interruptions") else True
    return TurnHandlingOptions(
        endpointing=endpointing_of(turn),
        interruption={"enabled": interruptible},
        preemptive_generation={"enabled": False},
    )


class LiveHost:
    """Switches an agent and its session, or the session's agent."""

    def __init__(self, session: Session, agent: VoxplaneAgent, swap: SessionSwap) -> None:
        self._session = session
        self._agent = agent
        self._swap = swap
        self._settled = asyncio.Event()
        self._settled.set()

    @property
    def agent(self) -> VoxplaneAgent:
        """The agent that has the session, or is about to."""
        return self._agent

    async def settled(self) -> None:
        """Wait until the agent has the session."""
        await self._settled.wait()

    def switch(self, pipeline: Pipeline, plan: Plan) -> None:
        """See session.Host."""
        before = endpointing_of(self._agent.pipeline.target.config.turn_config)
        if plan.handoff:
            self._hand_over(pipeline)
        else:
            self._agent.switch(pipeline)
        endpointing = endpointing_of(pipeline.target.config.turn_config)
        if endpointing != before:
            self._session.update_options(endpointing_opts=endpointing)
        self.fit_output()

    def _hand_over(self, pipeline: Pipeline) -> None:
        held = ExitStack()
        # LiveKit lets go of the old models when the new agent has begun, and no
        # other change is made meanwhile.
        held.enter_context(self._agent.pipeline.use())
        self._swap.reply_began(HANDOFF)
        held.callback(self._swap.reply_ended, HANDOFF)
        self._settled.clear()
        held.callback(self._settled.set)
        self._agent = self._agent.successor(pipeline, held.close)
        self._session.update_agent(self._agent)

    def fit_output(self) -> None:
        """Without a voice the agent's text is still shown."""
        output = self._session.output
        if output.audio is not None:
            output.set_audio_enabled(self._agent.pipeline.tts is not None)


def follow(session: Session, agent: VoxplaneAgent, swap: SessionSwap) -> LiveHost:
    """Let a session that has been started take its changes from `swap`.

    Call it before the session's first reply, at the latest in the same step of
    the loop that has started it.
    """

    def on_speech(event: SpeechCreatedEvent) -> None:
        handle = event.speech_handle
        swap.reply_began(handle.id)
        handle.add_done_callback(lambda done: swap.reply_ended(done.id))

    def on_user_state(event: UserStateChangedEvent) -> None:
        swap.user_speaks(event.new_state == "speaking")

    session.on("speech_created", on_speech)  # pyright: ignore[reportUnknownMemberType]
    session.on("user_state_changed", on_user_state)  # pyright: ignore[reportUnknownMemberType]
    swap.user_speaks(session.user_state == "speaking")
    host = LiveHost(session, agent, swap)
    host.fit_output()
    swap.drive(host)
    return host
