"""The sessions of a node: who has them, what is left of them, and what is wanted of them."""

from __future__ import annotations

import asyncio

import pytest
from google.rpc import code_pb2

from agent_node.relay import SessionDesk
from agent_node.relay.held import MEMORY_BYTES_MAX, HeldSession, Memory
from agent_node.relay.sessions import COMMANDS_MAX, ORPHAN_SECONDS_MAX, ORPHANS_MAX, REPLACEMENTS_MAX, Seat
from agent_node.relay.tally import LABELS_MAX
from tests.unit.node.samples import Told
from tests.unit.node.session_samples import (
    ACTIVE,
    CALLER_LEFT,
    ENDED,
    FAILED,
    NODE_STOPPED,
    OPERATOR_ENDED,
    TEXT,
    end_command,
    ended,
    hello,
    report,
    session,
    trace_command,
    turns,
)
from tests.virtual_clock import VirtualClock
from voxplane.errors import VoxplaneError, reason_of
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as pb2

BASE = 1_700_000_000_000
"""The time of the clock, in milliseconds."""


class Desk:
    """A desk, its clock, and what the control plane is told."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.told = Told()
        self.desk = SessionDesk("n1", self.clock, self.told)

    def call(self, session_id: str = "s1", *, begun: bool = True) -> Seat:
        """A call's process, which has told its first record."""
        seat = self.desk.attach(hello(session_id))
        if begun:
            tell(seat, report(session(session_id)))
        return seat

    def last(self) -> session_pb2.Session:
        """The newest record that was told."""
        return self.told.reports[-1].session

    def reasons(self) -> list[tuple[str, str]]:
        """The commands that were answered since, and the reason of each answer."""
        results, self.told.results = self.told.results, []
        return [(result.command_id, reason_of(result.status)) for result in results]


def tell(seat: Seat, told: pb2.SessionReport) -> None:
    """The process reports."""
    seat.take(relay_pb2.AttachRequest(session=told))


def remember(seat: Seat, count: int, *items: bytes) -> None:
    """The process leaves a part of the conversation."""
    seat.take(relay_pb2.AttachRequest(memory=relay_pb2.SessionMemory(turns=count, items=items)))


def answer(seat: Seat, command_id: str) -> None:
    """The process has carried a command out."""
    seat.take(relay_pb2.AttachRequest(result=pb2.SessionCommandResult(command_id=command_id)))


@pytest.fixture
def at() -> Desk:
    """A desk without sessions."""
    return Desk()


def test_a_record_is_of_this_node_and_of_its_session(at: Desk) -> None:
    """Whatever a process says: it speaks for its own session alone."""
    seat = at.desk.attach(hello())
    tell(seat, report(session("another", tenant_id="globex", node_id="elsewhere"), 1))
    told = at.told.reports[0]
    assert (told.session.tenant_id, told.session.session_id, told.session.node_id) == ("acme", "s1", "n1")
    assert [turn.turn for turn in told.turns] == [1]


def test_a_report_that_is_not_valid_goes_no_further(at: Desk) -> None:
    """It would have the control plane end the stream; it is counted."""
    seat = at.call()
    bad = report(session(sequence=2))
    bad.session.end_reason = "x" * 501
    tell(seat, bad)
    assert at.last().sequence == BASE + 1
    assert at.desk.tally.invalid_reports == 1


def test_a_session_without_an_id_is_known_to_nobody(at: Desk) -> None:
    """It is given bundles; nothing is told of it, and two may be there."""
    seats = [at.desk.attach(hello("")) for _ in range(2)]
    for seat in seats:
        tell(seat, report(session("")))
        seat.leave(orderly=False)
    assert at.told.reports == []
    assert at.desk.orphans.empty()
    assert at.desk.kinds == {"voice": 0, "text": 0}


def test_a_session_has_one_process(at: Desk) -> None:
    """A second one is refused while the first lives, also of another kind; another tenant's is another."""
    at.call()
    with pytest.raises(VoxplaneError, match="runs on this node already"):
        at.desk.attach(hello())
    other = hello()
    other.caller.tenant_id = "globex"
    at.desk.attach(other)
    assert at.desk.kinds["voice"] == 2


