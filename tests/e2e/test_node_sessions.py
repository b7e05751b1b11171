"""Sessions of a real node, as a real control plane shows and commands them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from bench.processes import READY_SECONDS_MAX, Running, command, free_port
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc
from voxplane.v1 import node_service_pb2 as nodes_pb2
from voxplane.v1 import node_service_pb2_grpc as nodes_grpc
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as pb2
from voxplane.v1 import session_service_pb2_grpc as session_grpc

TENANT = "calls"
ACTIVE, ENDED = session_pb2.SESSION_STATE_ACTIVE, session_pb2.SESSION_STATE_ENDED
SEEN_SECONDS_MAX = 30.0
POLL_SECONDS = 0.05

ChatCall = grpc.aio.StreamStreamCall[relay_pb2.ChatRequest, relay_pb2.ChatResponse]


class Site:
    """A control plane and a node, each of which can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self.socket = folder / "node" / "relay.sock"

    @asynccontextmanager
    async def server(self) -> AsyncIterator[Running]:
        """A control plane that answers."""
        options = ("serve", "--grpc-listen", self.address, "--data-dir", str(self.folder))
        async with command(*options, log=self.folder / "server.log") as running:
            async with grpc.aio.insecure_channel(self.address) as channel:
                await asyncio.wait_for(channel.channel_ready(), READY_SECONDS_MAX)
            yield running

    def node(self) -> Any:
        """A node, perhaps without a control plane."""
        options = ("node", "--server", self.address, "--node-id", "n1", "--data-dir", str(self.folder))
        return command(*options, "--idle-jobs", "2", log=self.folder / "node.log")

    async def create(self) -> None:
        """An agent with two versions, on the node."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            agents = agents_grpc.AgentServiceStub(channel)
            request = agents_pb2.CreateAgentRequest(tenant_id=TENANT, agent_id="a")
            request.config.llm_config.provider = "offline"
            request.config.prompt_config.instructions = "Be brief."
            await agents.CreateAgent(request)
            update = agents_pb2.UpdateAgentConfigRequest(tenant_id=TENANT, agent_id="a")
            update.config.prompt_config.instructions = "Be kind."
            update.update_mask.paths.append("prompt_config.instructions")
            await agents.UpdateAgentConfig(update)
            first = agents_pb2.SetAliasRequest(tenant_id=TENANT, agent_id="a", alias="first", version=1)
            await agents.SetAlias(first)  # so that the node has it too
            wait = nodes_pb2.WaitForConvergenceRequest(tenant_id=TENANT, min_nodes=1)
            wait.timeout.FromSeconds(30)
            assert (await nodes_grpc.NodeServiceStub(channel).WaitForConvergence(wait)).converged

    @asynccontextmanager
    async def chat(self, session_id: str) -> AsyncIterator[ChatCall]:
        """A text session on the node."""
        async with grpc.aio.insecure_channel(f"unix:{self.socket}") as channel:
            call = relay_grpc.RelayServiceStub(channel).Chat(wait_for_ready=True)
            caller = relay_pb2.CallerContext(tenant_id=TENANT, agent_id="a", session_id=session_id)
            await call.write(relay_pb2.ChatRequest(open=caller))
            opened = await _read(call)
            assert opened.HasField("opened"), opened
            yield call
            call.cancel()

    def pid_of(self, session_id: str) -> int:
        """The process of a session, as the node has logged it."""
        lines = (self.folder / "node.log").read_text().splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        (pid,) = (
            entry["pid"]
            for entry in entries
            if entry["event"] == "session attached" and entry["session_id"] == session_id
        )
        return int(pid)

    async def spooled(self, session_id: str) -> None:
        """Until a session is in the node's spool."""
        spool = self.folder / "node" / "sessions" / "sessions.spool"

        async def look() -> bool | None:
            return True if spool.exists() and session_id.encode() in spool.read_bytes() else None

        await _eventually(look)

    @asynccontextmanager
    async def sessions(self) -> AsyncIterator[session_grpc.SessionServiceAsyncStub]:
        """The control plane's service."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            yield session_grpc.SessionServiceStub(channel)

    async def shown(self, session_id: str, true: Callable[[pb2.GetSessionResponse], bool]) -> Any:
        """A session as it is shown, once it is so."""

        async def get() -> pb2.GetSessionResponse | None:
            request = pb2.GetSessionRequest(tenant_id=TENANT, session_id=session_id)
            try:
                async with self.sessions() as sessions:
                    answer = await sessions.GetSession(request)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE):
                    raise
                return None
            return answer if true(answer) else None

        return await _eventually(get)


async def _eventually(get: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(SEEN_SECONDS_MAX):
        while (found := await get()) is None:  # noqa: ASYNC110 - other processes make it so
            await asyncio.sleep(POLL_SECONDS)
    return found


async def _read(call: ChatCall) -> relay_pb2.ChatResponse:
    message = await asyncio.wait_for(call.read(), READY_SECONDS_MAX)
    assert isinstance(message, relay_pb2.ChatResponse), "the session ended"
    return message


async def _turn(call: ChatCall, text: str = "hello") -> relay_pb2.ChatTurn:
    await call.write(relay_pb2.ChatRequest(input=relay_pb2.ChatInput(text=text)))
    while not (message := await _read(call)).HasField("turn"):
        pass
    return message.turn


async def _hang_up(call: ChatCall) -> None:
    await call.done_writing()
    while await call.read() is not grpc.aio.EOF:
        pass


def _numbers(answer: pb2.GetSessionResponse) -> list[int]:
    return [turn.turn for turn in answer.turns]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Nothing runs yet."""
    return Site(tmp_path)


