"""How a session by text begins, ends and is handed on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.job.job_world import caller, delivery, offline_config
from tests.unit.job.text_world import SECONDS_MAX, Running, running
from voxplane.errors import VoxplaneError
from voxplane.node.v1.relay_service_pb2 import FollowRefused
from voxplane.v1 import session_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.v1.session_service_pb2 import EndSessionAction, SessionCommand

CHANGED = {"outcome": session_pb2.SESSION_OUTCOME_OPERATOR_ENDED, "end_reason": "enough"}


def config(**session: Any) -> AgentConfig:
    """A config with texts for the session, over the caller's name."""
    made = offline_config(session_config=session)
    made.prompt_config.dynamic_vars["name"] = "you"
    return made


def texts(run: Running) -> list[str]:
    """What the agent said, a turn each."""
    return [each.turn.text for each in run.of("turn")]


async def ended(run: Running) -> session_pb2.Session:
    """Wait until the session is to end; its record afterwards."""
    await asyncio.wait_for(run.session.until_ended(), SECONDS_MAX)
    await run.session.aclose()
    return run.link.records[-1]


async def test_the_agent_greets_the_caller_by_name() -> None:
    """A greeting is rendered with the call's variables, is the first turn, and
    is in the history."""
    who = caller(variables={"name": "Ada"})
    async with running(config(greeting="Hello {{ name }}."), who) as run:
        await run.until(lambda: texts(run) == ["Hello Ada."])
        assert run.history() == [("assistant", "Hello Ada.")]
        assert [(turn.turn, turn.version) for turn in run.link.turns] == [(1, 1)]


async def test_the_model_makes_the_first_words_itself() -> None:
    """With greeting_instructions the model begins, without a word of the caller."""
    async with running(config(greeting_instructions="Greet {{ name }} in verse.")) as run:
        await run.until(lambda: len(texts(run)) == 1)
        assert texts(run)[0]
        assert all(role == "assistant" for role, _ in run.history())


async def test_an_operator_ends_a_session_after_its_goodbye() -> None:
    """EndSession has the goodbye said, and the record says who ended it and why."""
    async with running(config(goodbye="Bye {{ name }}.")) as run:
        run.session.command(SessionCommand(command_id="c", end=EndSessionAction(reason="enough")))
        record = await ended(run)
        assert texts(run) == ["Bye you."]
        assert (record.outcome, record.end_reason) == tuple(CHANGED.values())


async def test_an_operator_ends_a_session_at_once() -> None:
    """With `now` nothing is said any more."""
    async with running(config(goodbye="Bye.")) as run:
        run.session.command(SessionCommand(command_id="c", end=EndSessionAction(now=True, reason="enough")))
        await ended(run)
        assert "Bye." not in texts(run)


@pytest.mark.parametrize(
    ("limit", "outcome"),
    [
        ({"silence_timeout": "10s"}, session_pb2.SESSION_OUTCOME_SILENCE_LIMIT),
        ({"max_session_duration": "10s"}, session_pb2.SESSION_OUTCOME_DURATION_LIMIT),
    ],
)
async def test_limits_end_a_session_with_a_goodbye(
    limit: dict[str, str], outcome: session_pb2.SessionOutcome
) -> None:
    """A session that is silent, or lasts, for too long says goodbye and ends;
    the limit may have come while it ran."""
    async with running(config(goodbye="Bye.")) as run:
        limited = config(goodbye="Bye.")
        limited.MergeFrom(offline_config(limits_config=limit))
        await run.change(2, limited)
        await run.clock.settle()
        await run.clock.advance(9.0)
        assert texts(run) == []
        await run.clock.advance(1.0)
        record = await ended(run)
        assert texts(run) == ["Bye."]
        assert record.outcome == outcome


async def test_a_word_of_the_caller_puts_the_silence_off() -> None:
    """Silence counts from the end of the last turn."""
    limited = offline_config(limits_config={"silence_timeout": "10s"})
    async with running(limited) as run:
        await run.clock.advance(9.0)
        await run.say("Still here.")
        await run.clock.advance(9.0)
        await run.clock.settle()
        assert not run.link.records[-1].HasField("end_time")
        await run.clock.advance(1.0)
        assert (await ended(run)).outcome == session_pb2.SESSION_OUTCOME_SILENCE_LIMIT


async def test_another_agent_takes_over_and_speaks_first() -> None:
    """After a transfer the other agent greets, knows the history, and the record
    says who holds the session."""
    sales = offline_config("I sell.", session_config={"greeting": "Sales here."})
    async with running(offline_config()) as run:
        await run.say("I want to buy.")
        run.session.deliver(delivery(7, sales, agent="sales"))
        await run.until(lambda: "Sales here." in texts(run))
        await run.say("Well?")
        assert run.history()[0] == ("user", "I want to buy.")
        assert run.link.records[-1].agent_id == "sales"
        assert [turn.agent_id for turn in run.link.turns] == ["support", "sales", "sales"]


async def test_what_was_said_is_left_with_the_node() -> None:
    """Each message goes to the node once, for a process that may have to take over."""
    async with running(offline_config()) as run:
        await run.say("My name is Ada.")
        await run.say("And my number is seven.")
        assert len(run.link.memory) == 4
        assert b"Ada" in run.link.memory[0]


async def test_an_agent_that_cannot_take_over_leaves_the_session_as_it_is() -> None:
    """A transfer to an agent whose config cannot be used is told to the caller;
    the first agent goes on, and is followed again."""
    async with running(offline_config("mark-1")) as run:
        await run.say("To sales, please.")
        run.session.deliver(delivery(7, offline_config(llm_config={"provider": "nobody"}), agent="sales"))
        await run.until(lambda: len(texts(run)) == 2)
        assert run.link.followed == ["support"]
        assert run.link.counts["session"] == 1
        assert run.link.records[-1].agent_id == "support"
        assert "mark-1" in (await run.say("Well?")).turn.text


async def test_an_agent_that_the_node_does_not_have_is_no_transfer() -> None:
    """The caller is told, and the session goes on."""
    async with running(offline_config()) as run:
        run.session.follow_refused(FollowRefused(agent_id="nobody"))
        await run.until(lambda: len(texts(run)) == 1)
        assert run.link.records[-1].agent_id == "support"


async def test_an_agent_cannot_hand_the_session_to_itself() -> None:
    """The model would say nothing after it, and nobody else would."""
    async with running(offline_config()) as run:
        control = run.session.session.userdata.control
        with pytest.raises(VoxplaneError, match="support has the session already"):
            control.transfer("support")
        assert run.link.followed == []
        control.transfer("sales")
        assert run.link.followed == ["sales"]


async def test_the_memory_of_the_process_is_told() -> None:
    """The node's metrics can say what a session costs."""
    async with running(offline_config()) as run:
        await run.until(lambda: run.link.pss_bytes > 1_000_000)
