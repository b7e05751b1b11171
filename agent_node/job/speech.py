"""Texts that an agent says word for word."""

from __future__ import annotations

from livekit.agents import NOT_GIVEN, AgentSession
from livekit.agents.llm import RealtimeModel
from livekit.agents.voice import SpeechHandle

from agent_node.job.userdata import SessionData

SAY = "Say this to the caller, word for word, and nothing else: {text}"


def speak(session: AgentSession[SessionData], text: str, *, interruptible: bool = True) -> SpeechHandle:
    """Say it; a realtime model, which has no voice beside its own, is asked to.
    Raises RuntimeError where nothing can be said."""
    allow = NOT_GIVEN if interruptible else False
    model: object = session.current_agent.llm  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if isinstance(model, RealtimeModel):
        return session.generate_reply(instructions=SAY.format(text=text), allow_interruptions=allow)
    return session.say(text, allow_interruptions=allow)
