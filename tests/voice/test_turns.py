"""A call of several turns, with real audio both ways."""

from __future__ import annotations

import pytest

from tests.livekit.calls import Call
from tests.livekit.tenants import Tenant
from tests.vendors import Fields
from tests.vendors.sound import pitch
from voxplane.v1.schema_pb2 import SchemaField

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT, LISTEN, SPEECH = "/v1/chat/completions", "/v1/listen", "/v1/audio/speech"
PITCH_TOLERANCE = 0.03
TURNS = (
    ("good morning", {"tone": "calmly", "answer": "Welcome to the exam.", "score": 1}),
    ("i am ready now", {"tone": "with joy", "answer": "Then let us begin at once.", "score": 2}),
    ("what is next", {"tone": "gravely", "answer": "Describe the picture.", "score": 3}),
)


def fields() -> list[SchemaField]:
    """What the reply of an examiner holds."""
    tone = SchemaField(field_name="tone", field_type="string", required=True, description="How to speak.")
    answer = SchemaField(field_name="answer", field_type="string", required=True, description="What to say.")
    score = SchemaField(field_name="score", field_type="integer", required=True, description="1 to 5.")
    answer.metadata.use_in_tts = True
    return [tone, answer, score]


async def test_a_call_of_several_turns(tenant: Tenant) -> None:
    """Each utterance is heard, answered by the schema, and spoken as that reply wants it."""
    config = tenant.config(*fields())
    config.tts_config.instruction_field = "tone"
    await tenant.create(config)
    call = await tenant.call()
    for number, (words, said) in enumerate(TURNS, start=1):
        await tenant.stage.vendors.answer(Fields(said), key=tenant.keys["openai"])
        reply = await call.turn(words)
        assert (reply.words, reply.text) == (words, said["answer"])
        assert_in_voice(reply.heard.pitches, "alloy")
        spoken = (await tenant.stage.vendors.wait(SPEECH, number, key=tenant.keys["voice"]))[-1]
        assert (spoken.body["input"], spoken.body["instructions"]) == (said["answer"], said["tone"])
    await assert_history(tenant)
    await call.hang_up()
    assert_media_over_udp(tenant, call)


def assert_in_voice(pitches: tuple[int, ...], voice: str) -> None:
    """All that was heard has the pitch of the voice."""
    assert pitches
    assert all(abs(heard / pitch(voice) - 1) < PITCH_TOLERANCE for heard in pitches), (pitches, pitch(voice))


async def assert_history(tenant: Tenant) -> None:
    """The last request holds all that was said before it."""
    asked = await tenant.stage.vendors.wait(CHAT, len(TURNS), key=tenant.keys["openai"])
    assert len(asked) == len(TURNS)
    said = [message["content"] for message in asked[-1].body["messages"] if message["role"] != "system"]
    expected = [text for words, reply in TURNS for text in (words, reply["answer"])]
    assert said == expected[:-1]


def assert_media_over_udp(tenant: Tenant, call: Call) -> None:
    """The audio went over UDP: LiveKit falls back on TCP silently."""
    active = tenant.stage.livekit.entries("participant active", room=call.room)
    assert {entry["connectionType"] for entry in active} == {"udp"}
