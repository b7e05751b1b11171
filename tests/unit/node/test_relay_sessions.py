"""Sessions over the relay's socket: reports, commands, processes that die, other agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from tests.unit.node.samples import snapshot
from tests.unit.node.session_samples import ENDED, end_command, ended, hello, report, session
from tests.unit.node.test_relay import APPLIED, AttachCall, Node, running_node, text
from tests.unit.node.test_relay import report as bundle_report
from voxplane.errors import reason_of
from voxplane.names import TenantId
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.v1 import session_service_pb2 as pb2

SECONDS_MAX = 10.0
BASE = 1_700_000_000_000
"""The time of the clock, in milliseconds."""

T = TypeVar("T")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A node whose relay listens, with two agents."""
    async with running_node(tmp_path) as node:
        node.give(snapshot(1, a="one", b="two"))
        yield node


async def attach(node: Node, first: relay_pb2.JobHello | None = None) -> AttachCall:
    """A job that has said hello."""
    call = node.stub.Attach()
    await call.write(relay_pb2.AttachRequest(hello=first or hello()))
    return call


async def tell(call: AttachCall, told: pb2.SessionReport) -> None:
    """The job reports."""
    await call.write(relay_pb2.AttachRequest(session=told))


async def until(true: Callable[[], T]) -> T:
    """Wait for what the other side does."""
    async with asyncio.timeout(SECONDS_MAX):
        while not (found := true()):  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)
    return found


async def read(call: AttachCall) -> relay_pb2.AttachResponse:
    """What the job is told next."""
    message = await asyncio.wait_for(call.read(), SECONDS_MAX)
    assert isinstance(message, relay_pb2.AttachResponse), await call.details()
    return message


async def test_what_a_job_tells_goes_upstream(node: Node) -> None:
    """Its records and turns, in order; after its end the session is gone."""
    job = await attach(node)
    assert await text(job) == "one"
    await tell(job, report(session()))
    await tell(job, report(session(sequence=2), 1))
    await tell(job, report(ended(), 2))
    await job.done_writing()
    assert await job.read() is grpc.aio.EOF
    assert [
        (each.session.sequence, [turn.turn for turn in each.turns]) for each in node.upstream.reports
    ] == [
        (BASE + 1, []),
        (BASE + 2, [1]),
        (BASE + 9, [2]),
    ]
    assert node.upstream.reports[-1].session.state == ENDED
    assert node.desk.kinds["voice"] == 0


async def test_a_command_reaches_the_job_and_its_answer_the_control_plane(node: Node) -> None:
    """While bundles go on."""
    job = await attach(node)
    assert await text(job) == "one"
    node.desk.command(end_command())
    assert (await read(job)).command == end_command()
    await job.write(relay_pb2.AttachRequest(result=pb2.SessionCommandResult(command_id="c1")))
    await until(lambda: node.upstream.results)
    node.give(snapshot(2, a="three"))
    assert await text(job) == "three"
    job.cancel()


async def test_a_second_job_for_a_session_is_refused(node: Node) -> None:
    """With a reason; the first one goes on."""
    first = await attach(node)
    assert await text(first) == "one"
    error = await node.refusal(relay_pb2.AttachRequest(hello=hello()))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "s1 runs on this node already" in (error.details() or "")
    await tell(first, report(session()))
    await until(lambda: node.upstream.reports)
    first.cancel()


async def test_a_job_that_takes_over_is_given_the_legacy_first(node: Node) -> None:
    """Before its bundle, also on a node that would let no new call in."""
    job = await attach(node)
    await tell(job, report(session(sequence=3), 1))
    memory = relay_pb2.SessionMemory(items=[b"hello"], turns=1)
    await job.write(relay_pb2.AttachRequest(memory=memory))
    await until(lambda: node.upstream.reports)
    await read(job)
    job.cancel()
    orphan = await asyncio.wait_for(node.desk.orphans.get(), SECONDS_MAX)
    assert orphan.job_id == "job 1"
    given = snapshot(2, a="one", b="two")
    for content in given.contents.values():
        content.config.limits_config.stale_action = "refuse"
        content.config.limits_config.max_stale.FromSeconds(60)
    node.give(given)
    node.ages[TenantId("acme")] = 3_600.0
    error = await node.refusal(relay_pb2.AttachRequest(hello=hello("s2")))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    second = await attach(node, hello(job_id="job 2"))
    legacy = (await read(second)).legacy
    assert (legacy.session.sequence, legacy.memory) == (BASE + 3, memory)
    assert await text(second) == "one"
    second.cancel()


async def test_a_job_that_hangs_up_is_an_orphan_too(node: Node) -> None:
    """A process that goes in order without an end has left a caller behind."""
    job = await attach(node)
    await tell(job, report(session()))
    await job.done_writing()
    while await job.read() is not grpc.aio.EOF:
        pass
    assert node.desk.orphans.get_nowait().caller.session_id == "s1"


async def test_a_session_follows_another_agent(node: Node) -> None:
    """It gets that one's bundle and its changes, and no more of the one before; who heals it hears of it."""
    job = await attach(node)
    assert await text(job) == "one"
    await tell(job, report(session()))
    await job.write(relay_pb2.AttachRequest(follow=relay_pb2.FollowAgent(agent_id="b")))
    assert await text(job) == "two"
    node.give(snapshot(2, a="not for it", b="three"))
    assert await text(job) == "three"
    assert node.board.sessions == 1
    job.cancel()
    orphan = await asyncio.wait_for(node.desk.orphans.get(), SECONDS_MAX)
    assert orphan.caller.agent_id == "b"
    assert node.board.sessions == 0


async def test_a_session_keeps_its_agent_if_the_other_cannot_be_had(node: Node) -> None:
    """Unknown or not working: it is told why, and the changes of its own agent go on."""
    node.give(snapshot(2, a="one", b="two", broken="bad"))
    job = await attach(node)
    assert await text(job) == "one"
    for wanted, reason in (("nobody", "AGENT_NOT_FOUND"), ("broken", "BUILD_FAILED")):
        await job.write(relay_pb2.AttachRequest(follow=relay_pb2.FollowAgent(agent_id=wanted)))
        refused = (await read(job)).follow_refused
        assert (refused.agent_id, reason_of(refused.error)) == (wanted, reason)
    node.give(snapshot(3, a="more"))
    assert await text(job) == "more"
    job.cancel()


async def test_what_became_of_a_bundle_counts_for_its_own_agent(node: Node) -> None:
    """A late word on the agent before does not reach the one that is followed."""
    job = await attach(node)
    assert await text(job) == "one"
    await job.write(relay_pb2.AttachRequest(follow=relay_pb2.FollowAgent(agent_id="b")))
    assert await text(job) == "two"
    while not node.statuses.empty():
        node.statuses.get_nowait()
    await job.write(bundle_report("some other etag", APPLIED))
    await tell(job, report(session()))
    await until(lambda: node.upstream.reports)
    assert node.statuses.empty()
    job.cancel()
