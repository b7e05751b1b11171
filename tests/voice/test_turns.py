"""A call of several turns, with real audio both ways."""

from __future__ import annotations

import pytest

from tests.livekit.calls import Call, Reply
from tests.livekit.screen import shown
from tests.livekit.tenants import Tenant
from tests.vendors import Fields
from tests.voice.examiner import CHAT, SPEECH, assert_in_voice, conversation, examiner

pytestmark = pytest.mark.asyncio(loop_scope="session")

TURNS = (
    ("good morning", {"tone": "calmly", "answer": "Welcome to the exam of today.", "score": 1}),
    ("i am ready now", {"tone": "with joy", "answer": "Then let us begin at once.", "score": 2}),
    ("what is next", {"tone": "gravely", "answer": "Describe the picture in your own words.", "score": 3}),
)


async def test_a_call_of_several_turns(tenant: Tenant) -> None:
    """Each utterance is heard, answered by the schema, shown by RPC before the
    speech ends, and spoken as that very reply wants it."""
    vendors = tenant.stage.vendors
    await tenant.create(examiner(tenant))
    call = await tenant.call()
    for number, (words, said) in enumerate(TURNS, start=1):
        await vendors.answer(Fields(said), key=tenant.keys["openai"])
        reply = await call.turn(words)
        assert (reply.words, reply.text) == (words, said["answer"])
        assert_in_voice(reply.heard.pitches, "alloy")
        spoken = (await vendors.wait(SPEECH, number, key=tenant.keys["voice"]))[-1]
        assert (spoken.body["input"], spoken.body["instructions"]) == (said["answer"], said["tone"])
        assert_shown(call, number, said, reply)
    asked = await vendors.wait(CHAT, len(TURNS), key=tenant.keys["openai"])
    assert conversation(asked[-1]) == [text for words, said in TURNS for text in (words, said["answer"])][:-1]
    await call.hang_up()
    active = tenant.stage.livekit.entries("participant active", room=call.room)
    # where UDP fails LiveKit takes TCP, and says nothing
    assert {entry["connectionType"] for entry in active} == {"udp"}


def assert_shown(call: Call, turn: int, fields: dict[str, object], reply: Reply) -> None:
    """The frontend has all fields of the turn, by RPC, before its speech has ended."""
    assert not call.of("text", topic="voxplane.fields")
    seen = shown(call.of("rpc"))[turn]
    assert seen.fields == fields
    assert seen.complete == set(fields)
    assert seen.done_at is not None
    assert seen.done_at < reply.heard.ended
    assert (seen.versions, len(seen.sessions)) == ({1}, 1)