def test_a_call_that_ends_is_gone(at: Desk) -> None:
    """Its end is told as it was said, once, and its id is free."""
    seat = at.call()
    tell(seat, report(ended()))
    seat.leave(orderly=False)
    assert [told.session.state for told in at.told.reports] == [ACTIVE, ENDED]
    assert at.desk.tally.ended == {"caller_left": 1}
    assert at.desk.orphans.empty()
    at.call()


def test_a_record_after_the_end_changes_nothing(at: Desk) -> None:
    """An end is an end."""
    seat = at.call()
    tell(seat, report(ended(sequence=5)))
    tell(seat, report(session(sequence=6)))
    assert at.last().state == ENDED
    assert at.desk.tally.ended == {"caller_left": 1}


def test_a_call_whose_process_dies_is_an_orphan(at: Desk) -> None:
    """Who heals is told whose it is and where; the session is not over."""
    seat = at.call()
    seat.leave(orderly=False)
    orphan = at.desk.orphans.get_nowait()
    assert (orphan.caller.session_id, orphan.room, orphan.job_id, orphan.replacements) == (
        "s1",
        "room 1",
        "job 1",
        0,
    )
    assert at.desk.waits(orphan)
    assert (at.desk.waiting, at.desk.tally.orphans) == (1, 1)
    assert at.last().state == ACTIVE


def test_a_process_that_takes_over_is_given_what_was_left(at: Desk) -> None:
    """The newest record and the conversation, also what a process before the last one has said."""
    seat = at.call()
    remember(seat, 1, b"hello", b"good day")
    tell(seat, report(session(sequence=4), 1))
    seat.leave(orderly=False)
    orphan = at.desk.orphans.get_nowait()
    second = at.desk.attach(hello(job_id="job 2"))
    assert not at.desk.waits(orphan)
    assert second.legacy is not None
    assert second.legacy.session.sequence == BASE + 4
    assert (list(second.legacy.memory.items), second.legacy.memory.turns) == ([b"hello", b"good day"], 1)
    tell(second, report(session(sequence=BASE + 5), 2))
    assert at.last().sequence == BASE + 5
    remember(second, 2, b"how are you")
    second.leave(orderly=True)
    assert at.desk.orphans.get_nowait().job_id == "job 2"
    third = at.desk.attach(hello(job_id="job 3"))
    assert third.legacy is not None
    assert (len(third.legacy.memory.items), third.legacy.memory.turns) == (3, 2)
    assert at.desk.tally.replacements == 2


def test_only_a_process_of_the_same_room_and_kind_takes_over(at: Desk) -> None:
    """Nobody else is given a conversation."""
    at.call().leave(orderly=False)
    for wrong in (hello(room="room 2"), hello(kind=TEXT)):
        assert not at.desk.awaits(wrong)
        with pytest.raises(VoxplaneError, match="already"):
            at.desk.attach(wrong)
    assert at.desk.awaits(hello())


async def test_an_orphan_that_nobody_takes_has_failed(at: Desk) -> None:
    """After the time that is named, once; and it does not come back."""
    running = asyncio.create_task(at.desk.run())
    at.call().leave(orderly=False)
    await at.clock.advance(1.0)
    at.call("s2").leave(orderly=False)
    await at.clock.advance(ORPHAN_SECONDS_MAX - 1.5)
    assert at.last().state == ACTIVE
    await at.clock.advance(0.6)
    assert (at.last().session_id, at.last().outcome, at.last().sequence) == ("s1", FAILED, BASE + 2)
    assert at.last().end_reason == "no process has taken it over within 30 s"
    assert at.last().end_time.seconds > at.last().start_time.seconds
    with pytest.raises(VoxplaneError, match="over") as caught:
        at.desk.attach(hello())
    assert caught.value.reason_name == "SESSION_ENDED"
    await at.clock.advance(1.0)
    assert at.last().session_id == "s2"
    assert at.desk.waiting == 0
    running.cancel()


