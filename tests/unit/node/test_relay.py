"""The relay on its socket: bundles to jobs, and their reports back."""

from __future__ import annotations

import asyncio
import socket as sockets
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.rpc import status_pb2
from grpc_status import rpc_status

from agent_node.relay import Board, SessionDesk, SocketTaken, Stager, TextPool, bind, claim
from agent_node.upstream import Snapshot
from tests.unit.node.samples import Ages, Told, relay_service, snapshot
from tests.virtual_clock import VirtualClock
from voxplane.errors import Violation, VoxplaneError, reason_of, violations_of
from voxplane.names import agent_name
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc
from voxplane.v1 import agent_config_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

A = agent_name("acme", "a")
APPLIED, FAILED = sync_pb2.CONFIG_PHASE_APPLIED, sync_pb2.CONFIG_PHASE_FAILED
NONE_HELD = snapshot(1)

AttachCall = grpc.aio.StreamStreamCall[relay_pb2.AttachRequest, relay_pb2.AttachResponse]


class Checks:
    """A staging check that refuses configs that say so, and can be held up."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, config: agent_config_pb2.AgentConfig) -> None:
        """Look at the config's text."""
        text = config.prompt_config.instructions
        self.seen.append(text)
        self.gate.wait(10)
        if text.startswith("crash"):
            raise RuntimeError("a key that must not be shown")
        if text.startswith("bad"):
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_PROVIDER_UNKNOWN,
                "no such provider",
                violations=[Violation("llm_config.provider", "is unknown")],
            )


class Node:
    """A board, a relay on a socket, and a job's view of it."""

    def __init__(self, folder: Path) -> None:
        self.checks = Checks()
        self.clock = VirtualClock()
        self.stager = Stager(self.checks)
        self.statuses: asyncio.Queue[sync_pb2.BundleStatus] = asyncio.Queue()
        self.forgotten: list[str] = []
        self.board = Board(
            self.stager, self.clock, report=self.statuses.put_nowait, forget=self.forgotten.append
        )
        self.upstream = Told()
        self.desk = SessionDesk("n1", self.clock, self.upstream)
        self.ages = Ages()
        self.socket = folder / "node" / "relay.sock"
        self.stub: relay_grpc.RelayServiceAsyncStub

    def give(self, given: Snapshot) -> None:
        """A snapshot arrives and is written."""
        self.board.applied(given)
        self.board.persisted(given)

    async def told(self, phase: sync_pb2.ConfigPhase) -> sync_pb2.BundleStatus:
        """The next status of that phase."""
        while True:
            status = await asyncio.wait_for(self.statuses.get(), 10)
            if status.phase == phase:
                return status

    @asynccontextmanager
    async def attached(self, agent: str = "a") -> AsyncIterator[AttachCall]:
        """A job of an agent."""
        call = self.stub.Attach()
        await call.write(hello(agent))
        yield call
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass

    async def refusal(self, first: relay_pb2.AttachRequest) -> grpc.aio.AioRpcError:
        """What a job is refused with that begins so."""
        call = self.stub.Attach()
        await call.write(first)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        return caught.value


def hello(agent: str) -> relay_pb2.AttachRequest:
    """A job's first message."""
    caller = relay_pb2.CallerContext(tenant_id="acme", agent_id=agent)
    return relay_pb2.AttachRequest(hello=relay_pb2.JobHello(caller=caller, pid=1))


async def text(call: AttachCall) -> str:
    """The text of the bundle that a job is given next; `removed` if it is told so."""
    message = await asyncio.wait_for(call.read(), 10)
    assert isinstance(message, relay_pb2.AttachResponse)
    if message.HasField("removed"):
        return "removed"
    (content,) = message.bundle.contents
    return content.config.prompt_config.instructions


def report(etag: str, phase: sync_pb2.ConfigPhase) -> relay_pb2.AttachRequest:
    """A job's report."""
    error = status_pb2.Status(code=9, message="no") if phase == FAILED else None
    return relay_pb2.AttachRequest(
        status=sync_pb2.BundleStatus(name=A, etag=etag, revision=1, phase=phase, error=error)
    )


