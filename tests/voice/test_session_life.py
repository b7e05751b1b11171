"""How calls begin and end."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from tests.livekit.tenants import FIELDS_METHOD, TOPICS, Tenant
from tests.vendors import Fields, ToolCall
from tests.voice.examiner import CHAT, SPEECH, assert_in_voice, examiner
from voxplane.tools import END_SESSION
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as sessions_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

GOODBYE_SECONDS_MAX = 4.0
DEPARTURE_SECONDS = 20.0
"""How long LiveKit keeps a room after the caller has left it, and with the room its jobs."""


async def test_an_agent_greets_and_says_goodbye_when_it_is_to_end(tenant: Tenant) -> None:
    """The greeting is heard first; EndSession has the goodbye said and the caller put out."""
    config = examiner(tenant)
    config.session_config.greeting = "Good morning to you, {{ user_id }}."
    config.session_config.goodbye = "That was all for today, goodbye."
    await tenant.create(config)
    call = await tenant.call(user="ann")
    greeted = await call.wait("speech_heard")
    assert_in_voice(greeted["pitches"], "alloy")
    session = await tenant.session()

    since = len(call.events)
    await tenant.sessions.EndSession(
        sessions_pb2.EndSessionRequest(
            tenant_id=tenant.tenant_id, session_id=session.session_id, reason="the shift is over"
        )
    )
    await call.wait("speech_began", since=since)
    await call.wait("disconnected", since=since)
    spoken = await tenant.stage.vendors.requests(SPEECH, key=tenant.keys["voice"])
    said = ["Good morning to you, ann.", "That was all for today, goodbye."]
    assert [request.body["input"] for request in spoken] == said
    ended = await tenant.session(session.session_id, state=session_pb2.SESSION_STATE_ENDED)
    assert ended.outcome == session_pb2.SESSION_OUTCOME_OPERATOR_ENDED
    assert ended.end_reason == "the shift is over"
    await call.hang_up()


async def test_a_caller_who_speaks_does_not_hold_up_the_goodbye(tenant: Tenant) -> None:
    """The agent no longer listens then: it does not wait for the end of the words."""
    config = examiner(tenant)
    config.session_config.goodbye = "Goodbye."
    await tenant.create(config)
    call = await tenant.call()
    session = await tenant.session()
    since = len(call.events)
    speaking = call.speaking("here is a long story which i tell you until you put me out of this room")
    await call.wait("transcript", since=since, speaker="caller", final=False)
    asked = time.monotonic()
    await tenant.sessions.EndSession(
        sessions_pb2.EndSessionRequest(tenant_id=tenant.tenant_id, session_id=session.session_id)
    )
    began = await call.wait("speech_began", since=since)
    assert began.at - asked < GOODBYE_SECONDS_MAX
    await speaking
    await call.wait("disconnected", since=since)
    await call.hang_up()


async def test_a_caller_who_is_back_finds_the_tools_of_the_agent(tenant: Tenant) -> None:
    """Who enters anew in his own place, as after a change of network, goes on with
    the session, and the model may still end it."""
    config = examiner(tenant)
    config.session_config.can_end_session = True
    await tenant.create(config)
    call = await tenant.call()
    session = await tenant.session()
    since = len(call.events)
    token = tenant.stage.token(call.room, call.identity, None)
    await call.join(token, methods=[FIELDS_METHOD], topics=TOPICS)
    await call.wait("disconnected", since=since)
    await call.agent("listening", since=since)

    await tenant.stage.vendors.answer(
        ToolCall(END_SESSION, {"reason": "all is said"}), key=tenant.keys["openai"]
    )
    await call.speak("that was all, thank you")
    ended = await tenant.session(session.session_id, state=session_pb2.SESSION_STATE_ENDED)
    assert ended.outcome == session_pb2.SESSION_OUTCOME_AGENT_ENDED
    await call.wait("disconnected", 2, since=since)
    await call.hang_up()


async def test_a_call_that_is_handed_on_stays_with_the_other_agent(tenant: Tenant) -> None:
    """The announcement in the first voice, the greeting in the second, and one
    history; a process that takes the call over goes on with the second agent."""
    vendors, key = tenant.stage.vendors, tenant.keys["openai"]
    sales = examiner(tenant, "You sell.")
    sales.session_config.greeting = "This is the sales desk."
    sales.tts_config.voice = "ballad"
    await tenant.create(sales, "sales")
    desk = examiner(tenant)
    desk.session_config.transfers.add(agent_id="sales", description="Sales.", announcement="One moment.")
    await tenant.create(desk)
    call = await tenant.call()
    session = await tenant.session()

    await vendors.answer(ToolCall("transfer_to_sales"), key=key)
    since = len(call.events)
    await call.speak("i want to buy something")
    await call.wait("transcript", since=since, speaker="agent", final=True, text="This is the sales desk.")
    await call.wait("speech_heard", since=since)
    spoken = await vendors.requests(SPEECH, key=tenant.keys["voice"])
    assert [(request.body["voice"], request.body["input"]) for request in spoken] == [
        ("alloy", "One moment."),
        ("ballad", "This is the sales desk."),
    ]

    since = len(call.events)
    os.kill(tenant.stage.node.entries("session attached")[-1]["pid"], signal.SIGKILL)
    await call.wait("participant_connected", since=since)
    await call.agent("listening", since=since)
    await vendors.answer(Fields({"answer": "Certainly."}), key=key)
    reply = await call.turn("are you still there")
    assert_in_voice(reply.heard.pitches, "ballad")
    asked = (await vendors.requests(CHAT, key=key))[-1]
    messages = [(each["role"], each.get("content", "").strip()) for each in asked.body["messages"]]
    assert [text for role, text in messages if role == "system"] == ["You sell."]
    assert [(role, text) for role, text in messages if role in ("user", "assistant") and text] == [
        ("user", "i want to buy something"),
        ("assistant", "One moment."),
        ("assistant", "This is the sales desk."),
        ("user", "are you still there"),
    ]
    ended = await tenant.session(session.session_id)
    assert (ended.agent_id, ended.replacements) == ("sales", 1)
    await call.hang_up()


async def test_a_caller_who_hangs_up_ends_the_session_at_once(tenant: Tenant) -> None:
    """Also in the middle of a reply, and long before LiveKit gives up the room."""
    await tenant.create(examiner(tenant))
    call = await tenant.call()
    session = await tenant.session()
    await tenant.stage.vendors.answer(Fields({"answer": "on and on " * 20}), key=tenant.keys["openai"])
    await call.speak("good morning")
    await call.wait("speech_began")
    async with asyncio.timeout(DEPARTURE_SECONDS / 2):
        await call.hang_up()
        ended = await tenant.session(session.session_id, state=session_pb2.SESSION_STATE_ENDED)
    assert ended.outcome == session_pb2.SESSION_OUTCOME_CALLER_LEFT
    await tenant.stage.node.logged("session detached", session_id=session.session_id)
