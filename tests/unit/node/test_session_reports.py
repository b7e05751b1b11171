"""What waits to be told of sessions: bounds, refusals, batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent_node.sessions.frames import Kind, SessionId
from agent_node.sessions.reports import RUNNING_MAX, SessionReports
from tests.unit.node.session_samples import ended, report, session, turns
from voxplane.v1 import session_service_pb2 as pb2

PLENTY = 10_000_000


def told(batch: pb2.SessionBatch | None) -> list[tuple[str, int, list[int]]]:
    """Of each report in a batch the session, its sequence and the turns."""
    assert batch is not None
    return [
        (each.session.session_id, each.session.sequence, [turn.turn for turn in each.turns])
        for each in batch.reports
    ]


def test_a_session_is_one_report_with_all_that_is_new() -> None:
    """The newest record of each, with all turns since; and nothing more until that is acknowledged."""
    node = SessionReports(PLENTY)
    node.opened()
    node.report(report(session(sequence=1)))
    node.report(report(session(sequence=2), 1))
    node.report(report(session("s2", sequence=1)))
    node.report(report(session(sequence=3), 2))
    assert told(node.next_batch()) == [("s1", 3, [1, 2]), ("s2", 1, [])]
    node.report(report(session(sequence=4), 3))
    assert node.next_batch() is None
    assert not node.stored(0)
    assert node.next_batch() is None
    assert node.stored(1)
    assert told(node.next_batch()) == [("s1", 4, [3])]


def test_a_record_that_is_older_brings_its_turns_alone() -> None:
    """A session does not go backwards."""
    node = SessionReports(PLENTY)
    node.opened()
    node.report(report(session(sequence=5)))
    node.report(report(session(sequence=4), 1))
    assert told(node.next_batch()) == [("s1", 5, [1])]


def test_batches_keep_the_bounds_of_the_contract() -> None:
    """At most 500 reports of at most 100 turns; the rest goes with the next ones, in order."""
    node = SessionReports(PLENTY)
    node.opened()
    node.report(report(session("long"), *range(1, 251)))
    for number in range(600):
        node.report(report(session(f"s{number}")))
    first = told(node.next_batch())
    assert len(first) == 500
    assert first[0] == ("long", 1, list(range(1, 101)))
    seen, sequence = list(first[0][2]), 1
    while node.stored(sequence) and (batch := node.next_batch()) is not None:
        sequence = batch.sequence
        seen += [number for name, _, numbers in told(batch) if name == "long" for number in numbers]
    assert seen == list(range(1, 251))
    assert node.unacknowledged == 0


def test_a_batch_is_not_much_larger_than_it_may_be() -> None:
    """Long errors make a batch shorter, not larger than a server takes."""
    node = SessionReports(PLENTY)
    node.opened()
    for number in range(20):
        made = report(session(f"s{number}"))
        made.turns.extend(turns(*range(1, 41)))
        for turn in made.turns:
            for _ in range(10):
                turn.errors.add(source="llm", message="x" * 500)
        node.report(made)
    batch = node.next_batch()
    assert batch is not None
    assert 0 < batch.ByteSize() < 2 * 1_048_576
    assert len(batch.reports) < 20


def test_a_new_stream_is_told_of_all_that_run() -> None:
    """A control plane that has lost a session gets it back; one that is over and told is not told again."""
    node = SessionReports(PLENTY)
    node.opened()
    node.report(report(session("runs"), 1))
    node.report(report(ended("over")))
    assert len(told(node.next_batch())) == 2
    node.stored(1)
    assert [key.session_id for key in node.running()] == ["runs"]
    node.opened()
    assert told(node.next_batch()) == [("runs", 1, [])]


def test_a_session_of_another_node_is_told_to_the_last_and_forgotten() -> None:
    """It is not named any more, and a stream that begins does not tell of it again."""
    node = SessionReports(PLENTY)
    node.opened()
    node.report(report(session(), 1))
    node.report(report(session("s2"), 1))
    node.next_batch()
    node.stored(1)
    node.report(report(session(sequence=2), 2))
    for name in ("s1", "s2", "nobody"):
        node.moved(SessionId("acme", name))
    assert [key.session_id for key in node.running()] == ["s1"]
    assert told(node.next_batch()) == [("s1", 2, [2])]
    node.stored(2)
    assert list(node.running()) == []
    node.opened()
    assert node.next_batch() is None


def test_what_was_on_its_way_goes_first_on_the_next_stream() -> None:
    """A batch that is not acknowledged is told again, with what is new."""
    node = SessionReports(PLENTY)
    node.opened()
    node.report(report(session("s1")))
    node.report(report(session("s2"), 1))
    node.next_batch()
    node.report(report(session("s3")))
    node.report(report(session("s2", sequence=2), 2))
    node.opened()
    assert told(node.next_batch()) == [("s1", 1, []), ("s2", 2, [1, 2]), ("s3", 1, [])]


def test_hello_names_no_more_sessions_than_it_may() -> None:
    """The contract has a bound."""
    node = SessionReports(PLENTY)
    for number in range(RUNNING_MAX + 5):
        node.report(report(session(f"s{number}")))
    assert len(list(node.running())) == RUNNING_MAX


def test_a_report_that_is_refused_takes_no_other_with_it() -> None:
    """After a refusal reports go one by one; one that is refused alone loses its turns, then its record."""
    node = SessionReports(PLENTY)
    node.opened()
    for name in ("s1", "bad", "s3"):
        node.report(report(session(name), 1))
    stored: list[str] = []
    for _ in range(20):
        batch = node.next_batch()
        if batch is None:
            break
        names = [name for name, _, _ in told(batch)]
        if "bad" in names:
            node.refused()
            node.opened()
        else:
            stored += names
            node.stored(batch.sequence)
    assert {"s1", "s3"} <= set(stored)
    assert node.losses.refused == 2
    assert node.unacknowledged == 0
    node.report(report(session("bad", sequence=2)))
    assert ("bad", 2, []) in told(node.next_batch())


def test_a_turn_that_is_refused_does_not_hold_back_the_end() -> None:
    """Of a report that is refused for its turns the record is told without them."""
    node = SessionReports(PLENTY)
    node.opened()
    node.report(report(ended(), 1))
    assert told(node.next_batch()) == [("s1", 9, [1])]
    node.refused()
    node.opened()
    assert told(node.next_batch()) == [("s1", 9, [])]
    node.stored(1)
    assert list(node.running()) == []


def test_what_changes_while_it_is_on_its_way_is_told_again() -> None:
    """An acknowledgement is of what was sent: an end, or a turn that is told otherwise, comes after it."""
    node = SessionReports(PLENTY)
    node.opened()
    node.report(report(session(), 1))
    node.next_batch()
    node.report(report(session(sequence=2), 1, revision=7))
    node.stored(1)
    batch = node.next_batch()
    assert told(batch) == [("s1", 2, [1])]
    assert batch is not None
    assert batch.reports[0].turns[0].revision == 7
    node.report(report(ended()))
    node.stored(2)
    assert told(node.next_batch()) == [("s1", 9, [])]


def test_what_is_acknowledged_leaves_the_spool() -> None:
    """Turns that were written are wiped, and with its end the session."""
    node = SessionReports(PLENTY)
    node.opened()
    node.report(report(session(), 1, 2))
    frames = node.changes()
    node.next_batch()
    node.report(report(ended()))
    node.stored(1)
    frames += node.changes()
    again = SessionReports(PLENTY)
    again.restore(frames, 0.0)
    again.opened()
    assert told(again.next_batch()) == [("s1", 9, [])]
    node.next_batch()
    node.stored(2)
    frames += node.changes()
    again = SessionReports(PLENTY)
    again.restore(frames, 0.0)
    assert list(again.running()) == []


def test_what_is_never_written_is_never_wiped() -> None:
    """A turn that is acknowledged before it was saved leaves no trace in the spool."""
    node = SessionReports(PLENTY)
    node.opened()
    node.report(report(session()))
    assert [frame.kind for frame in node.changes()] == [Kind.RECORD]
    node.report(report(session(sequence=2), 1))
    node.next_batch()
    node.stored(1)
    assert [frame.kind for frame in node.changes()] == [Kind.RECORD]
    assert node.changes() == []


@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.integers(0, 3), st.booleans()),
        min_size=1,
        max_size=60,
    ),
    st.integers(400, 3_000),
)
def test_the_bound_holds_and_records_go_last(steps: list[tuple[int, int, bool]], bound: int) -> None:
    """No more is kept than may be; a record is dropped only when no turn is left, and all is counted."""
    node = SessionReports(bound)
    numbers: dict[int, int] = {}
    sequences: dict[int, int] = {}
    for who, count, over in steps:
        sequences[who] = sequences.get(who, 0) + 1
        first = numbers.get(who, 0) + 1
        numbers[who] = first + count - 1
        record = (ended if over else session)(f"s{who}", sequences[who])
        before = node.losses.records
        node.report(report(record, *range(first, first + count)))
        assert node.size <= bound
        assert node.size == sum(frame.size for frame in node.kept())
        if node.losses.records > before:
            assert all(frame.kind is Kind.RECORD for frame in node.kept())
    kept = node.kept()
    assert sum(numbers.values()) == node.losses.turns + sum(frame.kind is Kind.TURN for frame in kept)
    if not node.losses.records:
        assert {frame.id.session_id for frame in kept} == {f"s{who}" for who in sequences}
