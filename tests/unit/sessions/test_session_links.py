"""What becomes of what nodes report, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from control_plane.sessions import Retention, SessionSettings
from control_plane.sessions.links import Links
from control_plane.sessions.retention import TRIM_SECONDS
from control_plane.sessions.watchers import Watchers
from tests.contract.session_samples import ACTIVE, ENDED, LOST, put, report, session, turn
from tests.unit.sessions.session_world import Node, World, reason_of
from voxplane.errors import VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1 import session_service_pb2 as pb2

AWAY_SECONDS = 60


@pytest.fixture
def world() -> World:
    """Sessions that nobody has reported yet."""
    return World()


class TestBatches:
    async def test_a_batch_is_acknowledged_when_it_is_stored(self, world: World) -> None:
        """Not before it is durable is a batch acknowledged."""
        node = await world.node()
        world.table.gate.clear()
        node.batch(report(session(), turn(1)))
        await world.settle()
        assert node.stored() == []
        world.table.gate.set()
        await world.settle()
        assert node.stored() == [1]
        assert await world.table.inner.get("acme", "s1") == session()

    async def test_acknowledgements_that_wait_are_one(self, world: World) -> None:
        """A node that does not read is told of the newest batch alone."""
        node = await world.node()
        node.out.gate.clear()
        for at in range(1, 6):
            node.batch(report(session(sequence=at)))
        await world.settle()
        node.out.gate.set()
        await world.settle()
        assert node.stored() == [1, 5]

    async def test_an_empty_batch_is_acknowledged(self, world: World) -> None:
        """A batch without reports is stored at once."""
        node = await world.node()
        node.batch()
        await world.settle()
        assert node.stored() == [1]

    async def test_a_node_that_ends_its_side_is_acknowledged_first(self, world: World) -> None:
        """All that a node has told before it leaves is stored and
        acknowledged."""
        node = await world.node()
        node.batch(report(session()))
        node.batch(report(session("s2")))
        node.done()
        await node.stream
        assert node.stored()[-1] == 2
        assert node.reason() == ""

    async def test_a_store_that_fails_ends_the_stream(self, world: World) -> None:
        """A batch that cannot be stored is not acknowledged; the stream ends
        with STORE_UNAVAILABLE, and the same batch on the next one is taken."""
        node = await world.node()
        node.batch(report(session()))
        await world.settle()
        world.table.writes_fail = True
        node.batch(report(session(sequence=2, state=ENDED), turn(1)))
        await world.settle()
        assert (node.stored(), node.reason()) == ([1], "STORE_UNAVAILABLE")
        refused = await world.node()
        assert refused.reason() == "STORE_UNAVAILABLE"
        world.table.writes_fail = False
        again = await world.node()
        again.batch(report(session(sequence=2, state=ENDED), turn(1)))
        await world.settle()
        assert again.stored() == [1]
        assert await world.state() == ENDED
        assert await world.table.inner.turns("acme", "s1") == [turn(1)]

    async def test_a_bad_batch_ends_the_stream(self, world: World) -> None:
        """A batch that breaks a rule ends the stream; those before it are
        acknowledged."""
        node = await world.node()
        bad = session("s2")
        bad.start_time.seconds = 10**15
        node.batch(report(session()))
        node.batch(report(bad))
        await world.settle()
        assert (node.stored(), node.reason()) == ([1], "INVALID_REQUEST")

    async def test_what_a_node_has_told_is_stored_though_it_goes(self, world: World) -> None:
        """A stream that breaks while its batch is on its way to the disk takes
        nothing back, and who watches is told."""
        watch = await world.watch()
        node = await world.node()
        world.table.gate.clear()
        node.batch(report(session()))
        await world.settle()
        node.stream.cancel()
        await world.settle()
        world.table.gate.set()
        await world.settle()
        assert watch.seen() == [0, ("s1", "ACTIVE", 1, [])]


class TestStreamsOfANode:
    async def test_a_newer_stream_takes_the_place_of_an_older(self, world: World) -> None:
        """The older stream is ended, and its end does not count as the node's."""
        older = await world.node()
        newer = await world.node()
        assert older.reason() == "NODE_REPLACED"
        newer.batch(report(session()))
        await world.settle()
        assert newer.stored() == [1]
        assert world.sessions.links.count == 1

    async def test_an_older_stream_that_is_stuck_is_ended(self, world: World) -> None:
        """Also a stream whose other side does not read gives way."""
        older = await world.node()
        older.out.gate.clear()
        older.batch(report(session()))
        await world.settle()
        await world.node()
        assert older.reason() == "NODE_REPLACED"

    async def test_an_older_stream_has_no_word_after_a_newer(self, world: World) -> None:
        """What is left of an older stream is not stored behind the newer one's
        hello: its sessions may be over."""
        older = await world.node()
        world.table.gate.clear()
        older.batch(report(session("s1")))
        older.batch(report(session("s2")))
        await world.settle()
        newer = Node(world.sessions)
        newer.hello("n1", "s2")
        await world.settle()
        world.table.gate.set()
        await world.settle()
        assert await world.state("s1") == LOST
        assert await world.table.inner.get("acme", "s2") is None

    async def test_nodes_are_apart(self, world: World) -> None:
        """Each node has its own stream and its own sessions."""
        one, two = await world.node("n1"), await world.node("n2")
        one.batch(report(session("s1")))
        two.batch(report(session("s2")))
        await world.settle()
        one.stream.cancel()
        await world.node("n1")
        assert (await world.state("s1"), await world.state("s2")) == (LOST, ACTIVE)

    async def test_too_many_nodes_are_refused(self, world: World) -> None:
        """There is a bound to the nodes that report, and to those that did not
        long ago."""
        links = Links(world.table, Watchers(world.table), world.clock, 60, 5, nodes_max=2)

        class Few:
            report = links.serve

        nodes = [Node(Few()) for _ in range(3)]  # type: ignore[arg-type]
        for at, node in enumerate(nodes):
            node.hello(f"n{at}")
        await world.settle()
        assert nodes[2].reason() == "LIMIT_REACHED"
        nodes[0].stream.cancel()
        await world.settle()
        late = Node(Few())  # type: ignore[arg-type]
        late.hello("n9")
        await world.settle()
        assert late.reason() == "LIMIT_REACHED"

    async def test_a_server_that_goes_says_so(self, world: World) -> None:
        """At the end all streams are told to come again elsewhere, and no new
        one is taken."""
        world.sessions.start()
        node, watch = await world.node(), await world.watch()
        await world.clock.finish(world.sessions.close())
        await world.settle()
        assert (node.reason(), watch.reason()) == ("SHUTTING_DOWN", "SHUTTING_DOWN")
        assert (await world.node()).reason() == (await world.watch()).reason() == "SHUTTING_DOWN"


