"""The node's figures for Prometheus, read when they are asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from agent_node.metric_families import PREFIX, count, counts, gauge
from agent_node.relay import Admission, Board, SessionDesk, Stager
from agent_node.sessions import SessionUplink
from agent_node.upstream import CacheWriter, Upstream
from voxplane.clock import Clock

Unready = Callable[[], str]
"""Why the node is not to be given calls; empty if it is."""

SHUTDOWN_SECONDS_MAX = 0.5
TENANT_LABELS_MAX = 100
"""Tenants with a revision of their own in the metrics: the first by id."""


class NodeMetrics(Collector):
    """All metrics of one node, and those of `more` collectors, such as the
    voice worker's. They are collected on the node's loop."""

    def __init__(
        self,
        *,
        upstream: Upstream,
        board: Board,
        stager: Stager,
        writer: CacheWriter,
        admission: Admission,
        desk: SessionDesk,
        uplink: SessionUplink,
        clock: Clock,
        more: Iterable[Collector] = (),
    ) -> None:
        self._sessions = SessionMetrics(desk, uplink)
        self._more = more
        self._upstream = upstream
        self._board = board
        self._stager = stager
        self._writer = writer
        self._admission = admission
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Part of prometheus_client's interface."""
        yield from self._state()
        yield from self._stream()
        yield from self._sessions.collect()
        for collector in self._more:
            yield from collector.collect()

    def _state(self) -> Iterator[Metric]:
        protocol, now = self._upstream.protocol, self._clock.monotonic()
        stale = protocol.stale(now)
        yield gauge("stale", "1 while the configs may be behind the control plane.", float(stale is not None))
        yield gauge(
            "stale_seconds",
            "Time since the last word from the control plane of the tenant that is furthest behind; "
            "0 while the node is in step, +Inf if it does not know.",
            0.0 if stale is None else now - stale.since,
        )
        yield gauge("connected", "1 while a stream is heard.", float(bool(protocol.stream_id)))
        yield gauge("sessions", "Sessions that follow an agent.", self._board.sessions)
        yield gauge("refused_agents", "Agents whose newest bundle is refused.", len(self._board.refused()))
        yield gauge("hung_checks", "Checks of configs that were given up and still run.", self._stager.hung)
        yield gauge("tenants", "Tenants that the node has.", len(protocol.snapshots))
        revisions = GaugeMetricFamily(
            PREFIX + "tenant_revision",
            f"Revision that the node has, of the first {TENANT_LABELS_MAX} tenants by id.",
            labels=["tenant_id"],
        )
        for tenant_id in sorted(protocol.snapshots)[:TENANT_LABELS_MAX]:
            revisions.add_metric([tenant_id], protocol.snapshots[tenant_id].revision.number)
        yield revisions

    def _stream(self) -> Iterator[Metric]:
        figures = self._upstream.figures
        yield count("stream_opens", "Streams that were asked for.", figures.opens)
        yield count("back_offs", "Waits after a stream that failed.", figures.back_offs)
        yield count("moves", "Streams that ended as the server wished.", figures.moves)
        yield count("replaced", "Streams that another node of the same id has taken over.", figures.replaced)
        yield count("edge_opens", "Streams that were opened by the edge.", figures.edge_opens)
        yield count("edge_failures", "Streams of the edge that led to nothing.", figures.edge_failures)
        yield counts("stream_messages", "Messages, by kind.", "kind", figures.messages)
        yield counts("transfers", "Transfers that were applied, by intent.", "intent", figures.transfers)
        yield count("refused_bundles", "Bundles that were refused.", self._board.refusals)
        yield count("cache_failures", "Writes of the cache that did not work.", self._writer.failures)
        yield counts(
            "stale_calls", "Calls that met a stale config, by action.", "action", self._admission.stale_calls
        )