async def test_an_orphan_that_was_taken_over_in_time_goes_on(at: Desk) -> None:
    """Its time counts anew when it is an orphan again."""
    running = asyncio.create_task(at.desk.run())
    at.call().leave(orderly=False)
    await at.clock.advance(20.0)
    seat = at.desk.attach(hello())
    await at.clock.advance(60.0)
    assert at.last().state == ACTIVE
    seat.leave(orderly=False)
    await at.clock.advance(20.0)
    assert at.last().state == ACTIVE
    await at.clock.advance(11.0)
    assert at.last().outcome == FAILED
    running.cancel()


def test_an_orphan_can_be_given_up(at: Desk) -> None:
    """It has failed for the reason that is given; to give it up again, or another's, does nothing."""
    at.call().leave(orderly=False)
    orphan = at.desk.orphans.get_nowait()
    at.desk.give_up(orphan, "the room is empty")
    at.desk.give_up(orphan, "again")
    assert (at.last().outcome, at.last().end_reason) == (FAILED, "the room is empty")
    assert len(at.told.reports) == 2
    at.call("s2").leave(orderly=False)
    late = at.desk.orphans.get_nowait()
    at.desk.attach(hello("s2"))
    at.desk.give_up(late, "too late")
    assert at.last().session_id == "s2"
    assert at.last().state == ACTIVE


def test_a_session_is_replaced_only_so_often(at: Desk) -> None:
    """A process that dies again and again must not be started for ever, whether it counts itself or not."""
    seat = at.call()
    for count in range(REPLACEMENTS_MAX):
        seat.leave(orderly=False)
        assert at.desk.orphans.get_nowait().replacements == count
        seat = at.desk.attach(hello())
    seat.leave(orderly=False)
    assert at.desk.orphans.empty()
    assert at.last().outcome == FAILED
    assert "3 times" in at.last().end_reason


def test_the_replacements_that_a_record_counts_count(at: Desk) -> None:
    """What a session had on another node, say, is not forgotten."""
    seat = at.desk.attach(hello())
    tell(seat, report(session(replacements=3)))
    seat.leave(orderly=False)
    assert at.desk.orphans.empty()


def test_more_orphans_than_may_wait_fail_at_once(at: Desk) -> None:
    """Nobody would heal them in time."""
    for number in range(ORPHANS_MAX + 1):
        at.call(f"s{number}").leave(orderly=False)
    assert at.desk.orphans.qsize() == ORPHANS_MAX
    assert (at.last().session_id, at.last().outcome) == (f"s{ORPHANS_MAX}", FAILED)


def test_a_text_session_ends_with_its_process(at: Desk) -> None:
    """It has failed, as nobody can be put in its place."""
    seat = at.desk.attach(hello(kind=TEXT, room="", job_id=""))
    tell(seat, report(session(kind=TEXT)))
    seat.leave(orderly=False)
    assert at.desk.orphans.empty()
    assert (at.last().outcome, at.last().end_reason) == (FAILED, "its process died")


def test_a_call_that_has_not_begun_and_leaves_is_forgotten(at: Desk) -> None:
    """It could not start, and has said so elsewhere; one that died then is an orphan without a legacy."""
    at.call(begun=False).leave(orderly=True)
    assert at.desk.orphans.empty()
    at.call(begun=False).leave(orderly=False)
    orphan = at.desk.orphans.get_nowait()
    seat = at.desk.attach(hello())
    assert seat.legacy is None
    seat.leave(orderly=False)
    at.desk.give_up(orphan, "enough")
    assert (at.last().outcome, at.last().kind, at.last().agent_id) == (FAILED, session().kind, "a")
    assert at.last().alias == "live"


async def test_an_id_that_is_used_again_goes_on_rising(at: Desk) -> None:
    """The control plane would take a record that begins anew for an old one; so would another node's be."""
    seat = at.call()
    tell(seat, report(ended(sequence=50)))
    seat.leave(orderly=True)
    before = at.last().sequence
    await at.clock.advance(1.0)
    at.call()
    assert at.last().sequence == BASE + 1_001 > before
    elsewhere = Desk()
    await elsewhere.clock.advance(5.0)
    elsewhere.call()
    assert elsewhere.last().sequence > at.last().sequence