class TestLost:
    async def test_sessions_that_hello_does_not_name_are_lost(self, world: World) -> None:
        """A node that comes back without a session has lost it; one that it
        names goes on, and one of which it still has a report is as that says."""
        await put(world.table, session("s1"), session("s2"), session("s3"))
        watch = await world.watch()
        watch.seen()
        node = await world.node("n1", "s1")
        assert sorted(watch.seen()) == [("s2", "LOST", 1, []), ("s3", "LOST", 1, [])]
        node.batch(report(session("s3", 2, state=ENDED)))
        await world.settle()
        assert watch.seen() == [("s3", "ENDED", 2, [])]
        assert await world.state("s1") == ACTIVE

    async def test_sessions_of_a_node_that_stays_away_are_lost(self, world: World) -> None:
        """After a while without a stream, not before, a node's sessions are
        lost; when it is back with them they run again."""
        world.sessions.start()
        node = await world.node()
        node.batch(report(session()))
        await world.settle()
        watch = await world.watch()
        node.stream.cancel()
        await world.clock.advance(AWAY_SECONDS - 1)
        assert await world.state() == ACTIVE
        await world.clock.advance(1)
        assert await world.state() == LOST
        await world.node("n1", "s1")
        assert await world.state() == ACTIVE
        states = [each[1] for each in watch.seen() if isinstance(each, tuple)]
        assert states == ["ACTIVE", "LOST", "ACTIVE"]
        await world.clock.finish(world.sessions.close())

    async def test_a_node_that_comes_back_in_time_loses_nothing(self, world: World) -> None:
        """The time away counts from the last stream's end."""
        world.sessions.start()
        for _ in range(3):
            node = await world.node("n1", "s1")
            node.batch(report(session()))
            await world.settle()
            node.stream.cancel()
            await world.clock.advance(AWAY_SECONDS - 1)
            assert await world.state() == ACTIVE
        await world.clock.finish(world.sessions.close())

    async def test_a_node_that_never_comes_after_a_restart_is_away(self, world: World) -> None:
        """Sessions that ran when the process began are lost if their node does
        not come; so a restart of both sides leaves no session running for
        ever."""
        await put(world.table, session("s1"), session("s2", node_id="n2"))
        world.sessions.start()
        await world.node("n2", "s2")
        await world.clock.advance(AWAY_SECONDS)
        assert (await world.state("s1"), await world.state("s2")) == (LOST, ACTIVE)
        await world.clock.finish(world.sessions.close())

    async def test_a_store_that_fails_loses_no_session_for_good(self, world: World) -> None:
        """While the store fails nobody is found to be away; when it works again
        all is made up for. A node that has tried meanwhile was not away."""
        await put(world.table, session("s1"), session("s2", node_id="n2"))
        world.table.broken = True
        world.sessions.start()
        await world.clock.advance(AWAY_SECONDS)
        await world.node("n2", "s2")
        world.table.broken = False
        await world.clock.advance(AWAY_SECONDS - 1)
        assert await world.state("s2") == ACTIVE
        world.table.writes_fail = True
        await world.clock.advance(AWAY_SECONDS - 10)
        await world.node("n2", "s2")
        world.table.writes_fail = False
        await world.clock.advance(20)
        assert (await world.state("s1"), await world.state("s2")) == (LOST, ACTIVE)
        await world.clock.finish(world.sessions.close())

    async def test_a_node_that_comes_while_it_is_given_up_has_its_sessions(self, world: World) -> None:
        """Whoever is first to be written, the node's own word is the last, and
        its stream goes on."""
        world.sessions.start()
        node = await world.node()
        node.batch(report(session()))
        await world.settle()
        node.stream.cancel()
        world.table.gate.clear()
        await world.clock.advance(AWAY_SECONDS)
        back = Node(world.sessions)
        back.hello("n1", "s1")
        await world.settle()
        world.table.gate.set()
        await world.settle()
        assert await world.state() == ACTIVE
        await world.clock.advance(3 * AWAY_SECONDS)
        assert await world.state() == ACTIVE
        back.batch(report(session(sequence=2)))
        await world.settle()
        assert back.stored() == [1]
        await world.clock.finish(world.sessions.close())

    async def test_a_node_that_came_before_it_was_given_up_loses_nothing(self, world: World) -> None:
        """A node that is back when its time is up, though nothing could be
        written for it yet, was not away: nobody is told of a loss."""
        world.sessions.start()
        node, watch = await world.node(), await world.watch()
        node.batch(report(session()))
        await world.settle()
        world.table.gate.clear()
        node.batch(report(session(sequence=2)))
        await world.settle()
        node.stream.cancel()
        await world.clock.advance(AWAY_SECONDS)
        back = Node(world.sessions)
        back.hello("n1", "s1")
        await world.settle()
        world.table.gate.set()
        await world.settle()
        assert watch.seen() == [0, ("s1", "ACTIVE", 1, []), ("s1", "ACTIVE", 2, [])]
        await world.clock.finish(world.sessions.close())

    async def test_a_hello_that_was_overtaken_does_not_count(self, world: World) -> None:
        """A node that says hello again before its last one was written is taken
        by the newest one alone."""
        node, watch = await world.node(), await world.watch()
        node.batch(report(session()))
        await world.settle()
        world.table.gate.clear()
        node.batch(report(session(sequence=2)))
        await world.settle()
        for running in ((), ("s1",)):
            Node(world.sessions).hello("n1", *running)
            await world.settle()
        world.table.gate.set()
        await world.settle()
        assert watch.seen() == [0, ("s1", "ACTIVE", 1, []), ("s1", "ACTIVE", 2, [])]


