"""What the session manager asks of the desk."""

from __future__ import annotations

import pytest

from agent_node.relay import SessionDesk
from agent_node.relay.sessions import COMMANDS_MAX, JOBS_KNOWN_MAX, Seat
from tests.unit.node.samples import Told
from tests.unit.node.session_samples import (
    NODE_STOPPED,
    OPERATOR_ENDED,
    TEXT,
    end_command,
    ended,
    hello,
    report,
    session,
)
from tests.virtual_clock import VirtualClock
from voxplane.node.v1 import relay_service_pb2 as relay_pb2


class Desk:
    """A desk, and what the control plane is told."""

    def __init__(self) -> None:
        self.told = Told()
        self.desk = SessionDesk("n1", VirtualClock(), self.told)

    def call(self, session_id: str = "s1") -> Seat:
        """A call that has begun."""
        seat = self.desk.attach(hello(session_id, job_id=f"job of {session_id}"))
        seat.take(relay_pb2.AttachRequest(session=report(session(session_id))))
        return seat


@pytest.fixture
def at() -> Desk:
    """A desk."""
    return Desk()


async def test_a_call_that_another_node_took_over_is_told_of_by_that_one(at: Desk) -> None:
    """This node forgets it, and reports nothing: least of all that it has failed."""
    at.call().leave(orderly=False)
    orphan = at.desk.orphans.get_nowait()
    told = len(at.told.reports)
    at.desk.moved(orphan)
    assert not at.desk.waits(orphan)
    at.desk.moved(orphan)
    assert len(at.told.reports) == told
    assert at.call() is not None


async def test_a_job_is_known_once_it_was_here(at: Desk) -> None:
    """Also when it is gone; the memory of jobs is bounded."""
    assert not at.desk.attached("job of s1")
    at.call().leave(orderly=False)
    assert at.desk.attached("job of s1")
    for number in range(JOBS_KNOWN_MAX):
        seat = at.desk.attach(hello(f"t{number}", job_id=f"job {number}"))
        seat.leave(orderly=True)
    assert not at.desk.attached("job of s1")


async def test_calls_that_are_left_are_told_to_end_and_the_node_has_stopped_them(at: Desk) -> None:
    """Text sessions are not told, and the control plane hears nothing of the command itself."""
    seats = [at.call("s1"), at.call("s2")]
    at.desk.attach(hello("t1", kind=TEXT))
    assert at.desk.end_all("the node is stopping") == 2
    for seat in seats:
        command = seat.commands.get_nowait()
        assert (command.end.now, command.end.reason) == (False, "the node is stopping")
        result = relay_pb2.AttachRequest()
        result.result.command_id = command.command_id
        seat.take(result)
    assert at.told.results == []
    seats[0].take(relay_pb2.AttachRequest(session=report(ended("s1", outcome=OPERATOR_ENDED))))
    assert at.told.reports[-1].session.outcome == NODE_STOPPED


async def test_a_call_with_too_many_commands_is_not_told(at: Desk) -> None:
    """It is ended as those are that do not answer."""
    seat = at.call()
    for number in range(COMMANDS_MAX):
        at.desk.command(end_command("s1", f"c{number}"))
    while not seat.commands.full():
        seat.commands.put_nowait(end_command())
    assert at.desk.end_all("the node is stopping") == 0
