"""Bundles that a node could not use for want of something of its own, and
checks that do not end."""

from __future__ import annotations

import asyncio
import threading
from itertools import pairwise

import pytest
import structlog

from agent_node.relay import Board, Stager
from agent_node.relay.board import RECHECK_SECONDS_MAX, RECHECK_SECONDS_MIN
from agent_node.relay.staging import CHECKS_AT_ONCE_MAX, HUNG_CHECKS_MAX, STAGING_SECONDS_MAX
from tests.unit.node.samples import snapshot
from tests.unit.node.upstream_client import until
from tests.virtual_clock import VirtualClock
from voxplane.errors import VoxplaneError, reason_of
from voxplane.names import TenantId, agent_name
from voxplane.v1 import agent_config_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

A = agent_name("acme", "a")
SECONDS_MAX = 10


class Node:
    """A board whose checks fail with what is missing."""

    def __init__(self) -> None:
        self.missing: reason_pb2.ErrorReason | None = reason_pb2.ERROR_REASON_SECRET_UNAVAILABLE
        self.checks = 0
        self.clock = VirtualClock()
        self.stager = Stager(self.check)
        self.statuses: asyncio.Queue[sync_pb2.BundleStatus] = asyncio.Queue()
        self.board = Board(self.stager, self.clock, report=self.statuses.put_nowait, forget=lambda name: None)

    def check(self, config: agent_config_pb2.AgentConfig) -> None:
        """Fail if something is missing."""
        self.checks += 1
        if self.missing is not None:
            raise VoxplaneError(self.missing, "llm_config.api_key: it is not there")

    def give(self, revision: int, text: str) -> None:
        """A bundle arrives and is written."""
        given = snapshot(revision, a=text)
        self.board.applied(given)
        self.board.persisted(given)

    async def told(self, phase: sync_pb2.ConfigPhase) -> sync_pb2.BundleStatus:
        """The next status of that phase."""
        while (status := await asyncio.wait_for(self.statuses.get(), SECONDS_MAX)).phase != phase:
            pass
        return status

    async def checked(self, count: int) -> float:
        """Let time pass until there were so many checks; when that was."""
        async with asyncio.timeout(SECONDS_MAX):
            while self.checks < count:
                await self.clock.until_sleeping()
                assert self.clock.due is not None
                await self.clock.advance(self.clock.due - self.clock.monotonic())
                await until(lambda: self.clock.sleeping > 0 or self.checks >= count)
        return self.clock.monotonic()


FAILED, APPLIED = sync_pb2.CONFIG_PHASE_FAILED, sync_pb2.CONFIG_PHASE_APPLIED


@pytest.mark.parametrize(
    "missing",
    [
        reason_pb2.ERROR_REASON_SECRET_UNAVAILABLE,
        reason_pb2.ERROR_REASON_PROVIDER_UNKNOWN,
        reason_pb2.ERROR_REASON_TOOLS_UNAVAILABLE,
    ],
)
async def test_a_secret_that_comes_later_is_found(missing: reason_pb2.ErrorReason) -> None:
    """A bundle that lacked a secret or a provider is checked again, and applied when they are there;
    until then nothing more is said of it."""
    node = Node()
    node.missing = missing
    with structlog.testing.capture_logs() as logs:
        node.give(1, "one")
        assert (await node.told(FAILED)).revision == 1
        assert await node.checked(3) == RECHECK_SECONDS_MIN * 3
        assert node.statuses.empty()
        node.missing = None
        await node.checked(4)
        assert (await node.told(APPLIED)).revision == 1
    assert len([entry for entry in logs if entry["event"] == "bundle refused"]) == 1
    assert node.board.refusals == 1
    assert node.board.refused() == []


async def test_rechecks_become_rare() -> None:
    """The wait doubles up to a bound."""
    node = Node()
    node.give(1, "one")
    await node.told(FAILED)
    times = [await node.checked(count) for count in range(2, 12)]
    waits = [after - before for before, after in pairwise(times)]
    assert waits == sorted(waits)
    assert waits[-1] == RECHECK_SECONDS_MAX


async def test_other_refusals_stand() -> None:
    """What only a new bundle can mend is not checked again."""
    node = Node()
    node.missing = reason_pb2.ERROR_REASON_BUILD_FAILED
    node.give(1, "one")
    await node.told(FAILED)
    await node.clock.settle()
    assert node.clock.sleeping == 0


