"""The node's figures for Prometheus, read when they are asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from agent_node.relay import Admission, Board, Stager
from agent_node.upstream import CacheWriter, Upstream
from voxplane.clock import Clock

PREFIX = "voxplane_node_"
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
        clock: Clock,
        more: Iterable[Collector] = (),
    ) -> None:
        self._more = tuple(more)
        self._upstream = upstream
        self._board = board
        self._stager = stager
        self._writer = writer
        self._admission = admission
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Part of prometheus_client's interface."""
        yield from self._state()
        yield from self._counts()
        for collector in self._more:
            yield from collector.collect()

    def _state(self) -> Iterator[Metric]:
        protocol, now = self._upstream.protocol, self._clock.monotonic()
        stale = protocol.stale(now)
        yield _gauge(
            "stale", "1 while the configs may be behind the control plane.", float(stale is not None)
        )
        yield _gauge(
            "stale_seconds",
            "Time since the last word from the control plane of the tenant that is furthest behind; "
            "0 while the node is in step, +Inf if it does not know.",
            0.0 if stale is None else now - stale.since,
        )
        yield _gauge("connected", "1 while a stream is heard.", float(bool(protocol.stream_id)))
        yield _gauge("sessions", "Sessions that follow an agent.", self._board.sessions)
        yield _gauge("refused_agents", "Agents whose newest bundle is refused.", len(self._board.refused()))
        yield _gauge("hung_checks", "Checks of configs that were given up and still run.", self._stager.hung)
        yield _gauge("tenants", "Tenants that the node has.", len(protocol.snapshots))
        revisions = GaugeMetricFamily(
            PREFIX + "tenant_revision",
            f"Revision that the node has, of the first {TENANT_LABELS_MAX} tenants by id.",
            labels=["tenant_id"],
        )
        for tenant_id in sorted(protocol.snapshots)[:TENANT_LABELS_MAX]:
            revisions.add_metric([tenant_id], protocol.snapshots[tenant_id].revision.number)
        yield revisions

    def _counts(self) -> Iterator[Metric]:
        figures = self._upstream.figures
        yield _count("stream_opens", "Streams that were asked for.", figures.opens)
        yield _count("back_offs", "Waits after a stream that failed.", figures.back_offs)
        yield _count("moves", "Streams that ended as the server wished.", figures.moves)
        yield _count("replaced", "Streams that another node of the same id has taken over.", figures.replaced)
        yield _counts("stream_messages", "Messages, by kind.", "kind", figures.messages)
        yield _counts("transfers", "Transfers that were applied, by intent.", "intent", figures.transfers)
        yield _count("refused_bundles", "Bundles that were refused.", self._board.refusals)
        yield _count("cache_failures", "Writes of the cache that did not work.", self._writer.failures)
        yield _counts(
            "stale_calls", "Calls that met a stale config, by action.", "action", self._admission.stale_calls
        )


@asynccontextmanager
async def serving(metrics: NodeMetrics, host: str, port: int) -> AsyncGenerator[int]:
    """Serve /metrics for the block; gives the port. Raises OSError if it
    cannot be had."""
    runner = web.AppRunner(application(metrics), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, shutdown_timeout=SHUTDOWN_SECONDS_MAX)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def application(metrics: NodeMetrics) -> web.Application:
    """An HTTP application with /metrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/metrics", answer)
    return app


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, about, value=value)


def _count(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, about, value=value)


def _counts(name: str, about: str, label: str, values: Mapping[str, int]) -> Metric:
    made = CounterMetricFamily(PREFIX + name, about, labels=[label])
    for key, value in sorted(values.items()):
        made.add_metric([key], value)
    return made
