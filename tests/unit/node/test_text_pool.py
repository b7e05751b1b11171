"""Text sessions in processes of their own."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import psutil
import pytest

from agent_node.relay import Board, Stager, TextPool, bind, claim
from tests.unit.node.samples import relay_service, snapshot
from tests.virtual_clock import VirtualClock
from voxplane.clock import SystemClock
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc

FAKE_JOB = Path(__file__).with_name("fake_text_job.py")
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
ROOT = Path(__file__).parents[3]

ChatCall = grpc.aio.StreamStreamCall[relay_pb2.ChatRequest, relay_pb2.ChatResponse]


class Node:
    """A relay with a pool of fake jobs, and a chat client."""

    def __init__(self, folder: Path, sessions_max: int, idle: int, **environment: str) -> None:
        clock = SystemClock()
        self.socket = folder / "relay.sock"
        self.stager = Stager(lambda config: None)
        board = Board(self.stager, clock, report=lambda status: None, forget=lambda name: None)
        board.applied(snapshot(1, a="one"))
        self.pool = TextPool(
            [sys.executable, str(FAKE_JOB)],
            {"VOXPLANE_RELAY_SOCKET": str(self.socket), "PYTHONPATH": str(ROOT), **environment},
            idle=idle,
            sessions_max=sessions_max,
            clock=clock,
            jitter=random.random,
        )
        self.service = relay_service(board, self.pool, clock)
        self.stub: relay_grpc.RelayServiceAsyncStub

    async def chat(self, agent: str = "a") -> tuple[ChatCall, relay_pb2.ChatOpened]:
        """An opened session."""
        call = self.stub.Chat()
        caller = relay_pb2.CallerContext(tenant_id="acme", agent_id=agent)
        await call.write(relay_pb2.ChatRequest(open=caller))
        return call, (await _read(call)).opened


@asynccontextmanager
async def running(
    folder: Path, sessions_max: int = 2, idle: int = 1, **environment: str
) -> AsyncIterator[Node]:
    """A node for the block; it leaves no process."""
    node = Node(folder, sessions_max, idle, **environment)
    with claim(node.socket):
        server = grpc.aio.server()
        relay_grpc.add_RelayServiceServicer_to_server(node.service, server)
        bind(server, node.socket)
        await server.start()
        keeping = asyncio.create_task(node.pool.run())
        async with grpc.aio.insecure_channel(f"unix:{node.socket}") as channel:
            node.stub = relay_grpc.RelayServiceStub(channel)
            yield node
            keeping.cancel()
            await asyncio.wait([keeping])
        await server.stop(0)
    node.stager.close()
    assert not node.pool.pids


async def _read(call: ChatCall) -> relay_pb2.ChatResponse:
    message = await asyncio.wait_for(call.read(), 20)
    assert isinstance(message, relay_pb2.ChatResponse), "the session ended"
    return message


async def _say(call: ChatCall, text: str) -> None:
    await call.write(relay_pb2.ChatRequest(input=relay_pb2.ChatInput(text=text)))


async def _gone(pid: int) -> None:
    await asyncio.to_thread(psutil.wait_procs, [psutil.Process(pid)] if psutil.pid_exists(pid) else [], 10)


async def test_a_chat_is_bridged_to_a_process(tmp_path: Path) -> None:
    """What is said goes to the job, what the job says comes back, and the session has an id."""
    async with running(tmp_path) as node:
        call, opened = await node.chat()
        assert opened.session_id.startswith("text-")
        for text in ("one", "two"):
            await _say(call, text)
            assert (await _read(call)).text_delta == text
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        await _gone(opened.version)


async def test_each_session_has_its_own_process(tmp_path: Path) -> None:
    """Two sessions never share a process, nor do two that follow each other."""
    async with running(tmp_path) as node:
        (one, first), (two, second) = await asyncio.gather(node.chat(), node.chat())
        assert first.version != second.version
        for call in (one, two):
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
        three, third = await node.chat()
        assert third.version not in (first.version, second.version)
        three.cancel()


async def test_the_limit_is_named(tmp_path: Path) -> None:
    """One session more than allowed is refused, and fits when another has ended."""
    async with running(tmp_path, sessions_max=1) as node:
        call, _ = await node.chat()
        with pytest.raises(grpc.aio.AioRpcError, match="as many as it may") as caught:
            await node.chat()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        again, _ = await node.chat()
        again.cancel()


async def test_a_dead_process_ends_its_chat(tmp_path: Path) -> None:
    """When the process dies the chat ends with UNAVAILABLE, and others can be opened."""
    async with running(tmp_path) as node:
        call, _ = await node.chat()
        await _say(call, "die")
        with pytest.raises(grpc.aio.AioRpcError, match="exit code 7") as caught:
            await _read(call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        again, opened = await node.chat()
        assert opened.session_id
        again.cancel()


async def test_a_job_may_end_its_session(tmp_path: Path) -> None:
    """A session that the job ends in order ends the chat without an error."""
    async with running(tmp_path) as node:
        call, _ = await node.chat()
        await _say(call, "finish")
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_a_client_that_vanishes_frees_its_process(tmp_path: Path) -> None:
    """A cancelled chat ends its process and gives the place back."""
    async with running(tmp_path, sessions_max=1) as node:
        call, opened = await node.chat()
        call.cancel()
        await _gone(opened.version)
        again, _ = await node.chat()
        again.cancel()


async def test_an_unknown_agent_takes_no_process(tmp_path: Path) -> None:
    """A chat with an agent that is not there fails before a process is taken."""
    async with running(tmp_path, sessions_max=1) as node:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.chat("nobody")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert node.pool.sessions == 0


async def test_a_stranger_is_no_job(tmp_path: Path) -> None:
    """A process that the node has not started is given no session."""
    async with running(tmp_path) as node:
        call = node.stub.ServeText()
        await call.write(relay_pb2.ServeTextRequest(ready=relay_pb2.TextJobReady(pid=os.getpid())))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_processes_that_die_early_are_replaced_with_back_off() -> None:
    """A job that dies before its session is started again after waits that grow."""
    clock = VirtualClock()
    pool = TextPool(["false"], {}, idle=1, sessions_max=1, clock=clock, jitter=lambda: 1.0)
    keeping = asyncio.create_task(pool.run())
    waits: list[float] = []
    for _ in range(4):
        while not (due := clock.due) or due > clock.monotonic() + 31:
            await clock.settle()
        waits.append(due - clock.monotonic())
        await clock.advance(waits[-1])
    keeping.cancel()
    await asyncio.wait([keeping])
    assert waits == [0.5, 1.0, 2.0, 4.0]


async def test_a_process_that_ignores_the_end_is_killed() -> None:
    """At the stop a process gets SIGTERM, and after a bound SIGKILL."""
    clock = VirtualClock()
    pool = TextPool(
        [sys.executable, "-c", STUBBORN], {}, idle=1, sessions_max=1, clock=clock, jitter=lambda: 0.0
    )
    keeping = asyncio.create_task(pool.run())
    while not pool.pids:
        await clock.settle()
    (pid,) = pool.pids
    process = psutil.Process(pid)
    ignored = 1 << (signal.SIGTERM - 1)
    while not int(_signals_ignored(pid), 16) & ignored:
        await clock.settle()
    keeping.cancel()
    await clock.settle()
    assert process.is_running()
    await clock.advance(2.0)
    await asyncio.wait([keeping])
    assert not psutil.pid_exists(pid)


def _signals_ignored(pid: int) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigIgn:"):
            return line.split()[1]
    return "0"


async def test_no_process_outlives_a_killed_node(tmp_path: Path) -> None:
    """After kill -9 of the node its idle jobs are gone too."""
    script = (
        "import asyncio, sys; from pathlib import Path; from tests.unit.node.test_text_pool import hold;"
        " asyncio.run(hold(Path(sys.argv[1])))"
    )
    node = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert node.stdout is not None
    pid = int(await asyncio.wait_for(node.stdout.readline(), 30))
    assert psutil.pid_exists(pid)
    node.kill()
    await node.wait()
    await _gone(pid)
    assert not psutil.pid_exists(pid)


async def hold(folder: Path) -> None:
    """Run a node, open a chat, print the process id of its job, and stay."""
    async with running(folder) as node:
        _, opened = await node.chat()
        sys.stdout.write(f"{opened.version}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()
