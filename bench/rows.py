"""The rows of bench.watch's table, out of the rounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench import targets
from bench.figures import median, middle
from bench.load_client import CommitsResult, FanResult, Subject
from bench.targets import Against, Target


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """Streams, bytes of a change, and streams that read nothing."""

    streams: int
    payload: int
    silent: int = 0

    @property
    def title(self) -> str:
        """For people."""
        silent = f", {self.silent} deaf by turns" if self.silent else ""
        return f"{self.streams:,} streams{silent}, {self.payload // 1_000} KB"


@dataclass(slots=True)
class Rounds:
    """What all rounds found."""

    fans: dict[tuple[Subject, Size], list[FanResult]] = field(
        default_factory=lambda: defaultdict[tuple[Subject, Size], list[FanResult]](list)
    )
    commits: dict[tuple[Subject, int], list[CommitsResult]] = field(
        default_factory=lambda: defaultdict[tuple[Subject, int], list[CommitsResult]](list)
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One measure. `ratio` is what the target looks at: to etcd, unless the
    target says otherwise."""

    measure: str
    unit: str
    ours: float | None
    etcd: float | None = None
    ads: float | None = None
    bare: float | None = None
    none: float | None = None
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        """Ours to etcd's, or to what the target names."""
        against = self.target.against if self.target else Against.ETCD
        others = {Against.ADS: self.ads, Against.NONE_SILENT: self.none, Against.PLAIN: self.none}
        other = others.get(against, self.etcd)
        return self.ours / other if self.ours is not None and other else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none, or no figure."""
        if self.target is None:
            return None
        found = self.ours if self.target.against is Against.ITSELF else self.ratio
        return None if found is None else self.target.met(found)


def _row(measure: str, unit: str, figures: list[float | None], target: Target | None = None) -> Row:
    ours, etcd, ads, bare = [*figures, None, None][:4]
    return Row(measure, unit, ours, etcd, ads, bare, target=target)


def fan_rows(rounds: Rounds, size: Size) -> Iterator[Row]:
    """The rows of one size."""
    ours = rounds.fans[("voxplane", size)]
    etcd = rounds.fans[("etcd", size)]
    ads = rounds.fans[("ads", size)]
    every = (ours, etcd, ads, rounds.fans[("bare", size)])
    at_target = size.streams == targets.TARGET_STREAMS
    all_have = targets.ALL_HAVE.get(size.payload) if at_target else None
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        figures = [middle((run.have_ms for run in runs), share) for runs in every]
        yield _row(f"commit → all have it, {name}", "ms", figures, target=all_have)
    figures = [middle((run.ack_ms for run in runs), 0.5) for runs in every]
    yield _row("of which the commit's answer, p50", "ms", figures)
    figures = [median(run.deliver_us for run in runs) for runs in every]
    yield _row("server CPU per delivery", "µs", figures, target=targets.ADS_CPU if ads else None)
    figures = [median(run.stream_kb for run in runs) for runs in every]
    crowd = size.streams >= targets.TARGET_STREAMS
    yield _row("RSS per idle stream", "KB", figures, target=targets.RSS if crowd else None)
    figures = [median(run.arrive_ms for run in runs) for runs in every]
    yield _row("all arrive at once → SYNCED", "ms", figures)
    if size.streams >= targets.CROWD_STREAMS:
        lost = [float(max(run.lost for run in runs)) if runs else None for runs in (ours, etcd)]
        yield _row("streams lost", "", lost, target=targets.NONE_LOST)
    yield from _reconnect_rows(every, targets.RECONNECT if at_target else None)
    yield from _report_rows(ours, etcd, targets.BY_STREAM if at_target else None)


def _reconnect_rows(every: tuple[list[FanResult], ...], target: Target | None) -> Iterator[Row]:
    figures = [middle((run.reconnect_ms for run in runs), 0.5) for runs in every]
    yield _row("all dropped at once → SYNCED", "ms", figures, target=target)
    figures = [median(run.reconnect_us for run in runs) for runs in every]
    yield _row("server CPU per reconnect", "µs", figures)


def _report_rows(ours: list[FanResult], etcd: list[FanResult], target: Target | None) -> Iterator[Row]:
    by_stream = middle((run.by_stream_ms for run in ours), 0.5)
    yield Row("commit → all APPLIED by stream, p50", "ms", by_stream)
    yield Row(
        "server CPU, delivery + report by stream",
        "µs",
        median(run.by_stream_us for run in ours),
        target=target,
    )
    figures = [middle((run.by_unary_ms for run in runs), 0.5) for runs in (ours, etcd)]
    yield _row("commit → all APPLIED by unary call, p50", "ms", figures)
    figures = [median(run.by_unary_us for run in runs) for runs in (ours, etcd)]
    yield _row("server CPU, delivery + report by unary call", "µs", figures)


def edge_rows(rounds: Rounds, size: Size) -> Iterator[Row]:
    """The rows of one size over the fast edge; what is ours in them is its."""
    edge, secure = rounds.fans[("edge", size)], rounds.fans[("edge-tls", size)]
    etcd = rounds.fans[("etcd", size)]
    both = (edge, etcd)
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        figures = [middle((run.have_ms for run in runs), share) for runs in both]
        yield _row(f"commit → all have it, {name}", "ms", figures, target=targets.EDGE_ALL_HAVE)
    figures = [median(run.deliver_us for run in runs) for runs in both]
    yield _row("server CPU per delivery", "µs", figures, target=targets.EDGE_CPU)
    if secure:
        with_tls, plain = (median(run.deliver_us for run in runs) for runs in (secure, edge))
        yield Row("server CPU per delivery, with TLS", "µs", with_tls, none=plain, target=targets.EDGE_TLS)
    figures = [median(run.stream_kb for run in runs) for runs in both]
    yield _row("RSS per idle stream", "KB", figures, target=targets.EDGE_RSS)
    if secure:
        yield Row("RSS per idle stream, with TLS", "KB", median(run.stream_kb for run in secure))
    lost = [float(max(run.lost for run in runs)) if runs else None for runs in both]
    yield _row("streams lost", "", lost, target=targets.NONE_LOST)
    yield from _reconnect_rows(both, targets.EDGE_RECONNECT)
    by_stream = median(run.by_stream_us for run in edge)
    yield Row("server CPU, delivery + report by stream", "µs", by_stream, target=targets.EDGE_BY_STREAM)
    figures = [median(run.by_unary_us for run in runs) for runs in both]
    yield _row("server CPU, delivery + report by unary call", "µs", figures)


def silent_rows(rounds: Rounds, size: Size) -> Iterator[Row]:
    """What readers that stop cost the others, in blocks with and without them
    that follow one another on one server."""
    ours, etcd = (rounds.fans[(subject, size)] for subject in ("voxplane", "etcd"))
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        deaf, etcd_deaf = (middle((run.silent_ms for run in runs), share) for runs in (ours, etcd))
        all_read, etcd_read = (middle((run.have_ms for run in runs), share) for runs in (ours, etcd))
        target = targets.SILENT if share == 0.5 else None
        yield Row(f"commit → all others have it, {name}", "ms", deaf, etcd_deaf, none=all_read, target=target)
        yield Row(f"the same where all read, {name}", "ms", all_read, etcd_read)


def commit_rows(rounds: Rounds, writers: int) -> Iterator[Row]:
    """The rows of so many writers."""
    ours = rounds.commits[("voxplane", writers)]
    etcd = rounds.commits[("etcd", writers)]
    rates = [median(run.per_second for run in runs) for runs in (ours, etcd)]
    yield _row("durable commits", "/s", rates, target=targets.COMMITS if writers > 1 else None)
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        calls = [middle((run.call_ms for run in runs), share) for runs in (ours, etcd)]
        target = targets.ONE_WRITER if writers == 1 and share == 0.5 else None
        yield _row(f"the call, {name}", "ms", calls, target=target)
    yield _row("server CPU per call", "µs", [median(run.call_us for run in runs) for runs in (ours, etcd)])
