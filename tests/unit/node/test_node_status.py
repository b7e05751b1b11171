"""What a node says of itself: to its own machine, and to Prometheus."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
import pytest
from prometheus_client import Gauge
from prometheus_client.registry import Collector

import agent_node.metrics as metrics_module
import agent_node.relay.node_status as status_module
from agent_node.metrics import NodeMetrics, serving
from agent_node.relay import Admission, Board, NodeStatus, SessionDesk, Stager
from agent_node.sessions import SessionUplink, Spool
from agent_node.upstream import CacheWriter, DiskCache, Reporter, Upstream, WatchProtocol
from agent_node.upstream.events import Begin, Ended, Received
from tests.unit.node.samples import snapshot
from tests.unit.node.session_samples import TEXT, ended, hello, report, session
from tests.unit.node.upstream_client import transfer
from tests.virtual_clock import VirtualClock
from voxplane.errors import Violation, VoxplaneError
from voxplane.names import AgentName
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.v1 import agent_config_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1 import session_service_pb2_grpc as session_grpc

NODE = sync_pb2.NodeInfo(node_id="n1")


def refuse_bad(config: agent_config_pb2.AgentConfig) -> None:
    """Refuses configs that say so."""
    if config.prompt_config.instructions == "bad":
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_BUILD_FAILED, "no good", violations=[Violation("llm_config", "no")]
        )


class Node:
    """The parts of a node that say what it is, without a server."""

    def __init__(self, folder: Path, channel: grpc.aio.Channel) -> None:
        self.clock = VirtualClock()
        self.stager = Stager(refuse_bad)
        self.board = Board(self.stager, self.clock, report=lambda s: None, forget=lambda n: None)
        stub = sync_grpc.ConfigSyncServiceStub(channel)
        reporter = Reporter(stub, self.clock, lambda: 0.5)
        writer = CacheWriter(DiskCache(folder), self.clock, held=lambda s: s, written=[])
        self.protocol = WatchProtocol(node=NODE, jitter=lambda: 0.5, now=0.0)
        self.upstream = Upstream(
            stub, self.protocol, listener=self.board, reporter=reporter, writer=writer, clock=self.clock
        )
        self.admission = Admission(self.board, self.protocol.freshness, self.clock)
        sessions = session_grpc.SessionServiceStub(channel)
        spool = Spool(folder / "sessions", 1_048_576)
        self.uplink = SessionUplink("n1", sessions, spool, self.clock, lambda: 0.5)
        self.desk = SessionDesk("n1", self.clock, self.uplink)
        self.more: list[Collector] = []
        self.metrics = NodeMetrics(
            upstream=self.upstream,
            board=self.board,
            stager=self.stager,
            writer=writer,
            admission=self.admission,
            desk=self.desk,
            uplink=self.uplink,
            clock=self.clock,
            more=self.more,
        )
        self.status = NodeStatus(
            node_id="n1",
            version="1",
            server="there:1",
            upstream=self.upstream,
            board=self.board,
            desk=self.desk,
            reports=self.uplink,
            clock=self.clock,
        )

    async def level(self, *tenants: str, text: str = "x", revision: int = 1) -> None:
        """A stream brings tenants."""
        self.protocol.receive(Begin(self.clock.monotonic()))
        for tenant in tenants:
            given = snapshot(revision, tenant, a=text)
            self.protocol.receive(Received(transfer(given, "s1"), self.clock.monotonic()))
            self.board.applied(given)
        await self.clock.settle()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A node without a server."""
    async with grpc.aio.insecure_channel("unix:/nowhere") as channel:
        yield Node(tmp_path, channel)


async def test_a_node_in_step_says_so(node: Node) -> None:
    """Tenants with their revisions, the stream, and nothing of staleness."""
    await node.level("acme", "beta", revision=7)
    status = node.status.now()
    assert (status.node_id, status.server, status.stream_id) == ("n1", "there:1", "s1")
    assert not status.HasField("stale")
    assert [(t.tenant_id, t.revision.number, t.agents, t.level) for t in status.tenants] == [
        ("acme", 7, 1, True),
        ("beta", 7, 1, True),
    ]
    assert status.tenants[0].age.ToSeconds() == 0


