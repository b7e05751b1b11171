"""Two tenants on one node, by real processes, over both transports."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.processes import READY_SECONDS_MAX, command, free_port, server
from tests.robustness.site import EDGE, TRANSPORTS
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc

TENANTS = ("acme", "globex")
AGENT = "support"
READ_SECONDS_MAX = 30.0
POLL_SECONDS = 0.05

_marks = itertools.count(1)


@dataclass(slots=True)
class Session:
    """A chat of one tenant, and the mark of the config that it should run."""

    tenant: str
    chat: grpc.aio.StreamStreamCall[relay_pb2.ChatRequest, relay_pb2.ChatResponse]
    stub: agents_grpc.AgentServiceAsyncStub
    mark: str
    heard: list[str] = field(default_factory=list[str])

    async def read(self, event: str) -> relay_pb2.ChatResponse:
        """The next message of that kind; all messages are kept in `heard`."""
        while True:
            message = await asyncio.wait_for(self.chat.read(), READ_SECONDS_MAX)
            assert isinstance(message, relay_pb2.ChatResponse), "the session ended"
            self.heard.append(str(message))
            if message.WhichOneof("event") == event:
                return message

    async def update(self) -> None:
        """Give the tenant's agent a new mark, and wait until the job runs it."""
        self.mark = f"{self.tenant}-{next(_marks)}"
        request = agents_pb2.UpdateAgentConfigRequest(tenant_id=self.tenant, agent_id=AGENT)
        request.config.prompt_config.instructions = f"mark {self.mark}."
        request.update_mask.paths.append("prompt_config.instructions")
        answer = await self.stub.UpdateAgentConfig(request)
        while (await self.read("swap")).swap.revision < answer.revision.number:
            pass

    async def talk(self) -> None:
        """One turn; the reply shows the tenant's own newest mark."""
        await self.chat.write(relay_pb2.ChatRequest(input=relay_pb2.ChatInput(text="hello")))
        assert f"mark {self.mark}." in (await self.read("turn")).turn.text


@asynccontextmanager
async def _sessions(folder: Path, transport: str) -> AsyncIterator[list[Session]]:
    edge = ("--edge-listen", f"127.0.0.1:{free_port()}") if transport == EDGE else ()
    async with server(folder, *edge) as control, grpc.aio.insecure_channel(control.address) as channel:
        stub = agents_grpc.AgentServiceStub(channel)
        for tenant in TENANTS:
            create = agents_pb2.CreateAgentRequest(tenant_id=tenant, agent_id=AGENT)
            create.config.llm_config.provider = "offline"
            create.config.prompt_config.instructions = f"mark {tenant}-0."
            await stub.CreateAgent(create)
        options = ("node", "--server", control.address, "--node-id", "n1", "--data-dir", str(folder))
        async with (
            command(*options, log=folder / "node.log"),
            grpc.aio.insecure_channel(f"unix:{folder}/node/relay.sock") as relay,
        ):
            sessions = [await _open(relay, tenant, stub) for tenant in TENANTS]
            if transport == EDGE:
                await _until_on_the_edge(folder / "node.log")
            yield sessions
            for session in sessions:
                await session.chat.done_writing()


async def _until_on_the_edge(log: Path) -> None:
    async with asyncio.timeout(READ_SECONDS_MAX):
        while "stream takes the edge" not in log.read_text():  # noqa: ASYNC110, ASYNC240 - it waits for a file
            await asyncio.sleep(POLL_SECONDS)


async def _open(relay: grpc.aio.Channel, tenant: str, stub: agents_grpc.AgentServiceAsyncStub) -> Session:
    chat = relay_grpc.RelayServiceStub(relay).Chat(wait_for_ready=True)
    caller = relay_pb2.CallerContext(tenant_id=tenant, agent_id=AGENT)
    await chat.write(relay_pb2.ChatRequest(open=caller))
    session = Session(tenant, chat, stub, f"{tenant}-0")
    await asyncio.wait_for(session.read("opened"), READY_SECONDS_MAX)
    return session


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all examples."""
    with asyncio.Runner() as running:
        yield running


@pytest.fixture(scope="module", params=TRANSPORTS)
def sessions(
    runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[list[Session]]:
    """A running session of each tenant, on one node, whose stream is over one of
    the transports."""
    context = _sessions(tmp_path_factory.mktemp("tenants"), str(request.param))
    yield runner.run(context.__aenter__())
    runner.run(context.__aexit__(None, None, None))


STEPS = st.lists(
    st.lists(
        st.tuples(st.sampled_from([0, 1]), st.sampled_from(["update", "talk"])),
        min_size=1,
        max_size=2,
        unique_by=lambda step: step[0],
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_tenants_never_see_each_other(
    steps: list[list[tuple[int, str]]], sessions: list[Session], runner: asyncio.Runner
) -> None:
    """However updates and turns of two tenants interleave, each session runs its
    own tenant's config, and nothing that it says or shows is the other's."""

    async def run() -> None:
        for step in steps:
            await asyncio.gather(*(getattr(sessions[who], what)() for who, what in step))
        await asyncio.gather(*(session.talk() for session in sessions))

    runner.run(run())
    for session, other in zip(sessions, reversed(TENANTS), strict=True):
        assert not any(other in message for message in session.heard)