@asynccontextmanager
async def running_node(folder: Path) -> AsyncIterator[Node]:
    """A node whose relay listens, for the block."""
    node = Node(folder)
    pool = TextPool(["false"], {}, idle=0, sessions_max=0, clock=node.clock, jitter=lambda: 0.0)
    with claim(node.socket):
        server = grpc.aio.server()
        service = relay_service(node.board, pool, node.clock, node.ages, node.desk)
        relay_grpc.add_RelayServiceServicer_to_server(service, server)
        bind(server, node.socket)
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{node.socket}") as channel:
            node.stub = relay_grpc.RelayServiceStub(channel)
            yield node
        await server.stop(0)
    node.stager.close()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A node whose relay listens."""
    async with running_node(tmp_path) as node:
        yield node


async def test_the_socket_is_for_the_owner_alone(node: Node) -> None:
    """Socket 0600, folder 0700."""
    assert stat.S_IMODE(node.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(node.socket.parent.stat().st_mode) == 0o700


async def test_a_second_node_on_the_socket_is_refused(node: Node) -> None:
    """A live socket is not taken away."""
    with pytest.raises(SocketTaken, match="another node"), claim(node.socket):
        pass
    assert node.socket.exists()


def test_a_foreign_listener_is_left_alone(tmp_path: Path) -> None:
    """A socket on which something else listens is an error."""
    path = tmp_path / "relay.sock"
    with sockets.socket(sockets.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(SocketTaken, match="somebody else"), claim(path):
            pass


def test_a_dead_socket_is_removed(tmp_path: Path) -> None:
    """What a killed node left does not stop the next one."""
    path = tmp_path / "relay.sock"
    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(str(path))
    with claim(path):
        assert not path.exists()


def test_a_path_too_long_says_so(tmp_path: Path) -> None:
    """A socket path beyond the system's limit is a clear error."""
    with (
        pytest.raises(SocketTaken, match="at most 107; choose a shorter --node-socket"),
        claim(tmp_path / ("x" * 120) / "relay.sock"),
    ):
        pass


def test_a_shared_folder_is_left_as_it_is(tmp_path: Path) -> None:
    """A socket in a folder that others use does not lock them out of it."""
    tmp_path.chmod(0o755)
    with claim(tmp_path / "relay.sock"):
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_folder_that_cannot_be_made_says_so() -> None:
    """A socket that cannot be is a clear error."""
    with pytest.raises(SocketTaken, match="cannot be made"), claim(Path("/proc/nowhere/relay.sock")):
        pass


async def test_a_job_gets_the_present_bundle_and_then_changes(node: Node) -> None:
    """First what is there, then each change; and the contents come along."""
    node.give(snapshot(1, a="one"))
    async with node.attached() as job:
        assert await text(job) == "one"
        node.give(snapshot(2, a="two"))
        assert await text(job) == "two"


async def test_a_job_skips_what_it_missed(node: Node) -> None:
    """Changes that come before the job looks are one delivery: the newest."""
    node.give(snapshot(1, a="one"))
    async with node.attached() as job:
        assert await text(job) == "one"
        node.checks.gate.clear()
        for revision in range(2, 50):
            node.give(snapshot(revision, a=f"text {revision}"))
        node.checks.gate.set()
        assert await text(job) == "text 49"
        assert len(node.checks.seen) <= 3


async def test_an_unchanged_agent_is_not_delivered_again(node: Node) -> None:
    """A change of another agent does not reach the job."""
    node.give(snapshot(1, a="one", b="x"))
    async with node.attached() as job:
        assert await text(job) == "one"
        other = snapshot(2, since=2, b="y")
        same = snapshot(1, a="one")
        node.give(
            Snapshot(
                other.tenant_id,
                other.revision,
                {**same.bundles, **other.bundles},
                {**same.contents, **other.contents},
            )
        )
        node.give(snapshot(3, a="three", b="y"))
        assert await text(job) == "three"


