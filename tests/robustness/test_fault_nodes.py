"""A real node behind faults of its network, its clock and its process."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.robustness.crowd import Daemon
from tests.robustness.faults import shims
from tests.robustness.faults.clock import DAY, HOUR, ClockSteps
from tests.robustness.faults.proxy import BLACKHOLE, HALF_OPEN, TRICKLE, Direction, FaultProxy, fault_proxy
from tests.robustness.faults.scene import ENVIRONMENT, HEARTBEAT_SECONDS
from tests.robustness.faults.serving import Serving, stopped
from tests.robustness.site import EDGE
from tests.robustness.watcher import connect
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc

TENANT, AGENT = "red", "a"
SOON_SECONDS = 30.0
FAULT_SECONDS = 1.0
BLACKHOLE_SECONDS = 60.0
KEEPALIVE_SECONDS = 45.0
"""A dead connection is left after so long, at the latest."""
POLL_SECONDS = 0.05


class Proxies:
    """A proxy before each listener of a server; a fault is put under both."""

    def __init__(self, proxies: list[FaultProxy]) -> None:
        self._proxies = proxies

    @contextmanager
    def fault(self, *what: Any) -> Generator[None]:
        """See FaultProxy."""
        with ExitStack() as stack:
            for proxy in self._proxies:
                stack.enter_context(proxy.fault(*what))
            yield

    async def reset(self) -> None:
        """See FaultProxy."""
        for proxy in self._proxies:
            await proxy.reset()


class World:
    """A server, proxies, and a node behind them. `clock` is the node's, None
    where clocks cannot be set."""

    def __init__(
        self, server: Serving, proxy: Proxies, node: Daemon, clock: ClockSteps | None, log: Path
    ) -> None:
        self.server = server
        self.proxy = proxy
        self.node = node
        self.clock = clock
        self._log = log
        self._number = 0

    async def publish(self) -> str:
        """Change the agent; returns the etag of its bundle."""
        async with connect(self.server.address) as channel:
            stub = agents_grpc.AgentServiceStub(channel)
            if not self._number:
                create = agents_pb2.CreateAgentRequest(tenant_id=TENANT, agent_id=AGENT)
                create.config.llm_config.provider = "offline"
                await stub.CreateAgent(create)
            self._number += 1
            request = agents_pb2.UpdateAgentConfigRequest(tenant_id=TENANT, agent_id=AGENT)
            request.config.prompt_config.instructions = f"Number {self._number}."
            request.update_mask.paths.append("prompt_config.instructions")
            await stub.UpdateAgentConfig(request)
            fetched = await sync_grpc.ConfigSyncServiceStub(channel).FetchConfig(
                sync_pb2.FetchConfigRequest(tenant_id=TENANT)
            )
        return fetched.transfer.bundles[0].etag

    def has(self, etag: str) -> bool:
        """Whether the node has the bundle on its disk."""
        held = self.node.final().held.get(TENANT)
        return held is not None and etag in held.etags.values()

    async def until(self, etag: str, seconds: float = SOON_SECONDS) -> float:
        """Wait until the node has the bundle on its disk; the seconds that it
        took. Raises TimeoutError."""
        began = time.monotonic()
        async with asyncio.timeout(seconds):
            while not self.has(etag):  # noqa: ASYNC110 - a file is read
                await asyncio.sleep(POLL_SECONDS)
        return time.monotonic() - began

    async def until_logged(self, event: str) -> None:
        """Wait for a line of the node's log. Raises TimeoutError."""
        async with asyncio.timeout(SOON_SECONDS):
            while not self.logged(event):  # noqa: ASYNC110 - a file is read
                await asyncio.sleep(POLL_SECONDS)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The node's log entries of one kind."""
        lines = self._log.read_text().splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if entry["event"] == event]


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str) -> AsyncGenerator[World]:
    """All of them, level; the node's stream is over the transport."""
    async with AsyncExitStack() as stack:
        environment = dict(ENVIRONMENT)
        server = Serving(tmp_path / "data", tmp_path / "log", environment, transport=transport)
        stack.push_async_callback(server.kill)
        proxy = await stack.enter_async_context(fault_proxy(server.address))
        proxies = [proxy]
        if transport == EDGE:
            proxies.append(await stack.enter_async_context(fault_proxy(server.watch_address)))
            server.environment["VOXPLANE_EDGE_ADVERTISE"] = proxies[1].address
        await server.begin()
        node = Daemon(tmp_path, "node")
        stack.push_async_callback(node.close)
        clock = None if shims.why_not() else ClockSteps(tmp_path / "clock")
        if clock is not None:
            stack.callback(clock.close)
            for name, value in clock.environment.items():
                monkeypatch.setenv(name, value)
        await node.start(proxy.address)
        for name in ("LD_PRELOAD", "FAULT_CLOCK_CONTROL"):
            monkeypatch.delenv(name, raising=False)
        made = World(server, Proxies(proxies), node, clock, tmp_path / "node.log")
        await made.until(await made.publish())
        if transport == EDGE:
            await made.until_logged("stream takes the edge")
            await made.until(await made.publish())
        # The first heartbeat says how often they come.
        await asyncio.sleep(2 * HEARTBEAT_SECONDS)
        yield made


async def test_a_node_comes_through_what_others_do_to_it(world: World) -> None:
    """A connection that goes silent is left within two heartbeats; after that, a
    reset, a trickle, and a stop of the process itself, the node has the newest
    config soon, and was never sent more than it lacked."""
    with world.proxy.fault(HALF_OPEN, Direction.DOWN):
        etag = await world.publish()
        await asyncio.sleep(FAULT_SECONDS)
        assert not world.has(etag)
        (ended,) = world.logged("stream ended")
        assert "nothing was heard" in ended["reason"]
    await world.until(etag)
    etag = await world.publish()
    await world.proxy.reset()
    await world.until(etag)
    with world.proxy.fault(TRICKLE):
        etag = await world.publish()
        await asyncio.sleep(FAULT_SECONDS)
    await world.until(etag)
    with stopped(world.node.process.pid):
        etag = await world.publish()
        await asyncio.sleep(FAULT_SECONDS)
    await world.until(etag)
    intents = [entry["intent"] for entry in world.logged("transfer applied")]
    assert intents.count("FULL") == 1


@pytest.mark.skipif(bool(shims.why_not()), reason=shims.why_not())
async def test_a_node_does_not_care_for_its_wall_clock(world: World) -> None:
    """While the node's clock jumps by an hour and a day to and fro its stream
    stays open, and changes come as fast as before; a reset is got over as fast."""
    assert world.clock is not None
    for step in (HOUR, -HOUR, DAY, -DAY):
        world.clock.set(step)
        assert await world.until(await world.publish()) < FAULT_SECONDS
    assert not world.logged("stream ended")
    await world.proxy.reset()
    world.clock.set(DAY)
    await world.until(await world.publish())


@pytest.mark.timeout(300)
async def test_a_minute_in_a_blackhole(long_only: None, world: World) -> None:
    """After a minute in which all that was sent has vanished, on a connection
    that stays open and silent for good, the node finds a new one by itself."""
    with world.proxy.fault(BLACKHOLE):
        etag = await world.publish()
        await asyncio.sleep(BLACKHOLE_SECONDS)
        assert not world.has(etag)
    await world.until(etag, KEEPALIVE_SECONDS)