async def test_sessions_outlive_an_outage_of_the_control_plane(site: Site) -> None:
    """What happens while the control plane is killed is all there when it is back: sessions that began,
    went on and ended meanwhile, with each of their turns once."""
    async with site.node():
        async with site.server() as server:
            await site.create()
            async with site.chat("before") as before:
                assert (await _turn(before)).turn == 1
                shown = await site.shown("before", lambda answer: len(answer.turns) == 1)
                assert (shown.session.state, shown.session.node_id) == (ACTIVE, "n1")
                assert shown.session.kind == session_pb2.SESSION_KIND_TEXT
                server.process.kill()
                await server.process.wait()
                for number in (2, 3):
                    assert (await _turn(before)).turn == number
                async with site.chat("during") as during:
                    await _turn(during)
                    await _hang_up(during)
                await _hang_up(before)
        async with site.chat("lives") as lives:
            await _turn(lives)
            async with site.server():
                shown = await site.shown("during", lambda answer: answer.session.state == ENDED)
                assert _numbers(shown) == [1]
                shown = await site.shown("before", lambda answer: answer.session.state == ENDED)
                assert _numbers(shown) == [1, 2, 3]
                assert shown.session.outcome == session_pb2.SESSION_OUTCOME_CALLER_LEFT
                await site.shown("lives", lambda answer: _numbers(answer) == [1])
                await _turn(lives)
                await site.shown("lives", lambda answer: _numbers(answer) == [1, 2])
                async with site.sessions() as sessions:
                    listed = await sessions.ListSessions(pb2.ListSessionsRequest(tenant_id=TENANT))
                assert {each.session_id: each.state for each in listed.sessions} == {
                    "before": ENDED,
                    "during": ENDED,
                    "lives": ACTIVE,
                }


async def test_a_session_is_commanded_while_it_runs(site: Site) -> None:
    """PinSession, SetSessionTracing and EndSession act on a text session, and are refused when it is over."""
    async with site.server(), site.node():
        await site.create()
        async with site.chat("s1") as call, site.sessions() as sessions:
            assert (await _turn(call)).version == 2
            await site.shown("s1", lambda answer: answer.session.version == 2)
            pin = pb2.PinSessionRequest(tenant_id=TENANT, session_id="s1", version=1)
            assert (await sessions.PinSession(pin)).session.pinned_version == 1
            await site.shown("s1", lambda answer: answer.session.pinned_version == 1)
            await site.shown("s1", lambda answer: answer.session.version == 1)
            assert (await _turn(call)).version == 1
            tracing = pb2.SetSessionTracingRequest(tenant_id=TENANT, session_id="s1", enabled=False)
            assert not (await sessions.SetSessionTracing(tracing)).session.traced
            end = pb2.EndSessionRequest(tenant_id=TENANT, session_id="s1", reason="enough", now=True)
            await sessions.EndSession(end)
            shown = await site.shown("s1", lambda answer: answer.session.state == ENDED)
            assert shown.session.outcome == session_pb2.SESSION_OUTCOME_OPERATOR_ENDED
            assert shown.session.end_reason == "enough"
            assert _numbers(shown) == [1, 2]
            while await call.read() is not grpc.aio.EOF:
                pass
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await sessions.EndSession(end)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_text_job_that_is_killed_is_a_session_that_failed(site: Site) -> None:
    """After kill -9 of its process the session has FAILED, soon, and others go on."""
    async with site.server(), site.node():
        await site.create()
        async with site.chat("dies") as dies, site.chat("lives") as lives:
            for call in (dies, lives):
                await _turn(call)
            await site.shown("dies", lambda answer: len(answer.turns) == 1)
            os.kill(site.pid_of("dies"), signal.SIGKILL)
            shown = await site.shown("dies", lambda answer: answer.session.state == ENDED)
            assert shown.session.outcome == session_pb2.SESSION_OUTCOME_FAILED
            assert shown.session.end_reason == "its process died"
            assert (await _turn(lives)).turn == 2


async def test_a_node_that_is_killed_tells_of_its_sessions_when_it_is_back(site: Site) -> None:
    """After kill -9 of the node, and its start, its sessions have ended with it; with what they were."""
    async with site.server():
        async with site.node() as node:
            await site.create()
            async with site.chat("s1") as call:
                await _turn(call)
                await site.shown("s1", lambda answer: len(answer.turns) == 1)
                await site.spooled("s1")
                jobs = psutil.Process(node.process.pid).children()
                node.process.kill()
                await node.process.wait()
                assert not (await asyncio.to_thread(psutil.wait_procs, jobs, 20))[1]
        async with site.node():
            shown = await site.shown("s1", lambda answer: answer.session.state == ENDED)
            assert shown.session.outcome == session_pb2.SESSION_OUTCOME_NODE_STOPPED
            assert (shown.session.end_reason, _numbers(shown)) == ("the node restarted", [1])


async def test_sessions_end_with_a_node_that_is_stopped(site: Site) -> None:
    """After SIGTERM they are NODE_STOPPED at the control plane before the node has gone."""
    async with site.server():
        async with site.node() as node:
            await site.create()
            async with site.chat("s1") as call:
                await _turn(call)
                await site.shown("s1", lambda answer: len(answer.turns) == 1)
                node.process.terminate()
                assert await asyncio.wait_for(node.process.wait(), 20) == 0
        async with site.sessions() as sessions:
            answer = await sessions.GetSession(pb2.GetSessionRequest(tenant_id=TENANT, session_id="s1"))
        assert (answer.session.state, answer.session.outcome) == (
            ENDED,
            session_pb2.SESSION_OUTCOME_NODE_STOPPED,
        )
