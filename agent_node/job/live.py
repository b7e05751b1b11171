"""A running LiveKit session as the host of its config."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Literal

from google.protobuf import duration_pb2
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
from agent_node.job.swap import AGENT
from agent_node.job.userdata import SessionData
from voxplane.v1.agent_config_pb2 import TurnConfig

MIN_ENDPOINTING_SECONDS = 0.5
MAX_ENDPOINTING_SECONDS = 3.0
MIN_INTERRUPTION_SECONDS = 0.5
FALSE_INTERRUPTION_SECONDS = 2.0
HEARING_SECONDS = 2.0
"""What a transcript may take after the end of speech, beside the endpointing."""
HANDOFF = "the handoff"
HANDOFF_SECONDS_MAX = 30.0

Session = AgentSession[SessionData]
TurnDetection = Literal["stt", "vad", "realtime_llm", "manual"]


def turn_detection_of(pipeline: Pipeline) -> TurnDetection:
    """What finds the end of the user's turn: what the config says, else the
    best that there is."""
    match pipeline.target.config.turn_config.turn_detection:
        case "stt" | "vad" | "realtime_llm" | "manual" as said:
            return said
        case _:
            if pipeline.realtime is not None:
                return "realtime_llm"
            if pipeline.vad is not None:
                return "vad"
            return "stt" if pipeline.stt is not None else "manual"


def endpointing_of(turn: TurnConfig) -> EndpointingOptions:
    """When a silence of the user ends the turn."""
    least = _seconds(turn, "min_endpointing_delay", MIN_ENDPOINTING_SECONDS)
    most = _seconds(turn, "max_endpointing_delay", MAX_ENDPOINTING_SECONDS)
    return EndpointingOptions(min_delay=least, max_delay=max(least, most))


def turn_handling_of(turn: TurnConfig, detection: TurnDetection | None) -> TurnHandlingOptions:
    """The turn's options for a new session. No reply is begun before the turn
    has ended: it would be by a config that may be replaced, and show fields of
    a turn that never happens. Interruptions are found by the VAD: LiveKit's own
    detector for them is a service elsewhere."""
    false_after = _seconds(turn, "false_interruption_timeout", FALSE_INTERRUPTION_SECONDS)
    return TurnHandlingOptions(
        turn_detection=detection,
        endpointing=endpointing_of(turn),
        interruption={
            "enabled": turn.allow_interruptions if turn.HasField("allow_interruptions") else True,
            "mode": "vad",
            "min_duration": _seconds(turn, "min_interruption_duration", MIN_INTERRUPTION_SECONDS),
            "min_words": turn.min_interruption_words,
            "resume_false_interruption": false_after > 0,
            "false_interruption_timeout": false_after or None,
        },
        preemptive_generation={"enabled": False},
    )


def _seconds(turn: TurnConfig, name: str, unset: float) -> float:
    value: duration_pb2.Duration = getattr(turn, name)
    return value.ToNanoseconds() / 1e9 if turn.HasField(name) else unset


class LiveHost:
    """Switches an agent and its session, or the session's agent.

    `on_transfer` is called when another agent of the tenant has taken the
    session over, `on_stuck` when an agent that was to begin has not within
    `handoff_seconds`: nobody answers the caller then.
    """

    def __init__(
        self,
        session: Session,
        agent: VoxplaneAgent,
        swap: SessionSwap,
        *,
        hears: bool,
        on_transfer: Callable[[Pipeline], None],
        on_stuck: Callable[[], None],
        handoff_seconds: float,
    ) -> None:
        self._session = session
        self._agent = agent
        self._swap = swap
        self._hears = hears
        self._on_transfer = on_transfer
        self._on_stuck = on_stuck
        self._handoff_seconds = handoff_seconds
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
        before = self._agent.pipeline
        if plan.handoff:
            self._hand_over(pipeline, transfer=AGENT in plan.effects)
        else:
            self._agent.switch(pipeline)
        self._agent.speak_plainly()
        endpointing = endpointing_of(pipeline.target.config.turn_config)
        if endpointing != endpointing_of(before.target.config.turn_config):
            self._session.update_options(endpointing_opts=endpointing)
        if self._hears and turn_detection_of(pipeline) != turn_detection_of(before):
            self._session.update_options(turn_detection=turn_detection_of(pipeline))
        self.fit_output()

    def _hand_over(self, pipeline: Pipeline, *, transfer: bool) -> None:
        held = ExitStack()
        if transfer:
            held.callback(self._on_transfer, pipeline)
        # LiveKit lets go of the old models when the new agent has begun, and no
        # other change is made meanwhile.
        held.enter_context(self._agent.pipeline.use())
        self._swap.reply_began(HANDOFF)
        held.callback(self._swap.reply_ended, HANDOFF)
        self._settled.clear()
        held.callback(self._settled.set)
        stuck = asyncio.get_running_loop().call_later(self._handoff_seconds, self._on_stuck)
        held.callback(stuck.cancel)
        self._agent = self._agent.successor(pipeline, held.close)
        self._session.update_agent(self._agent)

    def fit_output(self) -> None:
        """Without a voice the agent's text is still shown."""
        output, pipeline = self._session.output, self._agent.pipeline
        if output.audio is not None:
            output.set_audio_enabled(pipeline.tts is not None or pipeline.realtime is not None)


def follow(
    session: Session,
    agent: VoxplaneAgent,
    swap: SessionSwap,
    *,
    hears: bool = False,
    on_transfer: Callable[[Pipeline], None] = lambda pipeline: None,
    on_stuck: Callable[[], None] = lambda: None,
    handoff_seconds: float = HANDOFF_SECONDS_MAX,
) -> LiveHost:
    """Let a session that has been started take its changes from `swap`; see
    LiveHost.

    Call it before the session's first reply, at the latest in the same step of
    the loop that has started it.
    """

    def on_speech(event: SpeechCreatedEvent) -> None:
        handle = event.speech_handle
        swap.reply_began(handle.id)
        handle.add_done_callback(lambda done: swap.reply_ended(done.id))
        if event.source == "generate_reply" and handle.input_details.modality == "audio":
            swap.user_heard()  # it answers what the user has said
        if event.source == "say":
            host.agent.speak_plainly()

    def on_user_state(event: UserStateChangedEvent) -> None:
        endpointing = endpointing_of(host.agent.pipeline.target.config.turn_config)
        heard_within = endpointing.get("min_delay", MIN_ENDPOINTING_SECONDS) + HEARING_SECONDS
        swap.user_speaks(event.new_state == "speaking", heard_within=heard_within)

    session.on("speech_created", on_speech)  # pyright: ignore[reportUnknownMemberType]
    session.on("user_state_changed", on_user_state)  # pyright: ignore[reportUnknownMemberType]
    swap.user_speaks(session.user_state == "speaking")
    host = LiveHost(
        session,
        agent,
        swap,
        hears=hears,
        on_transfer=on_transfer,
        on_stuck=on_stuck,
        handoff_seconds=handoff_seconds,
    )
    host.fit_output()
    swap.drive(host)
    return host