def test_a_session_that_another_node_takes_over_is_gone(at: Desk) -> None:
    """Nothing more is told of it here; one that has its process again stays."""
    at.call().leave(orderly=False)
    orphan = at.desk.orphans.get_nowait()
    at.desk.moved(orphan)
    at.desk.moved(orphan)
    assert not at.desk.waits(orphan)
    assert at.told.gone == [("acme", "s1")]
    assert [told.session.state for told in at.told.reports] == [ACTIVE]
    at.call("s2").leave(orderly=False)
    back = at.desk.orphans.get_nowait()
    at.desk.attach(hello("s2"))
    at.desk.moved(back)
    assert at.desk.kinds["voice"] == 1


def test_a_session_that_was_handed_on_is_healed_as_its_new_agent(at: Desk) -> None:
    """Who takes over is told the agent that has the session now."""
    seat = at.call()
    seat.follows("b")
    seat.leave(orderly=False)
    assert at.desk.orphans.get_nowait().caller.agent_id == "b"


def test_a_command_goes_to_its_session_and_its_answer_back(at: Desk) -> None:
    """One answer for each, and none from another session."""
    seat, other = at.call(), at.call("s2")
    at.desk.command(end_command())
    assert seat.commands.get_nowait() == end_command()
    assert other.commands.empty()
    answer(other, "c1")
    assert at.reasons() == []
    answer(seat, "c1")
    answer(seat, "c1")
    assert at.reasons() == [("c1", "")]


def test_a_command_for_a_session_that_is_not_here_is_answered(at: Desk) -> None:
    """At once; one that is over says so."""
    at.call()
    wrong = end_command()
    wrong.session.tenant_id = "globex"
    at.desk.command(wrong)
    assert at.told.results[0].status.code == code_pb2.NOT_FOUND
    assert at.reasons() == [("c1", "SESSION_NOT_FOUND")]
    seat = at.call("s2")
    tell(seat, report(ended("s2")))
    at.desk.command(end_command("s2"))
    assert at.reasons() == [("c1", "SESSION_ENDED")]


def test_a_session_that_ends_before_it_answers_is_answered_for(at: Desk) -> None:
    """An end that came to be is a success; anything else came too late."""
    seat = at.call()
    for command in (end_command(command_id="c1"), trace_command(command_id="c2")):
        at.desk.command(command)
    tell(seat, report(ended(outcome=OPERATOR_ENDED)))
    assert at.reasons() == [("c1", ""), ("c2", "SESSION_ENDED")]
    text = at.desk.attach(hello("s2", kind=TEXT))
    at.desk.command(end_command("s2", "c3"))
    text.leave(orderly=True)
    assert at.reasons() == [("c3", "SESSION_ENDED")]


def test_a_process_that_takes_over_is_given_the_commands_that_wait(at: Desk) -> None:
    """Those that came meanwhile, and those that the dead one has not answered."""
    seat = at.call()
    at.desk.command(trace_command(command_id="c1"))
    at.desk.command(trace_command(command_id="c2"))
    answer(seat, "c1")
    seat.leave(orderly=False)
    at.desk.command(trace_command(command_id="c3"))
    assert at.reasons() == [("c1", "")]
    second = at.desk.attach(hello())
    assert [second.commands.get_nowait().command_id for _ in range(2)] == ["c2", "c3"]
    answer(second, "c3")
    assert at.reasons() == [("c3", "")]


def pin_command(version: int) -> pb2.SessionCommand:
    """A pin of s1, with the version's content."""
    command = pb2.SessionCommand(command_id=f"p{version}", pin_version=version)
    command.session.tenant_id, command.session.session_id = "acme", "s1"
    command.pinned_content.content_hash = f"hash {version}"
    return command


def test_a_process_that_takes_over_is_pinned_as_the_one_before(at: Desk) -> None:
    """It is given the version too, which its bundle may not have; its answer is
    nobody's. A pin that was taken back, or refused, is not given."""
    seat = at.call()
    at.desk.command(pin_command(4))
    answer(seat, "p4")
    seat.leave(orderly=False)
    again = at.desk.attach(hello("s1"))
    command = again.commands.get_nowait()
    assert (command.pin_version, command.pinned_content.content_hash) == (4, "hash 4")
    at.reasons()
    answer(again, "p4")
    assert at.reasons() == []
    at.desk.command(pin_command(0))
    answer(again, "p0")
    again.leave(orderly=False)
    assert at.desk.attach(hello("s1")).commands.empty()


