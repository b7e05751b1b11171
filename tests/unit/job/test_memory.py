"""A conversation that is left for the process that takes over."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from livekit.agents.llm import AgentConfigUpdate, ChatContext, FunctionCall, FunctionCallOutput

from agent_node.job.memory import ITEM_BYTES_MAX, Memory, recalled


def conversation() -> ChatContext:
    """A question, a tool call, its answer and a reply."""
    history = ChatContext.empty()
    history.add_message(role="user", content="Where is my order?")
    history.insert(FunctionCall(call_id="c1", name="look_up", arguments='{"order": 7}'))
    history.insert(FunctionCallOutput(call_id="c1", name="look_up", output="on its way", is_error=False))
    history.add_message(role="assistant", content="It is on its way.")
    return history


def test_what_is_recalled_is_what_was_said() -> None:
    """Messages, tool calls and their answers come back, in order and with their ids."""
    history = conversation()
    assert recalled(Memory().news(history)) == history.items


def test_each_item_is_told_once() -> None:
    """What the node knows already is not told again, also not by the process
    that took over."""
    history = conversation()
    memory = Memory(history.items[:2])
    assert recalled(memory.news(history)) == history.items[2:]
    assert memory.news(history) == []
    history.add_message(role="user", content="Thanks.")
    assert len(memory.news(history)) == 1


def test_changes_of_the_config_are_not_part_of_what_was_said() -> None:
    """The process that takes over has instructions of its own."""
    history = conversation()
    history.insert(AgentConfigUpdate(instructions="Be kind."))
    assert len(Memory().news(history)) == 4


def test_an_item_that_is_too_large_is_left_out() -> None:
    """One huge message costs itself, not the conversation."""
    history = conversation()
    history.add_message(role="user", content="x" * ITEM_BYTES_MAX)
    assert len(Memory().news(history)) == 4


@given(st.lists(st.binary(max_size=30), max_size=5))
def test_what_cannot_be_read_is_skipped(broken: list[bytes]) -> None:
    """Bytes that are no item never keep a session from being taken over."""
    told = Memory().news(conversation())
    assert recalled([*broken, *told, *broken]) == recalled(told)