class TestCommands:
    async def test_a_command_goes_to_the_node_and_its_answer_back(self, world: World) -> None:
        """The caller is answered when the node has done it."""
        node = await world.node()
        node.batch(report(session()))
        await world.settle()
        node.out.take()
        call = world.start(world.sessions.command("acme", "s1", pb2.SessionCommand(pin_version=3), "ann"))
        await world.settle()
        (command,) = node.commands()
        assert (command.session.tenant_id, command.session.session_id) == ("acme", "s1")
        assert command.pin_version == 3
        assert not call.done()
        node.batch(report(session(sequence=2, pinned_version=3)))
        node.answer(command)
        assert (await call).pinned_version == 3

    async def test_commands_are_answered_in_any_order(self, world: World) -> None:
        """Each answer finds its caller; one that nobody waits for is passed
        over."""
        node = await world.node()
        node.batch(report(session("s1")), report(session("s2")))
        await world.settle()
        node.out.take()
        calls = [
            world.start(world.sessions.command("acme", name, pb2.SessionCommand(trace=True), "ann"))
            for name in ("s1", "s2")
        ]
        await world.settle()
        first, second = node.commands()
        assert first.command_id != second.command_id
        node.answer(pb2.SessionCommand(command_id="nobody's"))
        node.answer(second)
        node.answer(second)
        await world.settle()
        assert (calls[0].done(), calls[1].done()) == (False, True)
        node.answer(first)
        assert (await calls[0]).session_id == "s1"

    async def test_what_the_node_has_against_it_is_answered(self, world: World) -> None:
        """A refusal keeps its reason and its words."""
        node = await world.node()
        node.batch(report(session()))
        await world.settle()
        node.out.take()
        call = world.start(world.sessions.command("acme", "s1", pb2.SessionCommand(pin_version=9), "ann"))
        await world.settle()
        (command,) = node.commands()
        node.answer(command, VoxplaneError(reason_pb2.ERROR_REASON_VERSION_NOT_FOUND, "no version 9"))
        with pytest.raises(VoxplaneError, match="no version 9") as raised:
            await call
        assert raised.value.reason_name == "VERSION_NOT_FOUND"

    async def test_a_refusal_without_a_reason_is_a_fault(self, world: World) -> None:
        """A node that says no and not why is at fault."""
        node = await world.node()
        node.batch(report(session()))
        await world.settle()
        node.out.take()
        call = world.start(world.sessions.command("acme", "s1", pb2.SessionCommand(trace=True), "ann"))
        await world.settle()
        result = pb2.SessionCommandResult(command_id=node.commands()[0].command_id)
        result.status.code = 13
        node.tell(pb2.ReportSessionsRequest(result=result))
        await world.settle()
        assert reason_of(call) == "INTERNAL"

    @pytest.mark.parametrize(
        ("session_id", "reason"),
        [("s9", "SESSION_NOT_FOUND"), ("over", "SESSION_ENDED"), ("away", "NODE_UNREACHABLE")],
    )
    async def test_a_session_that_cannot_be_commanded(
        self, world: World, session_id: str, reason: str
    ) -> None:
        """One that is not there, one that is over, and one whose node is not
        there are told apart."""
        await world.node()
        await put(world.table, session("over", state=ENDED), session("away", node_id="n2"))
        call = world.start(world.sessions.command("acme", session_id, pb2.SessionCommand(trace=True), "ann"))
        await world.settle()
        assert reason_of(call) == reason

    async def test_a_node_that_does_not_answer_is_unreachable(self, world: World) -> None:
        """A command has so many seconds; an answer that comes later harms
        nobody."""
        node = await world.node()
        node.batch(report(session()))
        await world.settle()
        node.out.take()
        call = world.start(world.sessions.command("acme", "s1", pb2.SessionCommand(trace=True), "ann"))
        await world.clock.advance(4.9)
        assert not call.done()
        await world.clock.advance(0.2)
        assert reason_of(call) == "NODE_UNREACHABLE"
        (command,) = node.commands()
        node.answer(command)
        await world.settle()
        assert not node.stream.done()

    async def test_a_node_that_goes_is_unreachable_at_once(self, world: World) -> None:
        """Whoever waits for a node is not kept waiting when it has gone."""
        node = await world.node()
        node.batch(report(session()))
        await world.settle()
        calls = [
            world.start(world.sessions.command("acme", "s1", pb2.SessionCommand(trace=True), "ann"))
            for _ in range(3)
        ]
        await world.settle()
        node.stream.cancel()
        await world.settle()
        assert {reason_of(call) for call in calls} == {"NODE_UNREACHABLE"}

    async def test_a_command_whose_caller_has_gone_is_not_sent_late(self, world: World) -> None:
        """A node that did not read for long is not given what nobody waits for
        any more."""
        node = await world.node()
        node.batch(report(session()))
        await world.settle()
        node.out.take()
        node.out.gate.clear()
        node.batch(report(session(sequence=2)))
        await world.settle()
        call = world.start(world.sessions.command("acme", "s1", pb2.SessionCommand(trace=True), "ann"))
        await world.clock.advance(6)
        assert reason_of(call) == "NODE_UNREACHABLE"
        node.out.gate.set()
        await world.settle()
        assert node.commands() == []

    async def test_a_store_that_fails_is_not_a_missing_session(self, world: World) -> None:
        """While the store fails nothing is said of sessions."""
        world.table.broken = True
        call = world.start(world.sessions.command("acme", "s1", pb2.SessionCommand(trace=True), "ann"))
        await world.settle()
        assert reason_of(call) == "STORE_UNAVAILABLE"

    async def test_a_command_that_was_done_is_answered_though_the_store_fails(self, world: World) -> None:
        """The node has done it: that is said, with what was known before."""
        node = await world.node()
        node.batch(report(session()))
        await world.settle()
        node.out.take()
        call = world.start(world.sessions.command("acme", "s1", pb2.SessionCommand(trace=True), "ann"))
        await world.settle()
        world.table.broken = True
        node.answer(node.commands()[0])
        assert (await call).session_id == "s1"


class TestRetention:
    async def test_what_is_old_is_forgotten(self) -> None:
        """Sessions are trimmed by age and by count, again and again, also after
        the store has failed."""
        world = World(SessionSettings(retention=Retention(days=2, sessions_max=7)))
        world.sessions.start()
        await world.settle()
        began = world.clock.time()
        assert world.table.trims == [(began - 2 * 86_400, 7)]
        world.table.broken = True
        await world.clock.advance(TRIM_SECONDS)
        world.table.broken = False
        await put(world.table, session(state=ENDED), now=began)
        await world.clock.advance(2 * 86_400 + TRIM_SECONDS)
        assert await world.table.inner.get("acme", "s1") is None
        await world.clock.finish(world.sessions.close())


async def test_no_task_is_left(world: World) -> None:
    """When all have gone, so have their tasks."""
    before = asyncio.all_tasks()
    world.sessions.start()
    node, watch = await world.node(), await world.watch()
    node.batch(report(session()))
    await world.settle()
    node.stream.cancel()
    watch.stream.cancel()
    await world.clock.finish(world.sessions.close())
    await world.settle()
    assert asyncio.all_tasks() == before