def test_a_pin_is_of_the_agent_that_had_the_session_then(at: Desk) -> None:
    """A process that goes on as another agent is not given a version of the first, whether that one had
    handed the session over already or was about to."""
    seat = at.call()
    at.desk.command(pin_command(4))
    answer(seat, "p4")
    tell(seat, report(session(sequence=2, pinned_version=4)))
    seat.follows("b")
    seat.leave(orderly=False)
    again = at.desk.attach(hello("s1", caller=relay_pb2.CallerContext(agent_id="b")))
    assert again.commands.empty()
    assert again.legacy is not None
    assert (again.legacy.session.agent_id, again.legacy.session.pinned_version) == ("a", 0)
    tell(again, report(session(sequence=3, agent_id="b")))
    again.leave(orderly=False)
    assert at.desk.attach(hello("s1", caller=relay_pb2.CallerContext(agent_id="b"))).commands.empty()


def test_a_pin_of_the_new_agent_counts_though_it_is_answered_before_the_record(at: Desk) -> None:
    """The record that says who has the session may come behind the answer."""
    seat = at.call()
    seat.follows("b")
    at.desk.command(pin_command(4))
    answer(seat, "p4")
    tell(seat, report(session(sequence=2, agent_id="b", pinned_version=4)))
    seat.leave(orderly=False)
    again = at.desk.attach(hello("s1", caller=relay_pb2.CallerContext(agent_id="b")))
    assert again.commands.get_nowait().pin_version == 4


def test_what_the_node_wants_of_a_session_that_answers_nothing_breaks_nothing(at: Desk) -> None:
    """A session may have its pin, a goodbye, and all commands that it has still to answer."""
    seat = at.call()
    at.desk.command(pin_command(4))
    answer(seat, "p4")
    seat.leave(orderly=False)
    at.desk.attach(hello())
    assert at.desk.end_all("the node is stopping") == 1
    at.reasons()
    for number in range(COMMANDS_MAX + 1):
        at.desk.command(trace_command(command_id=f"c{number}"))
    assert at.reasons() == [(f"c{COMMANDS_MAX}", "LIMIT_REACHED")]


def test_an_orphan_can_be_ended(at: Desk) -> None:
    """EndSession does not wait for a process that is not there."""
    at.call().leave(orderly=False)
    orphan = at.desk.orphans.get_nowait()
    at.desk.command(trace_command())
    at.desk.command(end_command())
    assert (at.last().outcome, at.last().end_reason) == (OPERATOR_ENDED, "enough")
    assert at.reasons() == [("c2", "SESSION_ENDED"), ("c1", "")]
    assert not at.desk.waits(orphan)


@pytest.mark.parametrize("end", ["by an operator", "by the node"])
def test_an_orphan_that_is_over_does_not_come_back(at: Desk, end: str) -> None:
    """The process that was to take it over may have been on its way already."""
    at.call().leave(orderly=False)
    if end == "by an operator":
        at.desk.command(end_command())
    else:
        at.desk.drain()
    assert at.last().state == ENDED
    with pytest.raises(VoxplaneError) as refused:
        at.desk.attach(hello(job_id="job 2"))
    assert refused.value.reason_name == "SESSION_ENDED"
    assert len(at.told.reports) == 2


def test_commands_that_nobody_answers_are_bounded(at: Desk) -> None:
    """A session that hangs does not fill the node."""
    at.call()
    for number in range(COMMANDS_MAX + 1):
        at.desk.command(trace_command(command_id=f"c{number}"))
    assert at.reasons() == [(f"c{COMMANDS_MAX}", "LIMIT_REACHED")]


def test_while_the_node_drains_nothing_is_an_orphan(at: Desk) -> None:
    """What waits for a process has ended with the node, and what dies then does too."""
    at.call("waits").leave(orderly=False)
    seat = at.call("lives")
    at.desk.drain()
    assert (at.last().session_id, at.last().outcome) == ("waits", NODE_STOPPED)
    assert at.last().end_reason == "the node stopped"
    seat.leave(orderly=False)
    assert (at.last().session_id, at.last().outcome) == ("lives", NODE_STOPPED)
    assert at.desk.orphans.qsize() == 1
    assert at.desk.kinds["voice"] == 0


