"""The protocol of a node's stream, by itself."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from control_plane.fleet import at_once
from control_plane.sessions.intake import take_in
from control_plane.sessions.link_state import Greet, Keep, LinkState, Settle
from tests.contract.session_samples import ACTIVE, ENDED, LOST, key, report, session, turn
from voxplane.errors import VoxplaneError
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as pb2

HELLO = pb2.ReportSessionsRequest(
    hello=pb2.SessionReporter(node_id="n1", running=[pb2.SessionKey(tenant_id="acme", session_id="s1")])
)
RESULT = pb2.ReportSessionsRequest(result=pb2.SessionCommandResult(command_id="c1"))
NOTHING = pb2.ReportSessionsRequest()


def batch(sequence: int, *reports: pb2.SessionReport) -> pb2.ReportSessionsRequest:
    """A batch as a message."""
    return pb2.ReportSessionsRequest(batch=pb2.SessionBatch(sequence=sequence, reports=reports))


def taken_in(*reports: pb2.SessionReport) -> list[pb2.SessionReport]:
    """What is to be stored of a batch of n1's."""
    action = greeted().receive(batch(1, *reports))
    assert isinstance(action, Keep)
    return list(at_once(take_in(action.batch, action.node_id)))


def greeted() -> LinkState:
    """A stream that has begun."""
    state = LinkState()
    assert state.receive(HELLO) == Greet("n1", frozenset({key("s1")}))
    return state


@pytest.mark.parametrize("first", [batch(1), RESULT, NOTHING], ids=["batch", "result", "nothing"])
def test_the_first_message_is_hello(first: pb2.ReportSessionsRequest) -> None:
    """A stream that does not begin with hello is refused."""
    with pytest.raises(VoxplaneError, match="the first message must be hello") as raised:
        LinkState().receive(first)
    assert raised.value.reason_name == "INVALID_REQUEST"


def test_hello_comes_once() -> None:
    """A second hello is refused: another node is another stream."""
    with pytest.raises(VoxplaneError, match="hello comes once"):
        greeted().receive(HELLO)


def test_a_message_of_a_newer_contract_is_passed_over() -> None:
    """What a newer node tells beyond this contract is left alone."""
    assert greeted().receive(NOTHING) is None


def test_a_result_settles_its_command() -> None:
    """A result names its command."""
    assert greeted().receive(RESULT) == Settle("c1", RESULT.result.status)


def test_reports_are_of_the_node_that_the_stream_is_of() -> None:
    """A report cannot be of another node, and says ended or not, no more."""
    unsaid = session_pb2.SESSION_STATE_UNSPECIFIED
    states = {"s1": unsaid, "s2": ACTIVE, "s3": LOST, "s4": ENDED}
    reports = [report(session(name, node_id="n9", state=state)) for name, state in states.items()]
    taken = taken_in(*reports)
    assert {each.session.node_id for each in taken} == {"n1"}
    assert [each.session.state for each in taken] == [ACTIVE, ACTIVE, ACTIVE, ENDED]


@given(st.lists(st.integers(1, 9)))
def test_what_is_acknowledged_rises(stored: list[int]) -> None:
    """However batches are numbered, the acknowledged number is the highest
    that is stored, and each is told once."""
    state = greeted()
    told = []
    for sequence in stored:
        state.stored(sequence)
        if number := state.acknowledge():
            told.append(number)
    assert told == sorted(set(told))
    assert max(told, default=0) == max(stored, default=0)
    assert state.acknowledge() == 0


def test_times_that_are_none_are_refused() -> None:
    """A time that no client could read is named and refused, wherever it is."""
    whole = report(session(), turn(1), turn(2))
    whole.session.end_time.seconds = 10**15
    whole.session.figures.spoken_audio.nanos = -2_000_000_000
    whole.turns[0].response.seconds, whole.turns[0].response.nanos = 1, -1
    whole.turns[1].start_time.nanos = -1
    whole.turns[1].errors.add().time.seconds = -(10**15)
    with pytest.raises(VoxplaneError) as raised:
        taken_in(report(session("s0")), whole)
    assert [violation.field for violation in raised.value.violations] == [
        "batch.reports[1].session.end_time",
        "batch.reports[1].session.figures.spoken_audio",
        "batch.reports[1].turns[0].response",
        "batch.reports[1].turns[1].start_time",
        "batch.reports[1].turns[1].errors[0].time",
    ]


def test_few_violations_are_named() -> None:
    """A batch full of bad times is refused in few words."""
    bad = session()
    bad.end_time.seconds = 10**15
    with pytest.raises(VoxplaneError) as raised:
        taken_in(*(report(bad) for _ in range(500)))
    assert len(raised.value.violations) == 10


def test_times_that_are_some_are_taken() -> None:
    """The ends of the range of times and durations are in it."""
    whole = report(session(node_id="n1"), turn(1))
    whole.session.start_time.seconds = -62_135_596_800
    whole.session.end_time.seconds, whole.session.end_time.nanos = 253_402_300_799, 999_999_999
    whole.turns[0].response.seconds, whole.turns[0].response.nanos = -1, -1
    assert taken_in(whole) == [whole]