class SessionMetrics(Collector):
    """The metrics of the node's sessions."""

    def __init__(self, desk: SessionDesk, uplink: SessionUplink) -> None:
        self._desk = desk
        self._uplink = uplink

    def collect(self) -> Iterator[Metric]:
        """Part of prometheus_client's interface."""
        yield from self._lives()
        yield from self._turns()
        yield from self._reports()

    def _lives(self) -> Iterator[Metric]:
        desk, tally = self._desk, self._desk.tally
        kinds = GaugeMetricFamily(
            PREFIX + "live_sessions", "Sessions that run or wait for a process, by kind.", labels=["kind"]
        )
        for kind, number in sorted(desk.kinds.items()):
            kinds.add_metric([kind], number)
        yield kinds
        yield gauge("waiting_sessions", "Calls whose process died, and that wait for another.", desk.waiting)
        yield counts("ended_sessions", "Sessions that have ended, by outcome.", "outcome", tally.ended)
        yield count("orphaned_sessions", "Calls whose process died.", tally.orphans)
        yield count("replaced_processes", "Calls that another process has taken over.", tally.replacements)
        memory = list(desk.job_memory())
        about = "Proportional memory (PSS) of the processes of sessions"
        yield gauge("job_memory_bytes", f"{about}, together.", sum(memory))
        yield gauge("job_memory_bytes_max", f"{about}, of the largest.", max(memory, default=0))

    def _turns(self) -> Iterator[Metric]:
        tally = self._desk.tally
        yield count("turns", "Turns of agents.", tally.turns)
        yield count("interruptions", "Turns that the caller interrupted.", tally.interruptions)
        yield counts("tokens", "Tokens of models, by direction.", "direction", tally.tokens)
        latencies = HistogramMetricFamily(
            PREFIX + "latency_seconds", "How long the stages of turns took.", labels=["stage"]
        )
        for stage, histogram in tally.latencies.items():
            latencies.add_metric([stage], histogram.cumulative(), histogram.sum)
        yield latencies
        swaps = CounterMetricFamily(
            PREFIX + "swaps",
            "Changes of configs in sessions, by effect and result.",
            labels=["effect", "result"],
        )
        for key, number in sorted(tally.swaps.items()):
            swaps.add_metric(key, number)
        yield swaps
        yield counts("session_errors", "Errors in sessions, by source.", "source", tally.errors)

    def _reports(self) -> Iterator[Metric]:
        uplink, losses = self._uplink, self._uplink.state.losses
        figures = uplink.figures
        yield gauge("reports_connected", "1 while the stream of reports is open.", float(uplink.connected))
        yield gauge(
            "unacknowledged_sessions",
            "Sessions of which the control plane does not have the newest yet.",
            uplink.unacknowledged,
        )
        yield gauge("spool_bytes", "What the spool of reports takes on disk.", uplink.spool_bytes)
        yield count("spool_failures", "Writes of the spool that did not work.", figures.save_failures)
        yield count("report_opens", "Streams of reports that were asked for.", figures.opens)
        yield count("report_back_offs", "Waits after a stream of reports that failed.", figures.back_offs)
        yield count("report_batches", "Batches of reports that were sent.", figures.batches)
        lost = {
            "turns": losses.turns,
            "records": losses.records,
            "refused": losses.refused,
            "invalid": self._desk.tally.invalid_reports,
        }
        yield counts(
            "lost_reports",
            "What the control plane is never told: turns and records for which the spool had no room, "
            "reports that it has refused, and those of jobs that were not valid.",
            "what",
            lost,
        )


@asynccontextmanager
async def serving(
    metrics: NodeMetrics, host: str, port: int, unready: Unready = lambda: ""
) -> AsyncGenerator[int]:
    """Serve /metrics, /healthz and /readyz for the block; gives the port.
    Raises OSError if it cannot be had."""
    runner = web.AppRunner(application(metrics, unready), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, shutdown_timeout=SHUTDOWN_SECONDS_MAX)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def application(metrics: NodeMetrics, unready: Unready) -> web.Application:
    """An HTTP application with /metrics, /healthz and /readyz."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthy(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        why = unready()
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)

    app = web.Application()
    app.router.add_get("/metrics", answer)
    app.router.add_get("/healthz", healthy)
    app.router.add_get("/readyz", ready)
    return app