async def test_a_stale_node_says_why_since_when_and_of_whom(node: Node) -> None:
    """The reason, the last word and its age, and each tenant's own."""
    await node.level("acme")
    before = node.clock.time()
    node.protocol.receive(Ended("UNAVAILABLE: refused", node.clock.monotonic()))
    await node.clock.advance(90.0)
    status = node.status.now()
    assert status.stale.reason == "UNAVAILABLE: refused"
    assert status.stale.age.ToSeconds() == 90
    assert status.stale.since.ToMilliseconds() == round(before * 1000)
    assert not status.tenants[0].level
    assert status.tenants[0].age.ToSeconds() == 90
    assert status.stream_id == ""


async def test_an_age_that_is_not_known_is_not_invented(tmp_path: Path) -> None:
    """A node that starts from a cache without a record has neither time nor age, and +Inf in the metrics."""
    async with grpc.aio.insecure_channel("unix:/nowhere") as channel:
        node = Node(tmp_path, channel)
        restored = WatchProtocol(node=NODE, jitter=lambda: 0.5, now=0.0, snapshots=[snapshot(3, a="x")])
        node.upstream._protocol = restored
        status = node.status.now()
        assert status.HasField("stale")
        assert not status.stale.HasField("age")
        assert not status.stale.HasField("since")
        assert not status.tenants[0].HasField("age")
        async with scraped(node) as text:
            assert sample(text, "stale_seconds") == "+Inf"


async def test_refused_agents_are_named(node: Node) -> None:
    """What cannot be used, what goes on in its place, and why."""
    await node.level("acme")
    await node.level("acme", text="bad", revision=2)
    await node.board.ready(AgentName("tenants/acme/agents/a"))
    async with asyncio.timeout(10):
        while not node.board.refused():
            await node.clock.settle()
    (refused,) = node.status.now().refused
    assert (refused.name, refused.refused_revision, refused.runs_revision) == (
        "tenants/acme/agents/a",
        2,
        1,
    )
    assert "no good" in refused.error.message


async def test_the_status_is_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of many tenants shows the first of them and how many there are."""
    monkeypatch.setattr(status_module, "TENANTS_SHOWN_MAX", 2)
    await node.level("c", "b", "a")
    status = node.status.now()
    assert [tenant.tenant_id for tenant in status.tenants] == ["a", "b"]
    assert status.tenant_count == 3


@asynccontextmanager
async def scraped(node: Node) -> AsyncIterator[str]:
    """The node's metrics as Prometheus gets them."""
    async with (
        serving(node.metrics, "127.0.0.1", 0) as port,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as answer,
    ):
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        yield await answer.text()


