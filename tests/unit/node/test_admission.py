"""New calls on a node that has had no word from its control plane for long."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import structlog
from grpc_status import rpc_status

from agent_node.daemon import Node
from agent_node.relay import Admission, Board, Stager, TextPool, bind, claim
from agent_node.settings import load_settings
from agent_node.upstream import DiskCache, Snapshot
from agent_node.upstream.cache import Cached
from tests.unit.node.samples import Ages, relay_service, snapshot
from tests.virtual_clock import VirtualClock
from voxplane.errors import VoxplaneError, reason_of
from voxplane.names import TenantId, agent_name
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1 import session_pb2

ACME = TenantId("acme")
A = agent_name("acme", "a")
CALLER = relay_pb2.CallerContext(tenant_id="acme", agent_id="a", session_id="s-1")


def agent(action: str, max_stale: float | None = 60.0, revision: int = 1) -> Snapshot:
    """A tenant whose agent has a policy under live, and refuses at once under strict."""
    made = snapshot(revision, a="one", b="two")
    (live,) = made.bundles[A].versions
    limits = made.contents[live.content_hash].config.limits_config
    limits.stale_action = action
    if max_stale is not None:
        limits.max_stale.FromMilliseconds(round(max_stale * 1000))
    strict = made.contents["hash of two"].config.limits_config
    strict.stale_action = "refuse"
    strict.max_stale.FromSeconds(1)
    made.bundles[A].versions.add(number=2, content_hash="hash of two")
    made.bundles[A].aliases["strict"] = 2
    return Snapshot(made.tenant_id, made.revision, {A: made.bundles[A]}, made.contents)


class World:
    """A board with an agent, and ages as the test says."""

    def __init__(self, given: Snapshot) -> None:
        self.clock = VirtualClock()
        self.stager = Stager(lambda config: None)
        self.ages = Ages()
        self.board = Board(self.stager, self.clock, report=lambda s: None, forget=lambda n: None)
        self.board.applied(given)
        self.admission = Admission(self.board, self.ages, self.clock)


async def admitted(given: Snapshot, age: float, alias: str = "") -> World:
    """A call on configs of an age. Raises VoxplaneError."""
    world = World(given)
    await world.board.ready(A)
    world.ages[ACME] = age
    caller = relay_pb2.CallerContext()
    caller.CopyFrom(CALLER)
    caller.alias = alias
    world.admission.check(caller)
    return world


@pytest.mark.parametrize(
    ("action", "max_stale", "age"),
    [
        ("refuse", 60.0, 0.0),
        ("refuse", 60.0, 60.0),
        ("refuse", None, math.inf),
        ("warn", 60.0, 59.0),
        ("serve", 60.0, math.inf),
        ("", 60.0, math.inf),
    ],
)
async def test_a_call_within_the_policy_is_served(action: str, max_stale: float | None, age: float) -> None:
    """Up to the limit, without a limit, and where the agent says so, calls begin."""
    with structlog.testing.capture_logs() as logs:
        world = await admitted(agent(action, max_stale), age)
    assert not world.admission.stale_calls
    assert not [entry for entry in logs if entry["event"] == "call on a stale config"]


@pytest.mark.parametrize(("age", "said"), [(61.0, "61"), (90_000.0, "90000"), (math.inf, "unknown")])
async def test_a_call_beyond_the_limit_is_refused(age: float, said: str) -> None:
    """CONFIG_STALE names the agent, the age and the limit, for people and for programs."""
    with pytest.raises(VoxplaneError, match=said) as caught:
        await admitted(agent("refuse"), age)
    error = caught.value
    assert error.reason == reason_pb2.ERROR_REASON_CONFIG_STALE
    assert A in error.message
    assert "60 s" in error.message
    assert error.metadata["agent"] == A
    assert error.metadata["max_stale_seconds"] == "60"
    assert said in error.metadata["age_seconds"]


async def test_a_warning_is_one_a_call() -> None:
    """Under warn the call begins, with one warning that says which it is, and is counted."""
    with structlog.testing.capture_logs() as logs:
        world = await admitted(agent("warn"), 61.0)
        world.admission.check(CALLER)
    warnings = [entry for entry in logs if entry["event"] == "call on a stale config"]
    assert len(warnings) == 2
    assert warnings[1]["session_id"] == "s-1"
    assert warnings[1]["agent"] == "a"
    assert warnings[1]["age_seconds"] == 61.0
    assert world.admission.stale_calls == {"warn": 2}


async def test_the_version_that_the_call_would_get_decides() -> None:
    """A caller who follows another alias has that version's limit."""
    await admitted(agent("serve"), 30.0)
    with pytest.raises(VoxplaneError, match="allows 1 s"):
        await admitted(agent("serve"), 30.0, alias="strict")
    await admitted(agent("refuse"), 90.0, alias="none-of-that-name")


