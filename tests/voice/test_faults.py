"""Programs that go away in the middle of calls."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.livekit.calls import Call
from tests.livekit.screen import shown
from tests.livekit.tenants import Tenant
from tests.vendors import Fields
from tests.voice.examiner import CHAT, conversation, examiner
from voxplane.v1 import session_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG = "This is a rather long answer and it goes on and on so that there is time enough to be killed."
HEARD_AGAIN_SECONDS_MAX = 2.0
OUTAGE_SECONDS, LONG_OUTAGE_SECONDS = 3.0, 30.0


async def say(tenant: Tenant, call: Call, words: str, answer: str) -> None:
    """A turn with that answer, which is heard."""
    await tenant.stage.vendors.answer(Fields({"answer": answer}), key=tenant.keys["openai"])
    reply = await call.turn(words)
    assert (reply.words, reply.text) == (words, answer)


def process_of(tenant: Tenant, session_id: str) -> int:
    """The process that holds a session."""
    return tenant.stage.node.entries("session attached", session_id=session_id)[-1]["pid"]


async def test_a_job_that_is_killed_is_replaced_and_remembers(tenant: Tenant) -> None:
    """Killed while it speaks, the caller hears the agent again within two seconds:
    the reply that was cut off, by an agent that knows all that was said."""
    stage, key = tenant.stage, tenant.keys["openai"]
    await tenant.create(examiner(tenant))
    call = await tenant.call()
    session = await tenant.session()
    healed = await stage.metric("voxplane_node_calls_healed_total", by="here")
    await say(tenant, call, "good morning", "Welcome to the exam.")

    await stage.vendors.answer(Fields({"answer": LONG}), Fields({"answer": LONG}), key=key)
    since = len(call.events)
    await call.speak("tell me about it")
    began = await call.wait("speech_began", since=since)
    os.kill(process_of(tenant, session.session_id), signal.SIGKILL)
    killed = time.monotonic()
    again = await call.wait("speech_began", since=since, where=lambda event: event["who"] != began["who"])
    print(f"heard again after {again.at - killed:.2f} s")  # noqa: T201
    assert again.at - killed < HEARD_AGAIN_SECONDS_MAX
    await call.wait("speech_heard", since=since, who=again["who"])

    await say(tenant, call, "what is next", "Describe the picture.")
    asked = await stage.vendors.requests(CHAT, key=key)
    before = ["good morning", "Welcome to the exam.", "tell me about it"]
    assert conversation(asked[-2]) == before
    assert conversation(asked[-1]) == [*before, LONG, "what is next"]
    after = await tenant.session(session.session_id)
    assert after.replacements == 1
    assert await stage.metric("voxplane_node_calls_healed_total", by="here") == healed + 1
    assert len(stage.node.entries("call healed", session_id=session.session_id)) == 1
    assert {identity for reply in shown(call.of("rpc")).values() for identity in reply.sessions} == {
        session.session_id
    }
    await call.hang_up()


async def test_calls_go_on_without_the_control_plane(tenant: Tenant, long_mode: bool) -> None:
    """While it is gone a call goes on and a new one begins; when it is back, a
    change reaches the call, and it is told the turns that it has missed."""
    stage = tenant.stage
    await tenant.create(examiner(tenant))
    call = await tenant.call()
    session = await tenant.session()
    await say(tenant, call, "good morning", "Welcome to the exam.")
    lost = len(stage.node.entries("stream ended"))
    await stage.control.kill()
    gone = time.monotonic()
    await stage.node.logged("stream ended", lost + 1)
    await stage.counts(0, "voxplane_node_connected")
    await stage.counts(0, "voxplane_node_reports_connected")
    await say(tenant, call, "are you there", "Of course I am.")
    other = await tenant.call()
    await say(tenant, other, "good evening", "Welcome in the evening.")
    await other.hang_up()
    outage = LONG_OUTAGE_SECONDS if long_mode else OUTAGE_SECONDS
    await call.silence(until=gone + outage)
    await say(tenant, call, "and now", "I am still here.")
    await stage.start_control()
    await stage.counts(1, "voxplane_node_connected")
    await stage.counts(1, "voxplane_node_reports_connected")

    config = examiner(tenant, "You have changed.")
    await tenant.update(config, "prompt_config.instructions")
    await stage.node.logged("config applied", session_id=session.session_id, version=2)
    await say(tenant, call, "what is next", "Describe the picture.")
    asked = await stage.vendors.requests(CHAT, key=tenant.keys["openai"])
    assert asked[-1].body["messages"][0]["content"] == "You have changed."
    assert conversation(asked[-1])[2:4] == ["are you there", "Of course I am."]
    turns = await tenant.turns(session.session_id, 4)
    assert [turn.version for turn in turns] == [1, 1, 1, 2]
    await call.hang_up()


async def test_a_node_that_is_to_stop_lets_its_call_finish(tenant: Tenant) -> None:
    """After SIGTERM the call goes on, a new one is not taken, and the node ends with the call."""
    stage = tenant.stage
    await tenant.create(examiner(tenant))
    call = await tenant.call()
    session = await tenant.session()
    stage.node.signal(signal.SIGTERM)
    try:
        await say(tenant, call, "good morning", "Welcome to the exam.")
        assert await stage.metric("voxplane_node_draining") == 1
        await tenant.update(examiner(tenant, "You have changed."), "prompt_config.instructions")
        await stage.node.logged("config applied", session_id=session.session_id, version=2)
        await say(tenant, call, "what is next", "Describe the picture.")
        await call.hang_up()
        assert await stage.node.ended() == 0
        ended = await tenant.session(session.session_id, state=session_pb2.SESSION_STATE_ENDED)
        assert ended.outcome == session_pb2.SESSION_OUTCOME_CALLER_LEFT
    finally:
        await stage.node.kill_if_running()


async def test_a_call_outlives_a_restart_of_livekits_server(tenant: Tenant) -> None:
    """Caller and agent come back by themselves, to the same session with its history."""
    stage = tenant.stage
    await tenant.create(examiner(tenant))
    call = await tenant.call()
    session = await tenant.session()
    await say(tenant, call, "good morning", "Welcome to the exam.")
    since = len(call.events)
    registered = len(stage.node.entries("registered worker"))
    await stage.livekit.kill()
    await stage.start_livekit()
    await call.wait("reconnected", since=since)
    await call.wait("track_subscribed", since=since)
    await say(tenant, call, "are you there", "Of course I am.")
    asked = await stage.vendors.requests(CHAT, key=tenant.keys["openai"])
    assert conversation(asked[-1]) == ["good morning", "Welcome to the exam.", "are you there"]
    assert (await tenant.session()).session_id == session.session_id
    await call.hang_up()

    await stage.node.logged("registered worker", registered + 1)
    await stage.counts(1, "voxplane_node_livekit_registered")
    another = await tenant.call()
    await say(tenant, another, "good evening", "Welcome in the evening.")
    await another.hang_up()


async def test_a_dispatch_that_is_refused_says_why(tenant: Tenant) -> None:
    """Whoever waits in the room is told that there is no such agent."""
    call = tenant.line()
    await call.join(tenant.ticket(call, "nobody"), methods=[], topics=[])
    told = await call.wait("data_received", topic="voxplane.rejected")
    assert "AGENT_NOT_FOUND" in told["text"]
    refused = await tenant.stage.metric("voxplane_node_calls_refused_total", reason="AGENT_NOT_FOUND")
    assert refused >= 1
    await call.hang_up()