def test_what_the_node_ends_was_not_left_by_its_caller(at: Desk) -> None:
    """A process that is told to go says that its caller has left, as it does not know better; other ends
    stay, and so do all of them while the node only drains."""
    seats = {name: at.call(name) for name in ("drains", "left", "limit")}
    at.desk.drain()
    tell(seats["drains"], report(ended("drains")))
    assert at.last().outcome == CALLER_LEFT
    at.desk.stop()
    tell(seats["left"], report(ended("left"), 1))
    assert (at.last().outcome, at.last().end_reason) == (NODE_STOPPED, "the node stopped")
    limit = session_pb2.SESSION_OUTCOME_DURATION_LIMIT
    tell(seats["limit"], report(ended("limit", outcome=limit)))
    assert at.last().outcome == limit
    assert at.desk.tally.ended == {"caller_left": 1, "node_stopped": 1, "duration_limit": 1}


def test_a_conversation_keeps_its_newest_part() -> None:
    """Of more than may be kept the oldest items go."""
    memory = Memory(1_000)
    for number in range(100):
        memory.add(relay_pb2.SessionMemory(turns=number, items=[f"{number:036}".encode()]))
        assert memory.size <= 1_000
    whole = memory.whole()
    assert [int(item) for item in whole.items] == list(range(90, 100))
    assert whole.turns == 99
    large = Memory()
    large.add(relay_pb2.SessionMemory(items=[b"x" * (MEMORY_BYTES_MAX + 1)]))
    assert (large.size, list(large.whole().items)) == (0, [])


def test_the_tally_counts_what_passes(at: Desk) -> None:
    """Turns, tokens and latencies by stage; swaps and errors; the memory of processes that live."""
    seat = at.call()
    told = report(session(sequence=2))
    told.turns.extend(turns(1, input_tokens=100, output_tokens=20, interrupted=True))
    told.turns[0].first_token.FromMilliseconds(300)
    told.turns[0].response.FromMilliseconds(12_000)
    tell(seat, told)
    figures = relay_pb2.JobFigures(
        swaps={"next_turn applied": 2, "refused": 1}, errors={"llm": 3}, pss_bytes=5_000
    )
    seat.take(relay_pb2.AttachRequest(figures=figures))
    seat.take(relay_pb2.AttachRequest(figures=relay_pb2.JobFigures(errors={"llm": 1})))
    tally = at.desk.tally
    assert (tally.turns, tally.interruptions) == (1, 1)
    assert tally.tokens == {"input": 100, "output": 20}
    assert tally.latencies["llm_first_token"].cumulative()[2:5] == [("0.2", 0), ("0.3", 1), ("0.5", 1)]
    assert tally.latencies["response"].cumulative()[-2:] == [("10.0", 0), ("+Inf", 1)]
    assert sum(tally.latencies["transcription"].counts) == 0
    assert tally.swaps == {("next_turn", "applied"): 2, ("", "refused"): 1}
    assert tally.errors == {"llm": 4}
    assert list(at.desk.job_memory()) == [5_000]
    seat.leave(orderly=False)
    assert list(at.desk.job_memory()) == []


def test_the_labels_of_the_tally_are_bounded(at: Desk) -> None:
    """A process that counts by what it likes fills nothing."""
    seat = at.call()
    for number in range(LABELS_MAX * 2):
        figures = relay_pb2.JobFigures(errors={f"e{number}": 1}, swaps={f"e{number} applied": 1})
        seat.take(relay_pb2.AttachRequest(figures=figures))
    for counted in (at.desk.tally.errors, at.desk.tally.swaps):
        assert len(counted) == LABELS_MAX + 1
        assert sum(counted.values()) == LABELS_MAX * 2


def test_a_session_is_never_over_before_it_began() -> None:
    """Whatever is done to the clock."""
    held = HeldSession(hello(), "n1", 1_000.0)
    record = held.over(FAILED, "x" * 1_000, 500.0)
    assert record.end_time == record.start_time
    assert len(record.end_reason) == 500