def sample(text: str, name: str) -> str | None:
    """The value of a metric; None if there is none."""
    found = re.search(rf"^voxplane_node_{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return found[1] if found else None


async def test_metrics_tell_what_the_node_does(node: Node) -> None:
    """Staleness with its age, the stream's counts, sessions and revisions."""
    await node.level("acme", revision=7)
    figures = node.upstream.figures
    figures.opens, figures.back_offs, figures.moves, figures.replaced = 5, 3, 2, 1
    figures.messages.update({"transfer": 4, "heartbeat": 9})
    figures.transfers.update({"FULL": 1, "DELTA": 3})
    node.admission.stale_calls["warn"] = 6
    attachment = node.board.attach(AgentName("tenants/acme/agents/a"))
    async with scraped(node) as text:
        assert sample(text, "stale") == "0.0"
        assert sample(text, "stale_seconds") == "0.0"
        assert sample(text, "connected") == "1.0"
        assert sample(text, "stream_opens_total") == "5.0"
        assert sample(text, "back_offs_total") == "3.0"
        assert sample(text, "moves_total") == "2.0"
        assert sample(text, "replaced_total") == "1.0"
        assert sample(text, 'stream_messages_total{kind="heartbeat"}') == "9.0"
        assert sample(text, 'transfers_total{intent="DELTA"}') == "3.0"
        assert sample(text, 'tenant_revision{tenant_id="acme"}') == "7.0"
        assert sample(text, 'stale_calls_total{action="warn"}') == "6.0"
        assert sample(text, "sessions") == "1.0"
        assert sample(text, "refused_bundles_total") == "0.0"
        assert sample(text, "hung_checks") == "0.0"
    attachment.close()
    node.protocol.receive(Ended("down", 0.0))
    await node.clock.advance(45.0)
    async with scraped(node) as text:
        assert sample(text, "stale") == "1.0"
        assert sample(text, "stale_seconds") == "45.0"
        assert sample(text, "connected") == "0.0"


async def test_metrics_tell_of_sessions(node: Node) -> None:
    """Sessions by kind and outcome, what turns took, and how far the reports are; also in the status."""
    seats = {name: node.desk.attach(hello(name)) for name in ("runs", "died", "over")}
    seats["text"] = node.desk.attach(hello("text", kind=TEXT))
    told = report(session("runs"), 1)
    told.turns[0].first_token.FromMilliseconds(400)
    told.turns[0].input_tokens = 70
    seats["runs"].take(relay_pb2.AttachRequest(session=told))
    figures = relay_pb2.JobFigures(swaps={"handoff applied": 2}, errors={"tts": 1}, pss_bytes=4_000)
    for name in ("runs", "text"):
        seats[name].take(relay_pb2.AttachRequest(figures=figures))
    seats["over"].take(relay_pb2.AttachRequest(session=report(ended("over"))))
    for name in ("over", "died"):
        seats[name].leave(orderly=False)
    async with scraped(node) as text:
        assert sample(text, 'live_sessions{kind="voice"}') == "2.0"
        assert sample(text, 'live_sessions{kind="text"}') == "1.0"
        assert sample(text, "waiting_sessions") == "1.0"
        assert sample(text, "orphaned_sessions_total") == "1.0"
        assert sample(text, "replaced_processes_total") == "0.0"
        assert sample(text, 'ended_sessions_total{outcome="caller_left"}') == "1.0"
        assert sample(text, "turns_total") == "1.0"
        assert sample(text, 'tokens_total{direction="input"}') == "70.0"
        assert sample(text, 'latency_seconds_bucket{le="0.3",stage="llm_first_token"}') == "0.0"
        assert sample(text, 'latency_seconds_bucket{le="0.5",stage="llm_first_token"}') == "1.0"
        assert sample(text, 'latency_seconds_count{stage="llm_first_token"}') == "1.0"
        assert sample(text, 'latency_seconds_sum{stage="llm_first_token"}') == "0.4"
        assert sample(text, 'swaps_total{effect="handoff",result="applied"}') == "4.0"
        assert sample(text, 'session_errors_total{source="tts"}') == "2.0"
        assert sample(text, "job_memory_bytes") == "8000.0"
        assert sample(text, "job_memory_bytes_max") == "4000.0"
        assert sample(text, "reports_connected") == "0.0"
        assert sample(text, "unacknowledged_sessions") == "2.0"
        assert sample(text, 'lost_reports_total{what="records"}') == "0.0"
    status = node.status.now()
    assert (status.voice_sessions, status.text_sessions) == (2, 1)
    assert (status.reports_connected, status.untold_sessions) == (False, 2)


async def test_others_may_add_metrics(node: Node) -> None:
    """What a part of the node adds later is served with the rest."""
    async with scraped(node) as text:
        assert "calls_per_second" not in text
    node.more.append(Gauge("calls_per_second", "Of a part.", registry=None))
    async with scraped(node) as text:
        assert "\ncalls_per_second 0.0" in text


async def test_tenants_in_metrics_are_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tenants there are, the label has few values; all are counted."""
    monkeypatch.setattr(metrics_module, "TENANT_LABELS_MAX", 3)
    await node.level(*(f"t{n}" for n in range(10)))
    async with scraped(node) as text:
        assert text.count("voxplane_node_tenant_revision{") == 3
        assert sample(text, "tenants") == "10.0"


async def test_a_port_that_is_taken_is_an_error(node: Node) -> None:
    """Nobody is left to think that metrics are served which are not."""
    async with serving(node.metrics, "127.0.0.1", 0) as port:
        with pytest.raises(OSError, match="in use"):
            async with serving(node.metrics, "127.0.0.1", port):
                pass
