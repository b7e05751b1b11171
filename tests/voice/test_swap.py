"""A config that changes while a call goes on."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from tests.livekit.calls import Call, Reply
from tests.livekit.screen import shown
from tests.livekit.tenants import Tenant
from tests.vendors import Fields
from tests.voice.examiner import (
    CHAT,
    LANGUAGES,
    LISTEN,
    SPEECH,
    SWAPPED,
    VOICES,
    assert_asked_by,
    assert_in_voice,
    conversation,
    revised,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG = "This is a rather long answer and it goes on and on so that there is time enough for a change."
FRAME_SECONDS = 0.01
SAMPLES_PER_FRAME = 480
ROUNDS_MAX = 4


@dataclass(frozen=True, slots=True)
class Gaps:
    """What was missing in the agent's audio: the longest silence in it, and the
    samples that the receiver made up."""

    seconds: float
    concealed: int

    @classmethod
    def of(cls, reply: Reply) -> Gaps:
        """Those of a reply."""
        return cls(reply.heard.longest_quiet_seconds, reply.concealed_samples)


async def swap(tenant: Tenant, number: int) -> None:
    """Commit the config of that number."""
    await tenant.update(revised(tenant, number), *SWAPPED)


async def applied(tenant: Tenant, number: int) -> None:
    """Wait until the call runs the config of that number."""
    await tenant.stage.node.logged("config applied", tenant_id=tenant.tenant_id, version=number)


async def say(tenant: Tenant, call: Call, words: str, answer: str) -> Reply:
    """A turn with that answer."""
    await tenant.stage.vendors.answer(Fields({"answer": answer}), key=tenant.keys["openai"])
    return await call.turn(words)


async def assert_turn(tenant: Tenant, call: Call, turn: int, number: int, reply: Reply) -> None:
    """The turn is of the config of that number in all its parts."""
    asked = await tenant.stage.vendors.wait(CHAT, turn, key=tenant.keys["openai"])
    spoken = await tenant.stage.vendors.wait(SPEECH, turn, key=tenant.keys["voice"])
    assert_asked_by(number, asked[turn - 1])
    assert spoken[turn - 1].body["voice"] == VOICES[number - 1]
    assert_in_voice(reply.heard.pitches, VOICES[number - 1])
    seen = shown(call.of("rpc"))[turn]
    assert f"note_{number}" in seen.fields
    assert (seen.versions, len(seen.revisions)) == ({number}, 1)


async def test_a_swap_between_turns_and_one_while_the_caller_speaks(tenant: Tenant) -> None:
    """The next turn shows all of it; no word of an utterance in mid-air is lost."""
    await tenant.create(revised(tenant, 1))
    call = await tenant.call()
    first = await say(tenant, call, "good morning", "Welcome to the exam.")
    await assert_turn(tenant, call, 1, 1, first)

    await swap(tenant, 2)
    await applied(tenant, 2)
    second = await say(tenant, call, "i am ready now", "Then let us begin.")
    await assert_turn(tenant, call, 2, 2, second)

    words = "here is a long story which i tell you while somebody changes you"
    since = len(call.events)
    await tenant.stage.vendors.answer(Fields({"answer": "I see."}), key=tenant.keys["openai"])
    speaking = call.speaking(words)
    await call.wait("transcript", since=since, speaker="caller", final=False)
    await swap(tenant, 3)
    _, spoken_at = await speaking
    third = await call.reply(words, since=since, spoken_at=spoken_at)
    assert third.words == words
    await applied(tenant, 3)
    fourth = await say(tenant, call, "what is next", "Describe the picture.")
    await assert_turn(tenant, call, 4, 3, fourth)

    heard = await tenant.stage.vendors.requests(LISTEN, key=tenant.keys["deepgram"])
    assert [request.query["language"] for request in heard] == list(LANGUAGES[:3])
    asked = await tenant.stage.vendors.requests(CHAT, key=tenant.keys["openai"])
    said = ["good morning", "Welcome to the exam.", "i am ready now", "Then let us begin."]
    assert conversation(asked[-1]) == [*said, words, "I see.", "what is next"]
    await call.hang_up()


async def test_a_swap_while_the_agent_speaks_leaves_no_gap(tenant: Tenant) -> None:
    """The reply in flight stays as it began, the next one is new in all parts,
    the history is whole, and the audio has no longer gap than without a swap.

    A machine that is busy makes gaps of its own, at any time. So turns without
    and with a swap take turns, and of each kind the best counts: a gap that is
    made by swaps would be in all of those with one. A frame more is allowed,
    as gaps are measured in frames.
    """
    await tenant.create(revised(tenant, 1))
    call = await tenant.call()
    without: list[Gaps] = []
    swapped: list[Gaps] = []
    said: list[str] = []
    for number in range(1, ROUNDS_MAX + 1):
        quiet = await say(tenant, call, "good morning", LONG)
        await assert_turn(tenant, call, 2 * number - 1, number, quiet)
        without.append(Gaps.of(quiet))

        since = len(call.events)
        await tenant.stage.vendors.answer(Fields({"answer": LONG}), key=tenant.keys["openai"])
        _, spoken_at = await call.speak("and once more")
        await call.wait("speech_began", since=since)
        await swap(tenant, number + 1)
        committed = time.monotonic()
        reply = await call.reply("and once more", since=since, spoken_at=spoken_at)
        assert committed < reply.heard.ended
        await assert_turn(tenant, call, 2 * number, number, reply)
        swapped.append(Gaps.of(reply))
        said += ["good morning", LONG, "and once more", LONG]
        await applied(tenant, number + 1)
        if not longer(swapped, without):
            break
    print(f"without a swap: {without}; with one: {swapped}")  # noqa: T201
    assert not longer(swapped, without)
    last = await say(tenant, call, "what is next", "Describe the picture.")
    await assert_turn(tenant, call, 2 * len(swapped) + 1, len(swapped) + 1, last)
    asked = await tenant.stage.vendors.requests(CHAT, key=tenant.keys["openai"])
    assert conversation(asked[-1]) == [*said, "what is next"]
    await call.hang_up()


def longer(swapped: list[Gaps], without: list[Gaps]) -> bool:
    """Whether the best of the one kind has longer gaps than the best of the other."""
    seconds = min(each.seconds for each in swapped) - min(each.seconds for each in without)
    concealed = min(each.concealed for each in swapped) - min(each.concealed for each in without)
    return seconds > 1.5 * FRAME_SECONDS or concealed > SAMPLES_PER_FRAME