async def test_a_new_bundle_starts_over() -> None:
    """The recheck of a bundle that was replaced or removed checks nothing."""
    node = Node()
    node.give(1, "one")
    await node.told(FAILED)
    node.missing = reason_pb2.ERROR_REASON_BUILD_FAILED
    node.give(2, "two")
    await node.told(FAILED)
    await node.clock.advance(10 * RECHECK_SECONDS_MAX)
    await node.clock.settle()
    assert node.checks == 2
    node.missing = reason_pb2.ERROR_REASON_SECRET_UNAVAILABLE
    node.give(3, "three")
    await node.told(FAILED)
    await until(lambda: node.clock.sleeping > 0)
    assert node.clock.due == node.clock.monotonic() + RECHECK_SECONDS_MIN
    other = Node()
    other.give(1, "one")
    await other.told(FAILED)
    other.board.forgotten(TenantId("acme"))
    await other.clock.advance(10 * RECHECK_SECONDS_MAX)
    assert other.checks == 1
    assert other.board.refused() == []


async def test_a_check_that_hangs_is_failed_and_holds_nobody_up() -> None:
    """After its time the bundle is FAILED with the reason, and others are checked meanwhile and after;
    with too many hung checks the node says that it has to be restarted."""
    gate, hang = threading.Event(), [True]

    def check(config: agent_config_pb2.AgentConfig) -> None:
        if hang[0]:
            gate.wait(60)

    clock = VirtualClock()
    stager = Stager(check, clock)
    statuses: asyncio.Queue[sync_pb2.BundleStatus] = asyncio.Queue()
    board = Board(stager, clock, report=statuses.put_nowait, forget=lambda name: None)

    async def verdict(revision: int) -> sync_pb2.BundleStatus:
        given = snapshot(revision, a=f"text {revision}")
        board.applied(given)
        board.persisted(given)
        if hang[0]:
            await clock.settle()
            await clock.advance(STAGING_SECONDS_MAX)
        while True:
            status = await asyncio.wait_for(statuses.get(), SECONDS_MAX)
            if status.phase in (FAILED, APPLIED) and status.revision == revision:
                return status

    try:
        for revision in range(1, CHECKS_AT_ONCE_MAX + 2):
            status = await verdict(revision)
            assert status.phase == FAILED
            assert "longer than 30 s" in status.error.message
            assert reason_of(status.error) == "BUILD_FAILED"
        hang[0] = False
        assert (await verdict(10)).phase == APPLIED
        hang[0] = True
        for revision in range(11, 11 + HUNG_CHECKS_MAX - stager.hung):
            await verdict(revision)
        hang[0] = False
        status = await verdict(50)
        assert status.phase == FAILED
        assert "restart" in status.error.message
    finally:
        gate.set()
    for thread in list(stager._hung):
        thread.join(SECONDS_MAX)
    assert stager.hung == 0
    assert (await verdict(51)).phase == APPLIED


async def test_hung_checks_do_not_keep_the_process() -> None:
    """Threads of checks are daemons: the interpreter does not wait for them."""
    seen: list[bool] = []
    stager = Stager(lambda config: seen.append(threading.current_thread().daemon))
    board = Board(stager, VirtualClock(), report=lambda status: None, forget=lambda name: None)
    board.applied(snapshot(1, a="x"))
    await board.ready(A)
    assert seen == [True]


async def test_statuses_never_go_back_in_time() -> None:
    """A wall clock that is set back does not make a newer status look older than what was told."""
    clock = VirtualClock()
    statuses: asyncio.Queue[sync_pb2.BundleStatus] = asyncio.Queue()
    board = Board(Stager(lambda config: None), clock, report=statuses.put_nowait, forget=lambda name: None)
    times: list[int] = []
    for revision in range(1, 4):
        given = snapshot(revision, a=f"text {revision}")
        board.applied(given)
        board.persisted(given)
        while (status := await asyncio.wait_for(statuses.get(), SECONDS_MAX)).phase != APPLIED:
            pass
        times.append(status.time.ToNanoseconds())
        await clock.advance(1.0)
        clock._start -= 3600
    assert times == sorted(times)


async def test_a_forgotten_tenant_leaves_nothing() -> None:
    """Its agents are told to their sessions as removed and reported no more."""
    node = Node()
    node.missing = None
    gone: list[str] = []
    board = Board(node.stager, node.clock, report=node.statuses.put_nowait, forget=gone.append)
    board.applied(snapshot(1, a="x", b="y"))
    board.applied(snapshot(1, "beta", a="x"))
    await board.ready(A)
    attachment = board.attach(A)
    assert await attachment.next() is not None
    board.forgotten(TenantId("acme"))
    assert await asyncio.wait_for(attachment.next(), SECONDS_MAX) is None
    assert sorted(gone) == [A, agent_name("acme", "b")]
    with pytest.raises(VoxplaneError, match="does not know"):
        await board.ready(A)
    await board.ready(agent_name("beta", "a"))
    board.forgotten(TenantId("never"))
