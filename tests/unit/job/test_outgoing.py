"""What a job tells its node, while the node does not listen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent_node.job.outgoing import (
    ITEMS_MAX,
    MEMORY_BYTES_MAX,
    REPORTS_MAX,
    TURNS_MAX,
    TURNS_PER_MESSAGE_MAX,
    Outgoing,
)
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.v1 import session_pb2, session_service_pb2
from voxplane.v1.config_sync_service_pb2 import BundleStatus


def _told(outgoing: Outgoing) -> list[relay_pb2.AttachRequest]:
    told: list[relay_pb2.AttachRequest] = []
    while (request := outgoing.next()) is not None:
        told.append(request)
    return told


def test_what_cannot_wait_goes_first() -> None:
    """Answers and a change of agent overtake statuses, these the record, and
    figures come last."""
    outgoing = Outgoing()
    outgoing.figures(swap="next_turn applied", pss_bytes=7)
    outgoing.figures(swap="next_turn applied", error="llm")
    outgoing.memory(1, b"item")
    outgoing.session(session_pb2.Session(sequence=1))
    outgoing.status(BundleStatus(revision=1))
    outgoing.follow("sales")
    outgoing.result(session_service_pb2.SessionCommandResult(command_id="c"))
    told = _told(outgoing)
    kinds = [request.WhichOneof("event") for request in told]
    assert kinds == ["result", "follow", "status", "session", "memory", "figures"]
    assert dict(told[-1].figures.swaps) == {"next_turn applied": 2}
    assert (dict(told[-1].figures.errors), told[-1].figures.pss_bytes) == ({"llm": 1}, 7)
    assert _told(outgoing) == []


def test_a_record_takes_the_place_of_the_one_before() -> None:
    """The newest record goes, with all turns that have ended meanwhile."""
    outgoing = Outgoing()
    for number in range(1, 4):
        outgoing.session(session_pb2.Session(sequence=number), session_pb2.SessionTurn(turn=number))
    (request,) = _told(outgoing)
    assert request.session.session.sequence == 3
    assert [turn.turn for turn in request.session.turns] == [1, 2, 3]


@given(turns=st.integers(0, TURNS_MAX + 50))
def test_turns_are_bounded_and_in_order(turns: int) -> None:
    """No message has more turns than it may; past the bound the oldest go."""
    outgoing = Outgoing()
    outgoing.session(session_pb2.Session(), *(session_pb2.SessionTurn(turn=n) for n in range(turns)))
    told = _told(outgoing)
    assert max(len(request.session.turns) for request in told) <= TURNS_PER_MESSAGE_MAX
    numbers = [turn.turn for request in told for turn in request.session.turns]
    assert numbers == list(range(turns))[-TURNS_MAX:]


@given(sizes=st.lists(st.sampled_from([1, 1_000, MEMORY_BYTES_MAX - 1, MEMORY_BYTES_MAX + 1]), max_size=12))
def test_memory_goes_in_messages_of_bounded_size(sizes: list[int]) -> None:
    """Items stay in order; one alone may be larger than the bound."""
    outgoing = Outgoing()
    outgoing.memory(3, *(bytes([index]) * size for index, size in enumerate(sizes)))
    told = [request.memory for request in _told(outgoing)]
    assert all(memory.turns == 3 for memory in told)
    for memory in told:
        assert len(memory.items) <= 1 or sum(map(len, memory.items)) <= MEMORY_BYTES_MAX
    assert [len(item) for memory in told for item in memory.items] == sizes


def test_statuses_and_items_are_bounded() -> None:
    """Of too many the newest are kept."""
    outgoing = Outgoing()
    for number in range(REPORTS_MAX + 5):
        outgoing.status(BundleStatus(revision=number))
    outgoing.memory(0, *(b"%d" % number for number in range(ITEMS_MAX + 5)))
    told = _told(outgoing)
    assert told[0].status.revision == 5
    assert told[-1].memory.items[0] == b"5"