@asynccontextmanager
async def relay(
    world: World, folder: Path, let_in: Callable[[relay_pb2.JobHello], bool] = lambda hello: False
) -> AsyncIterator[relay_grpc.RelayServiceAsyncStub]:
    """The world's relay on a socket, for the block; `let_in` knows calls that were let in."""
    pool = TextPool(["false"], {}, idle=0, sessions_max=0, clock=world.clock, jitter=lambda: 0.0)
    socket = folder / "r.sock"
    with claim(socket):
        server = grpc.aio.server()
        service = relay_service(world.board, pool, world.clock, world.ages, let_in=let_in)
        relay_grpc.add_RelayServiceServicer_to_server(service, server)
        bind(server, socket)
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
                yield relay_grpc.RelayServiceStub(channel)
        finally:
            await server.stop(0)


async def test_voice_and_text_calls_are_refused_and_running_ones_go_on(tmp_path: Path) -> None:
    """Attach of a voice job and Chat end with UNAVAILABLE CONFIG_STALE; a call that has begun before
    still gets its changes."""
    world = World(agent("refuse"))
    hello = relay_pb2.AttachRequest(hello=relay_pb2.JobHello(caller=CALLER, pid=1))
    async with relay(world, tmp_path) as stub:
        running = stub.Attach()
        await running.write(hello)
        assert (await asyncio.wait_for(running.read(), 10)).bundle.revision.number == 1
        world.ages[ACME] = 61.0
        voice = stub.Attach()
        await voice.write(hello)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await voice.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(rpc_status.from_call(caught.value)) == "CONFIG_STALE"
        text = stub.Chat()
        await text.write(relay_pb2.ChatRequest(open=CALLER))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await text.read()
        assert reason_of(rpc_status.from_call(caught.value)) == "CONFIG_STALE"
        world.board.applied(agent("refuse", revision=2))
        assert (await asyncio.wait_for(running.read(), 10)).bundle.revision.number == 2
        running.cancel()


async def test_a_call_that_was_let_in_is_not_asked_again(tmp_path: Path) -> None:
    """The job of a call that was let in before its process was taken begins, and counts once."""
    world = World(agent("warn"))
    world.ages[ACME] = 61.0
    hello = relay_pb2.AttachRequest(hello=relay_pb2.JobHello(caller=CALLER, pid=1, job_id="job-1"))
    world.admission.check(CALLER)
    with structlog.testing.capture_logs() as logs:
        async with relay(world, tmp_path, let_in=lambda told: told.job_id == "job-1") as stub:
            call = stub.Attach()
            await call.write(hello)
            assert (await asyncio.wait_for(call.read(), 10)).bundle.revision.number == 1
            call.cancel()
    assert not [entry for entry in logs if entry["event"] == "call on a stale config"]


@pytest.fixture
async def stale_node(tmp_path: Path) -> Node:
    """A node that has had no word since it began, whose agent then refuses new calls."""
    settings = load_settings({"data_dir": tmp_path, "server": "127.0.0.1:1"})
    made = agent("refuse")
    DiskCache(settings.cache_folder).write(Cached(made, Snapshot(made.tenant_id, made.revision, {}, {})))
    return Node(settings, lambda config: None)


async def test_a_call_that_is_interrupted_comes_back_also_on_a_stale_node(stale_node: Node) -> None:
    """It has begun long ago; only new calls are refused, and one that is over does not come back."""
    with pytest.raises(VoxplaneError, match="no word from the control plane"):
        await stale_node.ask(CALLER)
    hello = relay_pb2.JobHello(caller=CALLER, pid=1, kind=session_pb2.SESSION_KIND_VOICE)
    stale_node.desk.attach(hello).leave(orderly=False)
    await stale_node.ask(CALLER)
    stale_node.desk.give_up(stale_node.desk.orphans.get_nowait(), "nobody came")
    with pytest.raises(VoxplaneError) as refused:
        await stale_node.ask(CALLER)
    assert refused.value.reason_name == "SESSION_ENDED"