async def test_an_unknown_agent_is_not_found(node: Node) -> None:
    """Attach to an agent that the node does not know fails with the reason."""
    error = await node.refusal(hello("nobody"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert reason_of(rpc_status.from_call(error)) == "AGENT_NOT_FOUND"


async def test_a_removed_agent_is_told_and_may_come_back(node: Node) -> None:
    """The session hears that its agent is gone, and gets the bundle again if it returns."""
    node.give(snapshot(1, a="one"))
    async with node.attached() as job:
        assert await text(job) == "one"
        node.give(snapshot(2))
        assert await text(job) == "removed"
        assert node.forgotten == [A]
        node.give(snapshot(3, a="one"))
        assert await text(job) == "one"


async def test_a_refused_bundle_reaches_nobody(node: Node) -> None:
    """Running and new sessions stay on the last good bundle; the report names the field."""
    node.give(snapshot(1, a="one"))
    async with node.attached() as job:
        assert await text(job) == "one"
        node.give(snapshot(2, a="bad"))
        status = await node.told(FAILED)
        assert status.revision == 2
        assert violations_of(status.error) == [Violation("config.llm_config.provider", "is unknown")]
        assert reason_of(status.error) == "PROVIDER_UNKNOWN"
        assert "version 1" in status.error.message
        async with node.attached() as another:
            assert await text(another) == "one"
        node.give(snapshot(3, a="three"))
        assert await text(job) == "three"


async def test_a_check_that_breaks_refuses_without_its_words(node: Node) -> None:
    """An unforeseen fault fails the bundle, and does not carry what it said."""
    node.give(snapshot(1, a="crash"))
    status = await node.told(FAILED)
    assert "RuntimeError" in status.error.message
    assert "key" not in str(status)


async def test_an_agent_without_a_working_bundle_takes_no_session(node: Node) -> None:
    """A first bundle that is refused gives FAILED_PRECONDITION with its fields."""
    node.give(snapshot(1, a="bad"))
    error = await node.refusal(hello("a"))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    (violation,) = violations_of(rpc_status.from_call(error))
    assert violation.field == "config.llm_config.provider"


async def test_a_bundle_of_before_is_held_for_a_restart(node: Node, tmp_path: Path) -> None:
    """Until a new bundle is proven the last good one goes to disk with it, and serves after a restart."""
    node.give(snapshot(1, a="one"))
    await node.told(APPLIED)
    bad = snapshot(2, a="bad")
    node.give(bad)
    held = node.board.held(bad)
    assert [bundle.revision for bundle in held.bundles.values()] == [1]
    await node.told(FAILED)
    assert node.board.held(bad).bundles == held.bundles
    again = Board(node.stager, node.clock, report=node.statuses.put_nowait, forget=lambda name: None)
    again.restore(bad, held)
    await again.ready(A)
    offer = await again.attach(A).next()
    assert offer is not None
    assert offer.bundle.revision == 1
    assert (await node.told(FAILED)).revision == 2


async def test_nothing_is_held_once_all_is_proven(node: Node) -> None:
    """A bundle that passed needs no predecessor."""
    node.give(snapshot(1, a="one"))
    await node.told(APPLIED)
    node.give(snapshot(2, a="two"))
    await node.told(APPLIED)
    assert not node.board.held(snapshot(2, a="two")).bundles


async def test_a_content_is_checked_once(node: Node) -> None:
    """A rollback to a content that has passed needs no new check."""
    for revision, said in enumerate(["one", "two", "one", "two"], 1):
        node.give(snapshot(revision, a=said))
        assert (await node.told(APPLIED)).revision == revision
    assert node.checks.seen == ["one", "two"]


async def test_jobs_decide_what_is_applied(node: Node) -> None:
    """With a session, APPLIED waits for its report, and its refusal is passed on."""
    node.give(snapshot(1, a="one"))
    await node.told(APPLIED)
    async with node.attached() as job:
        assert await text(job) == "one"
        assert (await node.told(APPLIED)).sessions == 1
        for revision, phase in ((2, APPLIED), (3, FAILED)):
            given = snapshot(revision, a=f"text {revision}")
            node.give(given)
            await text(job)
            await job.write(report(given.bundles[A].etag, phase))
            assert (await node.told(phase)).revision == revision
    assert (await node.told(APPLIED)).sessions == 0


async def test_hello_comes_first(node: Node) -> None:
    """A job that does not say who it is gets INVALID_ARGUMENT."""
    error = await node.refusal(report("x", APPLIED))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
