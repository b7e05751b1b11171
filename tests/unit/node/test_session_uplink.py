"""The stream of session reports: what arrives, what is waited for, and what outlives the node."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import grpc
import pytest

from agent_node.sessions.endings import REFUSED_SECONDS_MIN
from agent_node.sessions.uplink import ACKNOWLEDGED_SECONDS_MAX, QUIET_SECONDS, REPORTS_AT_ONCE
from control_plane.store import MemoryStore
from tests.unit.node.session_samples import (
    ACTIVE,
    CALLER_LEFT,
    ENDED,
    NODE_STOPPED,
    end_command,
    ended,
    report,
    session,
)
from tests.unit.node.session_uplink import Server, listening, node_of, until
from tests.unit.sessions.session_server import SessionServer, session_server
from voxplane.errors import VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as pb2


class KeptStore(MemoryStore):
    """Outlives the process that uses it, as a disk does."""

    async def close(self) -> None:
        """Keep everything."""


REPLACED = VoxplaneError(reason_pb2.ERROR_REASON_NODE_REPLACED, "a newer stream")
STOPPING = VoxplaneError(reason_pb2.ERROR_REASON_SHUTTING_DOWN, "going away", retry_after=3.0)


async def found(server: SessionServer, name: str) -> tuple[session_pb2.Session, list[int]]:
    """A session as the control plane has it, and its turns."""
    answer = await server.service.GetSession(pb2.GetSessionRequest(tenant_id="acme", session_id=name))
    return answer.session, [turn.turn for turn in answer.turns]


async def test_reports_of_a_moment_go_together(tmp_path: Path) -> None:
    """A batch is sent when it was quiet for a moment, and holds the newest of each session."""
    server = Server()
    async with listening(tmp_path, server), node_of(tmp_path) as node:
        await until(lambda: server.hellos)
        for sequence in range(1, 5):
            node.uplink.report(report(session(sequence=sequence), sequence))
        await node.clock.advance(QUIET_SECONDS / 2)
        node.uplink.report(report(session("s2")))
        await node.clock.settle()
        assert server.batches == []
        await node.flushed()
        assert server.told() == [("s1", 4), ("s2", 1)]
        assert len(server.batches) == 1
        assert [turn.turn for turn in server.batches[0].reports[0].turns] == [1, 2, 3, 4]


async def test_many_reports_do_not_wait(tmp_path: Path) -> None:
    """No time passes here."""
    server = Server()
    async with listening(tmp_path, server), node_of(tmp_path) as node:
        await until(lambda: server.hellos)
        for number in range(REPORTS_AT_ONCE):
            node.uplink.report(report(session(f"s{number}")))
        await until(lambda: server.batches)


async def test_nothing_is_lost_in_an_outage(tmp_path: Path) -> None:
    """What happens while the control plane is away is there, once, when it is back."""
    store = KeptStore()
    async with node_of(tmp_path) as node:
        async with session_server(tmp_path, store):
            await node.connected()
            node.uplink.report(report(session("before"), 1))
            node.uplink.report(report(session("over"), 1))
            await node.flushed()
        await until(lambda: not node.uplink.connected)
        for number in range(2, 250):
            node.uplink.report(report(session("before", sequence=number), number))
        node.uplink.report(report(ended("over", sequence=2), 2))
        node.uplink.report(report(ended("meanwhile"), 1))
        await node.clock.advance(60.0)
        async with session_server(tmp_path, store) as server:
            await node.connected()
            await node.flushed()
            for name, state, count in (("before", ACTIVE, 249), ("over", ENDED, 2), ("meanwhile", ENDED, 1)):
                record, numbers = await found(server, name)
                assert record.state == state
                assert numbers == list(range(1, count + 1))


async def test_what_was_saved_outlives_a_kill(tmp_path: Path) -> None:
    """After kill -9 the next node tells it: what had ended as it ended, what ran as ended with the node."""
    async with node_of(tmp_path) as node:
        node.uplink.report(report(session("ran", sequence=3), 1, 2))
        node.uplink.report(report(ended("over"), 1))
        await node.saved()
        shutil.copytree(tmp_path / "spool", tmp_path / "as it was")
    async with session_server(tmp_path) as server, node_of(tmp_path, spool=tmp_path / "as it was") as node:
        await node.connected()
        await node.flushed()
        record, numbers = await found(server, "ran")
        assert (record.state, record.outcome, record.end_reason) == (
            ENDED,
            NODE_STOPPED,
            "the node restarted",
        )
        assert numbers == [1, 2]
        record, numbers = await found(server, "over")
        assert (record.outcome, numbers) == (CALLER_LEFT, [1])
        assert list(node.uplink.state.running()) == []
        await node.saved()
    async with node_of(tmp_path, spool=tmp_path / "as it was") as node:
        assert node.uplink.state.unsent == 0


async def test_a_session_of_which_all_is_told_is_still_known_after_a_kill(tmp_path: Path) -> None:
    """A call that runs has nothing to be told; it ends with its node all the same, and is never LOST."""
    store = KeptStore()
    async with session_server(tmp_path, store) as server:
        async with node_of(tmp_path) as node:
            await node.connected()
            node.uplink.report(report(session(sequence=3), 1))
            await node.saved()
            shutil.copytree(tmp_path / "spool", tmp_path / "as it was")
            for sequence in range(4, 40):
                node.uplink.report(report(session(sequence=sequence)))
            await node.flushed()
        async with node_of(tmp_path, spool=tmp_path / "as it was") as node:
            await node.connected()
            await node.flushed()
            record, numbers = await found(server, "s1")
            assert (record.state, record.outcome, numbers) == (ENDED, NODE_STOPPED, [1])


async def test_the_end_of_the_node_is_told_and_saved(tmp_path: Path) -> None:
    """What is reported last is acknowledged before the stream ends; nothing of it is told again."""
    server = Server()
    async with listening(tmp_path, server):
        async with node_of(tmp_path) as node:
            await node.connected()
            node.uplink.report(report(session(), 1))
            await node.flushed()
            node.uplink.report(report(ended(), 2))
        assert server.told() == [("s1", 1), ("s1", 9)]
        async with node_of(tmp_path) as node:
            assert list(node.uplink.state.running()) == []


async def test_a_node_without_a_control_plane_ends_at_once(tmp_path: Path) -> None:
    """What could not be told is in the spool."""
    async with node_of(tmp_path) as node:
        await node.failed(1)
        node.uplink.report(report(ended(), 1))
        began = time.monotonic()
    assert time.monotonic() - began < 1.0
    async with node_of(tmp_path) as node:
        assert node.uplink.state.unsent == 1


async def test_commands_are_passed_on_and_answered(tmp_path: Path) -> None:
    """EndSession at the control plane comes to the node, and its answer back."""
    async with session_server(tmp_path) as server, node_of(tmp_path) as node:
        await node.connected()
        node.uplink.report(report(session()))
        await node.flushed()
        request = pb2.EndSessionRequest(tenant_id="acme", session_id="s1", reason="enough")
        ending = asyncio.ensure_future(server.service.EndSession(request))
        await until(lambda: node.commands)
        assert node.commands[0].end.reason == "enough"
        node.uplink.result(pb2.SessionCommandResult(command_id=node.commands[0].command_id))
        assert (await ending).session.session_id == "s1"


async def test_an_answer_without_a_stream_is_dropped(tmp_path: Path) -> None:
    """Nobody waits for it any more."""
    server = Server()
    async with node_of(tmp_path) as node:
        async with listening(tmp_path, server):
            await node.connected()
            server.commands.put_nowait(end_command())
            await until(lambda: node.commands)
        await node.failed(1)
        node.uplink.result(pb2.SessionCommandResult(command_id="c1"))
        async with listening(tmp_path, server):
            await node.connected()
            node.uplink.report(report(session()))
            await node.flushed()
            assert server.results == []


async def test_hello_names_what_runs(tmp_path: Path) -> None:
    """Sessions that are over and told are not named."""
    server = Server()
    async with node_of(tmp_path) as node:
        async with listening(tmp_path, server):
            await node.connected()
            node.uplink.report(report(session("runs")))
            node.uplink.report(report(ended("over")))
            await node.flushed()
        await node.failed(1)
        node.uplink.report(report(ended("untold")))
        async with listening(tmp_path, server):
            await node.connected()
            await node.flushed()
    assert [[key.session_id for key in hello.running] for hello in server.hellos[:2]] == [
        [],
        ["runs", "untold"],
    ]
    assert {hello.node_id for hello in server.hellos} == {"n1"}
    assert [name for name, _ in server.told()] == ["runs", "over", "runs", "untold"]


async def test_waits_grow_until_something_is_acknowledged(tmp_path: Path) -> None:
    """The longest share of them doubles up to its bound."""
    async with node_of(tmp_path) as node:
        node.uplink.report(report(session()))
        waits: list[float] = []
        for count in range(1, 9):
            await node.failed(count)
            await until(lambda: node.clock.due is not None)
            waits.append(node.uplink.pause)
            await node.clock.advance(waits[-1])
        assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
        await node.failed(9)
        async with listening(tmp_path, Server()):
            await node.connected()
            await node.flushed()
        await node.failed(10)
        assert node.uplink.pause == 0.25


async def test_what_the_server_asks_for_is_waited(tmp_path: Path) -> None:
    """RetryInfo, and a share on top."""
    async with listening(tmp_path, Server(refusal=STOPPING)), node_of(tmp_path) as node:
        await node.failed(1)
        assert node.uplink.pause == 3.25


@pytest.mark.parametrize(
    "refusal", [None, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, REPLACED]
)
async def test_a_server_that_does_not_want_it_is_left_alone(
    tmp_path: Path, refusal: VoxplaneError | grpc.StatusCode | None
) -> None:
    """One that does not know the service, or does not permit it, or has another node of this id, is asked
    rarely, and ever more so."""
    server = Server(refusal=refusal) if refusal else None
    async with listening(tmp_path, server), node_of(tmp_path, jitter=0.0) as node:
        waits: list[float] = []
        for count in range(1, 7):
            await node.failed(count)
            waits.append(node.uplink.pause)
            await node.clock.advance(waits[-1])
        # gRPC says INTERNAL of a call that is refused while it is written to, and
        # that is tried again at once.
        refused = [wait for wait in waits if wait]
        assert len(refused) >= 5
        assert refused[0] >= REFUSED_SECONDS_MIN / 2
        assert refused == sorted(refused)
        assert refused[-1] >= 5 * refused[0]


async def test_a_batch_that_is_refused_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """A session that the control plane cannot take is dropped alone, and counted."""
    server = Server(refused={"bad"})
    async with listening(tmp_path, server), node_of(tmp_path, jitter=0.0) as node:
        await node.connected()
        for name in ("s1", "bad", "s2"):
            node.uplink.report(report(session(name), 1))
        async with asyncio.timeout(20):
            while node.uplink.state.unacknowledged:
                await node.clock.advance(0.5)
                await asyncio.sleep(0.01)
        assert {name for name, _ in server.told()} == {"s1", "s2"}
        assert node.uplink.state.losses.refused == 2


async def test_a_server_that_acknowledges_nothing_is_left(tmp_path: Path) -> None:
    """After the time that is named the stream begins anew, with the same reports."""
    server = Server(acknowledges=False)
    async with listening(tmp_path, server), node_of(tmp_path, jitter=0.0) as node:
        await node.connected()
        node.uplink.report(report(session(), 1))
        await node.clock.advance(QUIET_SECONDS)
        await until(lambda: server.batches)
        await until(lambda: node.clock.due is not None)
        await node.clock.advance(ACKNOWLEDGED_SECONDS_MAX - 1.0)
        assert node.uplink.figures.back_offs == 0
        server.acknowledges = True
        await node.clock.advance(1.0)
        await node.failed(1)
        await node.connected()
        await node.flushed()
        assert server.told() == [("s1", 1), ("s1", 1)]


async def test_a_disk_that_fails_holds_up_nothing(tmp_path: Path) -> None:
    """Reports arrive without a spool; it is written as soon as it can be."""
    blocked = tmp_path / "blocked"
    blocked.write_bytes(b"")
    server = Server()
    async with listening(tmp_path, server), node_of(tmp_path, spool=blocked / "spool") as node:
        await node.connected()
        node.uplink.report(report(session(), 1))
        await node.flushed()
        async with asyncio.timeout(20):
            while node.uplink.figures.save_failures < 2:
                await node.clock.advance(1.0)
                await asyncio.sleep(0.01)
        blocked.unlink()
        await node.saved()
        shutil.copytree(blocked, tmp_path / "as it was")
    async with node_of(tmp_path, spool=tmp_path / "as it was" / "spool") as node:
        assert [key.session_id for key in node.uplink.state.running()] == ["s1"]


async def test_a_disk_that_was_full_is_made_whole(tmp_path: Path) -> None:
    """What could not be added is there once there is room, although nothing new has happened since."""
    async with node_of(tmp_path) as node:
        node.uplink.report(report(session(), 1))
        await node.saved()
        node.spool.full = True
        node.uplink.report(report(session(sequence=2), 2, 3))
        await node.clock.advance(1.0)
        await until(lambda: node.uplink.figures.save_failures)
        node.spool.full = False
        await node.saved()
        shutil.copytree(tmp_path / "spool", tmp_path / "as it was")
    server = Server()
    async with listening(tmp_path, server), node_of(tmp_path, spool=tmp_path / "as it was") as node:
        await node.connected()
        await node.flushed()
        assert [turn.turn for turn in server.batches[0].reports[0].turns] == [1, 2, 3]


async def test_the_spool_keeps_its_bound(tmp_path: Path) -> None:
    """However much happens in an outage, the files stay below it, and the records stay."""
    async with node_of(tmp_path) as node:
        largest = 0
        for number in range(1, 60):
            made = report(session(sequence=number), *range(number * 100, number * 100 + 100))
            for turn in made.turns:
                turn.errors.add(source="llm", message="x" * 400)
            node.uplink.report(made)
            await node.saved()
            largest = max(largest, sum(path.stat().st_size for path in (tmp_path / "spool").iterdir()))
        assert 1_000_000 < largest <= 2_000_000
        assert node.uplink.state.losses.turns > 1_000
        assert node.uplink.state.losses.records == 0
