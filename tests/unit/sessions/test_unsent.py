"""What waits for a watcher, and which nodes are away, by themselves."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from control_plane.sessions.absent import Absent
from control_plane.sessions.unsent import Unsent
from tests.contract.session_samples import session, turn
from voxplane.v1 import session_pb2

CHANGES = st.lists(
    st.one_of(
        st.none(),
        st.tuples(st.sampled_from(["s1", "s2", "s3", "s4"]), st.integers(1, 9), st.integers(0, 3)),
    ),
    max_size=40,
)


def names(unsent: Unsent) -> list[tuple[str, int, list[int]]]:
    """All that waits, in the order of sending."""
    found: list[tuple[str, int, list[int]]] = []
    while (report := unsent.next()) is not None:
        found.append((report.session.session_id, report.session.sequence, [t.turn for t in report.turns]))
    return found


def test_the_newest_of_each_session_waits() -> None:
    """Of a session that changes again while it waits the newest is sent, once,
    with all the turns, in the place in which it began to wait."""
    unsent = Unsent()
    unsent.add(session("s1", 1), [turn(1)])
    unsent.add(session("s2", 1), [])
    unsent.add(session("s1", 2), [turn(2), turn(3)])
    assert names(unsent) == [("s1", 2, [1, 2, 3]), ("s2", 1, [])]
    assert unsent.next() is None


def test_too_many_sessions_do_not_wait() -> None:
    """Beyond the bound a session is not taken; one that waits may change."""
    unsent = Unsent(sessions_max=2)
    assert unsent.add(session("s1"), [])
    assert unsent.add(session("s2"), [])
    assert not unsent.add(session("s3"), [turn(1)])
    assert unsent.add(session("s1", 2), [])
    assert names(unsent) == [("s1", 2, []), ("s2", 1, [])]


def test_too_many_turns_are_the_newest_ones() -> None:
    """Of a session's turns as many wait as a report can have; of very many
    sessions the newest turn of each."""
    unsent = Unsent(turns_max=6, turns_of_session_max=3)
    for number in range(1, 6):
        unsent.add(session("s1", number), [turn(number)])
    unsent.add(session("s2"), [turn(1), turn(2), turn(3)])
    unsent.add(session("s3"), [turn(1), turn(2)])
    assert unsent.turns == 7
    assert names(unsent) == [("s1", 5, [3, 4, 5]), ("s2", 1, [1, 2, 3]), ("s3", 1, [2])]
    assert unsent.turns == 0


def test_what_was_seen_does_not_become_older() -> None:
    """A change that was made before a watcher read the session out of the table
    is not sent as news in its old shape; its turns are."""
    unsent = Unsent()
    unsent.add(session("s1", 3), [turn(1)])
    unsent.seen(session("s1", 5))
    unsent.seen(session("s2", 5))
    unsent.add(session("s3", 5), [])
    unsent.seen(session("s3", 4))
    assert names(unsent) == [("s1", 5, [1]), ("s3", 5, [])]


@given(CHANGES)
def test_a_reader_of_any_pace_ends_with_the_newest(changes: list[tuple[str, int, int] | None]) -> None:
    """However slowly it reads, a reader has the newest of each session in the
    end, no turn twice, and what waits stays within its bounds."""
    unsent = Unsent(sessions_max=4, turns_max=5, turns_of_session_max=3)
    newest: dict[str, session_pb2.Session] = {}
    shown: dict[str, tuple[int, list[int]]] = {}
    number = 0

    def read() -> None:
        if (report := unsent.next()) is not None:
            _, before = shown.get(report.session.session_id, (0, list[int]()))
            turns = before + [each.turn for each in report.turns]
            shown[report.session.session_id] = report.session.sequence, turns

    for change in changes:
        if change is None:
            read()
            continue
        session_id, sequence, count = change
        turns = [turn(number + at + 1) for at in range(count)]
        number += count
        newest[session_id] = session(session_id, sequence)
        assert unsent.add(newest[session_id], turns)
        assert unsent.turns <= 5 + len(unsent)
    while len(unsent):
        read()
    assert {each: sequence for each, (sequence, _) in shown.items()} == {
        each: made.sequence for each, made in newest.items()
    }
    for _, turns in shown.values():
        assert turns == sorted(set(turns))
    assert unsent.turns == 0


def test_nodes_are_due_in_the_order_in_which_they_left() -> None:
    """A node is due when it has been away for so long; one that came is not."""
    absent = Absent(10)
    absent.left("a", 0)
    absent.left("b", 2)
    absent.left("c", 3)
    absent.came("b")
    absent.left("a", 5)
    assert (absent.next_due(), absent.due(12.9), absent.due(13)) == (13, None, "c")
    absent.came("c")
    assert (absent.next_due(), absent.due(15)) == (15, "a")
    absent.came("a")
    absent.came("a")
    assert (absent.next_due(), absent.due(99)) == (None, None)
