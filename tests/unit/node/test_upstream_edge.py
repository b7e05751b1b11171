"""A node takes the edge when it is offered, and goes back when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent_node.upstream import (
    CacheWriter,
    DiskCache,
    EdgeWay,
    Reporter,
    Routes,
    Snapshot,
    Upstream,
    WatchProtocol,
    connect,
)
from agent_node.upstream.edge_way import FIRST_MESSAGE_SECONDS_MAX
from agent_node.upstream.routes import MOVE_SECONDS_MAX, RETRY_SECONDS_MIN
from tests.unit.node.samples import snapshot
from tests.unit.watch.watch_server import EDGE, WatchServer, watch_server
from voxplane.names import TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc


@dataclass
class Node:
    """A node's upstream side."""

    server: WatchServer
    upstream: Upstream
    way: EdgeWay
    got: list[Snapshot] = field(default_factory=list[Snapshot])

    def applied(self, snapshot: Snapshot) -> None:
        """Note a snapshot."""
        self.got.append(snapshot)

    def forgotten(self, tenant_id: TenantId) -> None:
        """Nothing is forgotten here."""

    @property
    def edges(self) -> int:
        """Connections of the server's edge."""
        return self.server.control_plane.counts()["edge_connections"]

    @property
    def revision(self) -> int:
        """The newest revision that the node has."""
        return max((each.revision.number for each in self.got), default=0)

    async def until(self, happened: Callable[[], bool], *, passing: float = 0.0) -> None:
        """Wait for other tasks, and let time pass meanwhile."""
        async with asyncio.timeout(30):
            while not happened():
                await self.server.clock.advance(passing)
                await asyncio.sleep(0.001 if passing else 0)

    async def on_the_edge(self) -> None:
        """Wait until the node is in step over the edge."""
        figures, opens = self.upstream.figures, self.upstream.figures.edge_opens
        await self.until(lambda: figures.edge_opens > opens and self.in_step, passing=0.5)

    @property
    def in_step(self) -> bool:
        """Whether the node has all."""
        return self.upstream.protocol.freshness.in_step


@asynccontextmanager
async def node_of(server: WatchServer, folder: Path) -> AsyncIterator[Node]:
    """A node that watches all tenants."""
    clock = server.clock
    async with connect(server.address) as channel:
        stub = sync_grpc.ConfigSyncServiceStub(channel)
        reporter = Reporter(stub, clock, lambda: 0.1)
        way = EdgeWay(
            Routes(server.address, tls=False, jitter=lambda: 0.5), lambda edge: connect(edge.address), clock
        )
        nothing = snapshot(1)
        writer = CacheWriter(
            DiskCache(folder / "cache"),
            clock,
            held=lambda _: nothing,
            written=[lambda each, serial: reporter.persisted(each.tenant_id, serial)],
        )
        protocol = WatchProtocol(
            node=sync_pb2.NodeInfo(node_id="n1"), jitter=lambda: 0.5, now=clock.monotonic()
        )
        made = Node(server, None, way)  # type: ignore[arg-type]
        made.upstream = Upstream(
            stub, protocol, listener=made, reporter=reporter, writer=writer, clock=clock, edge=way
        )
        tasks = [asyncio.create_task(each()) for each in (made.upstream.run, reporter.run, writer.run)]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await way.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[WatchServer]:
    """A control plane with an edge, in virtual time."""
    async with watch_server(tmp_path, EDGE) as running:
        yield running


async def test_a_node_moves_to_the_edge_and_keeps_its_place(server: WatchServer, tmp_path: Path) -> None:
    """It has its configs from the first address; the stream of the edge brings
    nothing twice, then the changes, and takes the reports."""
    await server.create("sales")
    async with node_of(server, tmp_path) as node:
        await node.until(lambda: node.revision == 1)
        assert (node.edges, node.upstream.figures.moves) == (0, 0)
        await node.on_the_edge()
        figures = node.upstream.figures
        assert (node.edges, figures.moves, figures.back_offs) == (1, 1, 0)
        assert figures.transfers == {"FULL": 1, "NONE": 1}
        revision = await server.update("sales", "Sell.")
        await node.until(lambda: node.revision == revision)
        fleet = server.control_plane.fleet
        await node.until(lambda: fleet.node("n1").tenants["acme"].acked is not None, passing=0.1)
        assert server.control_plane.hub.streams == 1


async def test_a_closed_edge_sends_nodes_back(server: WatchServer, tmp_path: Path) -> None:
    """A node whose edge is closed is at the first address at once, misses no
    change, and takes the edge again when it is back."""
    await server.create("sales")
    async with node_of(server, tmp_path) as node:
        await node.on_the_edge()
        control_plane = server.control_plane
        await server.clock.finish(control_plane.stop_edge())
        revision = await server.update("sales", "Sell.")
        await node.until(lambda: node.revision == revision and node.in_step, passing=0.1)
        assert node.edges == 0
        assert node.upstream.figures.transfers["FULL"] == 1
        await control_plane.start_edge()
        before = server.clock.monotonic()
        await node.on_the_edge()
        assert server.clock.monotonic() - before >= RETRY_SECONDS_MIN / 2 - 1
        revision = await server.update("sales", "Sell more.")
        await node.until(lambda: node.revision == revision)


async def test_an_edge_that_says_nothing_is_left(tmp_path: Path) -> None:
    """An edge that takes connections and is no edge costs a node seconds, and
    no change."""
    writers: list[asyncio.StreamWriter] = []

    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(b"\0\0\0\4\0\0\0\0\0")
        while await reader.read(1_000):
            pass

    deaf = await asyncio.start_unix_server(hello, f"{tmp_path}/deaf.sock")
    advertised = {"edge_advertise": f"unix:{tmp_path}/deaf.sock"}
    async with watch_server(tmp_path, EDGE, **advertised) as server:
        await server.create("sales")
        async with node_of(server, tmp_path) as node:
            figures = node.upstream.figures
            await node.until(lambda: figures.edge_opens == 1, passing=0.5)
            began = server.clock.monotonic()
            await node.until(lambda: figures.edge_failures == 1 and node.in_step, passing=0.5)
            assert server.clock.monotonic() - began < FIRST_MESSAGE_SECONDS_MAX + 5
            revision = await server.update("sales", "Sell.")
            await node.until(lambda: node.revision == revision)
            assert figures.transfers["FULL"] == 1
    for writer in writers:
        writer.close()
    deaf.close()


async def test_an_edge_that_cannot_be_reached_is_not_moved_to(tmp_path: Path) -> None:
    """A good stream is not left for an edge that takes no connections."""
    async with watch_server(tmp_path, EDGE, edge_advertise=f"unix:{tmp_path}/none.sock") as server:
        await server.create("sales")
        async with node_of(server, tmp_path) as node:
            await node.until(lambda: node.in_step)
            for _ in range(int(3 * MOVE_SECONDS_MAX)):
                await server.clock.advance(1)
                await asyncio.sleep(0)
            figures = node.upstream.figures
            assert (figures.opens, figures.edge_opens, node.in_step) == (1, 0, True)
