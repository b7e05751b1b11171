"""The tour's last steps: the same agent, called by voice over a LiveKit server.

The caller's words go in as text, as there is no ear that needs no key; the
agent's come back as audio, which is measured, and its fields by RPC.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from voxplane.cli.connect import CALL_SECONDS_MAX, Client
from voxplane.cli.session_tables import session_lines, turns_table
from voxplane.cli.tour_call import VoiceCall
from voxplane.cli.tour_screen import TourScreen
from voxplane.v1 import agent_service_pb2 as pb2
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as sessions_pb2

USER = "Ada"
WORDS = "I cut the nightly import from six hours to nine minutes."
INSTRUCTIONS = "Be brief with {{ candidate_name }}, and ask about {{ role }} alone."
SHOWS_THEM = "Be brief with"
VOICE = "high"
LISTEN_SECONDS = 2.0
REPORT_SECONDS_MAX = 10.0
POLL_SECONDS = 0.1
TURN_SECONDS = 0.5
"""Until the old reply is silent and the new one is heard."""
GAP_SECONDS_MAX = 1.0
"""Of silence in the agent's speech: on a busy machine there is some, but it goes on."""


class NotHappened(Exception):
    """What a step was to show did not happen."""


@dataclass(slots=True)
class VoiceStage:
    """What the steps work with and leave to each other."""

    client: Client
    call: VoiceCall
    screen: TourScreen
    tenant: str
    agent: str
    version: int
    pitch: int = 0


@dataclass(frozen=True, slots=True)
class VoiceStep:
    """A step by its title."""

    title: str
    play: Callable[[VoiceStage], Awaitable[None]]


def dispatch(tenant: str, agent: str) -> dict[str, Any]:
    """What the agent's job is told."""
    return {"tenant": tenant, "agent": agent, "user": USER.lower(), "variables": {"candidate_name": USER}}


def new_room() -> str:
    """The name of a room."""
    return f"tour-{uuid.uuid4().hex[:8]}"


async def _answered(stage: VoiceStage) -> None:
    call, screen = stage.call, stage.screen
    dialled = await call.until("dialled")
    ready = await call.until("agent", where=lambda told: told.about["state"] == "listening")
    screen.fact(f"the agent is in the room and listens {_ms(ready.at - dialled.at)} after the caller dialled")
    screen.said(USER, WORDS)
    said = call.say(WORDS)
    began = await call.until("speech", where=lambda told: told.about["begins"])
    screen.fact(f"the first sound comes {_ms(began.at - said)} after the words")
    heard = await _listen(stage)
    screen.fact(f"and goes on: {_heard(heard)}")
    _check(call.fields.payloads > 0, "no field came by RPC")
    _check(call.fields.version == stage.version, "the reply was made by another version")
    screen.fields(f"v{call.fields.version}'s fields, by RPC while it speaks", call.fields.values)
    stage.pitch = heard["pitch"]


async def _changed(stage: VoiceStage) -> None:
    call, screen = stage.call, stage.screen
    request = pb2.UpdateAgentConfigRequest(tenant_id=stage.tenant, agent_id=stage.agent, note="by voice")
    request.config.prompt_config.instructions = INSTRUCTIONS
    request.config.tts_config.voice = VOICE
    request.update_mask.paths.extend(["prompt_config.instructions", "tts_config.voice"])
    screen.call("UpdateAgentConfig", f"other instructions, and the voice “{VOICE}”, while the agent speaks")
    answer = await stage.client.agents.UpdateAgentConfig(request, timeout=CALL_SECONDS_MAX)
    version = answer.version.number
    heard = await _listen(stage)
    _check(_alike(heard["pitch"], stage.pitch), "the reply in flight changed its voice")
    screen.fact(f"the reply in flight is as it was: {_heard(heard)}")
    screen.said(USER, WORDS)
    await call.reply(since=call.say(WORDS))
    await call.listen(TURN_SECONDS)
    heard = await _listen(stage)
    _check(call.fields.version == version, f"the next reply was v{call.fields.version}'s, not v{version}'s")
    _check(not _alike(heard["pitch"], stage.pitch), "the next reply has the voice of the last")
    screen.fact(f"the next reply is v{version}'s, in the new voice: {_heard(heard)}")
    if SHOWS_THEM not in call.words:
        await call.until("words", where=lambda told: SHOWS_THEM in call.words)
    screen.fact(f"by the new instructions: “{call.words.strip()}…”")


async def _on_record(stage: VoiceStage) -> None:
    call, screen, session_id = stage.call, stage.screen, stage.call.fields.session_id
    screen.call("EndSession", session_id)
    asked = time.monotonic()
    await stage.client.sessions.EndSession(
        sessions_pb2.EndSessionRequest(
            tenant_id=stage.tenant, session_id=session_id, now=True, reason="the tour is over"
        ),
        timeout=CALL_SECONDS_MAX,
    )
    over = await call.end()
    screen.fact(f"the call is over after {_ms(over.at - asked)}")
    screen.call("GetSession", session_id)
    found = await _ended(stage, session_id)
    for line in session_lines(found.session):
        screen.show(line)
    screen.show(turns_table(found.turns))
    versions = [turn.version for turn in found.turns]
    _check(versions == [stage.version, call.fields.version], f"its turns are of the versions {versions}")


async def _ended(stage: VoiceStage, session_id: str) -> sessions_pb2.GetSessionResponse:
    """The session, when the node has reported its end."""
    request = sessions_pb2.GetSessionRequest(tenant_id=stage.tenant, session_id=session_id)
    try:
        async with asyncio.timeout(REPORT_SECONDS_MAX):
            while True:
                found = await stage.client.sessions.GetSession(request, timeout=CALL_SECONDS_MAX)
                if found.session.state == session_pb2.SESSION_STATE_ENDED:
                    return found
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise NotHappened(f"its end was not reported within {REPORT_SECONDS_MAX:g} s") from None


VOICE_STEPS = (
    VoiceStep("The same agent, called by voice", _answered),
    VoiceStep("It changes while it speaks", _changed),
    VoiceStep("The call is ended, and on record", _on_record),
)


async def _listen(stage: VoiceStage) -> dict[str, Any]:
    """What is heard in the next seconds, which have no gap."""
    await stage.call.measure()
    await stage.call.listen(LISTEN_SECONDS)
    heard = await stage.call.measure()
    gap = heard["longest_quiet"]
    _check(gap <= GAP_SECONDS_MAX, f"there was a gap of {_ms(gap)} in the agent's speech")
    return heard


def _check(happened: bool, otherwise: str) -> None:
    if not happened:
        raise NotHappened(otherwise)


def _alike(pitch: int, other: int) -> bool:
    return abs(pitch - other) <= 0.1 * other


def _heard(heard: dict[str, Any]) -> str:
    gap = _ms(heard["longest_quiet"]) if heard["longest_quiet"] else "none"
    return f"{heard['seconds']:.1f} s of speech at {heard['pitch']} Hz, longest gap: {gap}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"
