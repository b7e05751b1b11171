"""The record of a session, as its job tells it."""

from __future__ import annotations

import pytest

from agent_node.job.record import END_REASON_CHARS_MAX, SCORES_MAX, SessionRecord
from agent_node.job.targets import Target, target_of
from tests.unit.job.job_world import caller, delivery, offline_config
from tests.virtual_clock import VirtualClock
from voxplane.node.v1.relay_service_pb2 import SessionLegacy
from voxplane.v1 import session_pb2

TEXT = session_pb2.SESSION_KIND_TEXT


class World:
    """A record, and what it told."""

    def __init__(self, legacy: SessionLegacy | None = None) -> None:
        self.clock = VirtualClock()
        self.told: list[session_pb2.Session] = []
        self.turns: list[int] = []
        self.record = SessionRecord(caller(), TEXT, tell=self._tell, clock=self.clock, node_id="n1")
        if legacy is not None:
            self.record.inherit(legacy.session)

    def _tell(self, session: session_pb2.Session, *turns: session_pb2.SessionTurn) -> None:
        self.told.append(session)
        self.turns += [turn.turn for turn in turns]


def _target(revision: int, agent: str = "support") -> Target:
    return target_of(delivery(revision, offline_config(f"text {revision}"), agent=agent))


def test_each_change_is_told_once_and_in_order() -> None:
    """Every change is told by a greater sequence, and what was told stays as it
    was."""
    world = World()
    world.record.runs(_target(1))
    world.record.swapped(_target(2))
    world.record.pinned(2)
    world.record.traced(True)
    world.record.traced(True)
    assert [each.sequence for each in world.told] == [1, 2, 3, 4]
    assert [each.version for each in world.told] == [1, 2, 2, 2]
    assert [each.figures.swaps for each in world.told] == [0, 1, 1, 1]
    assert (world.told[-1].pinned_version, world.told[-1].traced) == (2, True)
    assert world.told[0].alias == "live"


def test_turns_bring_figures_and_leave_swaps() -> None:
    """The sums of turns take the place of those before; swaps are counted
    beside them."""
    world = World()
    world.record.swapped(_target(2))
    world.record.turn(session_pb2.SessionTurn(turn=1), session_pb2.SessionFigures(turns=1, errors=2))
    assert world.turns == [1]
    figures = world.told[-1].figures
    assert (figures.turns, figures.errors, figures.swaps) == (1, 2, 1)


def test_another_agent_has_its_own_alias() -> None:
    """After a transfer the record is of the other agent, by its live version."""
    world = World()
    world.record.pinned(1)
    world.record.swapped(_target(7, agent="sales"))
    assert (world.told[-1].agent_id, world.told[-1].pinned_version) == ("sales", 0)


def test_the_first_end_counts() -> None:
    """A session ends once, with a reason of bounded length."""
    world = World()
    world.record.end(session_pb2.SESSION_OUTCOME_CALLER_LEFT, "x" * 1_000)
    world.record.end(session_pb2.SESSION_OUTCOME_FAILED, "later")
    (ended,) = world.told
    assert (ended.state, ended.outcome) == (
        session_pb2.SESSION_STATE_ENDED,
        session_pb2.SESSION_OUTCOME_CALLER_LEFT,
    )
    assert len(ended.end_reason) == END_REASON_CHARS_MAX
    assert ended.HasField("end_time")


def test_a_process_that_takes_over_goes_on_with_the_record() -> None:
    """What was known of the session stays, the sequence rises on, and the
    replacement is counted."""
    before = World()
    before.record.runs(_target(1))
    before.record.turn(session_pb2.SessionTurn(turn=1), session_pb2.SessionFigures(turns=1))
    after = World(SessionLegacy(session=before.told[-1]))
    after.record.runs(_target(1))
    assert after.told[-1].start_time == before.told[-1].start_time
    assert (after.told[-1].sequence, after.told[-1].replacements) == (3, 1)
    assert after.told[-1].figures.turns == 1


def test_scores_are_bounded() -> None:
    """A score may be given again, and there is a last name."""
    world = World()
    for number in range(SCORES_MAX):
        world.record.scored(f"s{number}", 1.0)
    world.record.scored("s0", 0.5)
    assert world.told[-1].scores["s0"] == 0.5
    with pytest.raises(ValueError, match="at most"):
        world.record.scored("one-more", 1.0)
