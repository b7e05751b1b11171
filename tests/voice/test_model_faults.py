"""A language model that fails in the middle of calls: the call goes on, the
frontend and the control plane are told, and the node counts it."""

from __future__ import annotations

import pytest

from tests.livekit.calls import Call, Reply
from tests.livekit.screen import Shown, shown
from tests.livekit.tenants import Tenant
from tests.vendors import Fault, Fields, Text
from tests.voice.examiner import CHAT, SPEECH, conversation, examiner
from voxplane.v1 import session_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

WHOLE = {"tone": "calmly", "answer": "Describe the picture in your own words.", "score": 3}
HALF = '{"tone": "calmly", "answer": "This much I could still say'
HALF_SPOKEN = "This much I could still say"
TIMEOUT_SECONDS = 3
ERRORS = "voxplane_node_session_errors_total"


async def impatient(tenant: Tenant, *, retries: int) -> Call:
    """A call of an agent whose model is given up soon."""
    config = examiner(tenant)
    config.llm_config.timeout.FromSeconds(TIMEOUT_SECONDS)
    config.llm_config.max_retries = retries
    config.schema_config.fields[2].required = False
    config.schema_config.fields[2].default.number_value = 1
    await tenant.create(config)
    return await tenant.call()


async def failing(tenant: Tenant, call: Call, words: str, turn: int) -> Shown:
    """A turn that goes wrong, as the frontend is told of it; the node counts it once."""
    before = await tenant.stage.metric(ERRORS, source="llm")
    since = len(call.events)
    await call.speak(words)
    await call.wait("rpc", since=since, where=lambda event: '"done":true' in event["payload"])
    replies = shown(call.of("rpc"))
    told = [error for reply in replies.values() for error in reply.errors if error["turn"] == turn]
    assert [error["source"] for error in told] == ["llm"]
    await tenant.stage.counts(before + 1, ERRORS, source="llm")
    return replies.get(turn, Shown())


async def healthy(tenant: Tenant, call: Call, words: str) -> Reply:
    """A turn as it should be."""
    await tenant.stage.vendors.answer(Fields(WHOLE), key=tenant.keys["openai"])
    reply = await call.turn(words)
    assert reply.text == WHOLE["answer"]
    return reply


async def test_a_model_that_hangs_costs_one_turn(tenant: Tenant) -> None:
    """After its timeout the turn ends with an error; the next turn is whole, and knows both questions."""
    vendors, key = tenant.stage.vendors, tenant.keys["openai"]
    call = await impatient(tenant, retries=0)
    session = await tenant.session()
    await vendors.break_next(CHAT, Fault.HANG, key=key)
    seen = await failing(tenant, call, "good morning", 1)
    assert seen.fields == {}
    await healthy(tenant, call, "are you there")
    asked = await vendors.requests(CHAT, key=key)
    assert [conversation(each) for each in asked] == [["good morning"], ["good morning", "are you there"]]
    turns = await tenant.turns(session.session_id, 2)
    assert [[error.source for error in turn.errors] for turn in turns] == [["llm"], []]
    await call.hang_up()


async def test_a_model_that_errs_five_times_is_asked_again(tenant: Tenant) -> None:
    """Three attempts fail and cost a turn; of the next two failures nobody hears."""
    vendors, key = tenant.stage.vendors, tenant.keys["openai"]
    call = await impatient(tenant, retries=2)
    await vendors.break_next(CHAT, Fault.ERROR, times=5, key=key)
    await failing(tenant, call, "good morning", 1)
    assert len(await vendors.requests(CHAT, key=key)) == 3
    before = await tenant.stage.metric(ERRORS, source="llm")
    await healthy(tenant, call, "are you there")
    assert len(await vendors.requests(CHAT, key=key)) == 6
    assert await tenant.stage.metric(ERRORS, source="llm") == before
    await call.hang_up()


async def test_a_reply_that_breaks_off_is_spoken_as_far_as_it_came(tenant: Tenant) -> None:
    """Half a JSON, then the end: what came is said and shown, the rest has its default."""
    vendors, key = tenant.stage.vendors, tenant.keys["openai"]
    call = await impatient(tenant, retries=0)
    await vendors.answer(Text(HALF), key=key)
    seen = await failing(tenant, call, "good morning", 1)
    assert seen.fields == {"tone": "calmly", "answer": HALF_SPOKEN, "score": 1}
    await call.wait("speech_heard")
    spoken = await vendors.wait(SPEECH, 1, key=tenant.keys["voice"])
    assert spoken[0].body["input"] == HALF_SPOKEN
    await healthy(tenant, call, "are you there")
    asked = await vendors.requests(CHAT, key=key)
    assert conversation(asked[-1]) == ["good morning", HALF_SPOKEN, "are you there"]
    await call.hang_up()


async def test_a_connection_that_breaks_off_leaves_what_was_said(tenant: Tenant) -> None:
    """The connection is cut in the middle of the reply: the same, with an error."""
    vendors, key = tenant.stage.vendors, tenant.keys["openai"]
    call = await impatient(tenant, retries=0)
    await vendors.answer(Fields({**WHOLE, "answer": "One two three. Four five six. " * 4}), key=key)
    await vendors.break_next(CHAT, Fault.HALF, key=key)
    seen = await failing(tenant, call, "good morning", 1)
    assert seen.fields["tone"] == "calmly"
    assert seen.fields["answer"].startswith("One two three.")
    await call.hang_up()


async def test_a_model_that_always_errs_ends_the_call(tenant: Tenant) -> None:
    """After four turns in a row without a reply the session ends, and says why."""
    vendors, key = tenant.stage.vendors, tenant.keys["openai"]
    call = await impatient(tenant, retries=0)
    session = await tenant.session()
    await vendors.break_next(CHAT, Fault.ERROR, times=5, key=key)
    for turn, words in enumerate(("one", "two", "three", "four"), start=1):
        await failing(tenant, call, words, turn)
    await call.wait("participant_disconnected")
    ended = await tenant.session(session.session_id, state=session_pb2.SESSION_STATE_ENDED)
    assert ended.outcome == session_pb2.SESSION_OUTCOME_FAILED
    assert "llm" in ended.end_reason
    turns = await tenant.turns(session.session_id, 4)
    assert [[error.source for error in turn.errors] for turn in turns] == [["llm"]] * 4
    await call.hang_up()
