"""A long run: `python -m bench.soak [--minutes 20]`.

A real server, 1,000 streams of 10 tenants that report on a stream, 20 commits
a second and reconnects all the while. What the server holds is looked at every
few seconds; a slope is the line of least squares through what came after the
warm-up, per hour. Tasks and streams are the server's own counts, which it logs
on SIGUSR1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from bench.building import build
from bench.load_client import SoakResult, Subject, client, subject_server
from bench.processes import BenchError, Running, raise_file_limit, run

OPEN_FILES = 8_000
ROWS_SHOWN = 20
SAMPLES = 240
COUNTS_SECONDS_MAX = 5.0
COUNTS_POLL_SECONDS = 0.05
SECONDS_PER_HOUR = 3_600
WARM_UP_SHARE = 0.5
"""The server keeps the newest 1,000 versions of each agent in memory, and its
heap grows until they are there: by default for the first 500 s."""
TELL_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Sample:
    """What the server held at a time; -1 is not known."""

    load: SoakResult
    rss_kb: float
    files: int
    threads: int
    streams: int
    tasks: int


COLUMNS = ("rss_kb", "files", "threads", "streams", "tasks")


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the line of least squares; 0 for fewer than two points."""
    if len(points) < 2:
        return 0.0
    x = sum(at for at, _ in points) / len(points)
    y = sum(value for _, value in points) / len(points)
    spread = sum((at - x) ** 2 for at, _ in points)
    return sum((at - x) * (value - y) for at, value in points) / spread if spread else 0.0


def _catches_usr1(pid: int) -> bool:
    # Sent to a process without a handler, the signal would end it.
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1)
    return False


async def _counts(running: Running) -> tuple[int, int]:
    """Streams and tasks by the server's own count; -1 if it does not tell."""
    if not _catches_usr1(running.process.pid):
        return -1, -1
    start = running.log.stat().st_size
    os.kill(running.process.pid, signal.SIGUSR1)
    for _ in range(int(COUNTS_SECONDS_MAX / COUNTS_POLL_SECONDS)):
        await asyncio.sleep(COUNTS_POLL_SECONDS)
        with running.log.open("rb") as log:
            log.seek(start)
            lines = log.read().splitlines()
        for line in lines:
            if b'"counts"' in line and line.endswith(b"}"):
                found = json.loads(line)
                return int(found["streams"]), int(found["tasks"])
    return -1, -1


async def _sample(running: Running, load: SoakResult) -> Sample:
    streams, tasks = await _counts(running)
    server = psutil.Process(running.process.pid)
    with server.oneshot():
        return Sample(load, running.rss_kb(), server.num_fds(), server.num_threads(), streams, tasks)


@dataclass(frozen=True, slots=True)
class Soak:
    """How lively a soak is: commits and reconnects a second."""

    minutes: float
    streams: int
    tenants: int
    commits: float
    churn: float
    history: int
    subject: Subject

    def flags(self) -> tuple[str, ...]:
        """For the load client."""
        seconds = self.minutes * 60
        return (
            *("-streams", str(self.streams), "-commits", str(self.commits), "-churn", str(self.churn)),
            *("-tenants", str(self.tenants), "-duration", f"{seconds}s"),
            *("-every", f"{max(1.0, seconds / SAMPLES)}s"),
        )


async def _main(soak: Soak) -> tuple[list[Sample], SoakResult]:
    raise_file_limit(OPEN_FILES)
    await build()
    samples: list[Sample] = []
    last: SoakResult | None = None
    async with (
        subject_server(soak.subject, f"history_entries_max = {soak.history}\n") as served,
        client(soak.subject, "soak", served, *soak.flags()) as load,
    ):
        assert load.stdout is not None
        assert load.stderr is not None
        async for line in load.stdout:
            last = SoakResult.model_validate_json(line)
            if last.seconds < soak.minutes * 60:
                samples.append(await _sample(served.running, last))
                _tell(samples)
        if await load.wait():
            why = (await load.stderr.read()).decode()
            raise BenchError(f"{why}\nThe server's log ends with\n{served.running.log_end()}")
    if not samples or last is None:
        raise BenchError("too short to tell anything")
    return samples, last


def _tell(samples: list[Sample]) -> None:
    at, before = samples[-1], samples[-2:-1]
    if not before or at.load.seconds // TELL_SECONDS > before[0].load.seconds // TELL_SECONDS:
        print(
            f"{at.load.seconds:5.0f} s: {at.rss_kb:,.0f} KB, {at.files} files, {at.threads} threads, "
            f"{at.streams} streams, {at.tasks} tasks",
            flush=True,
        )


def _value(sample: Sample, column: str) -> float:
    return float(getattr(sample, column))


def _slopes(samples: Sequence[Sample]) -> list[str]:
    late = [s for s in samples if s.load.seconds >= WARM_UP_SHARE * samples[-1].load.seconds]
    texts: list[str] = []
    for column in COLUMNS:
        points = [(s.load.seconds, _value(s, column)) for s in late if _value(s, column) >= 0]
        per_hour = slope(points) * SECONDS_PER_HOUR
        texts.append(f"{per_hour:+,.1f}/h" if points else "not told")
    return texts


def table(samples: Sequence[Sample], last: SoakResult) -> Table:
    """Some of the samples, and the slopes."""
    made = Table(
        title=f"{last.commits:,} commits, {last.reconnects:,} reconnects, {last.deliveries:,} deliveries "
        f"in {last.seconds:,.0f} s; {last.lost} streams ended unasked"
    )
    for name in (
        "s",
        "commits",
        "reconnects",
        "deliveries",
        "RSS KB",
        "files",
        "threads",
        "streams",
        "tasks",
    ):
        made.add_column(name, justify="right")
    step = -(-len(samples) // ROWS_SHOWN)
    for sample in (*samples[:-1:step], samples[-1]):
        load = sample.load
        done = (f"{load.seconds:,.0f}", *(f"{n:,}" for n in (load.commits, load.reconnects, load.deliveries)))
        values = (_value(sample, column) for column in COLUMNS)
        made.add_row(*done, *("" if value < 0 else f"{value:,.0f}" for value in values))
    made.add_section()
    made.add_row("slope", "", "", "", *_slopes(samples))
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="how long")
    parser.add_argument("--streams", type=int, default=1_000, help="streams")
    parser.add_argument("--tenants", type=int, default=10, help="tenants that they are spread over")
    parser.add_argument("--commits", type=float, default=20.0, help="commits a second")
    parser.add_argument("--churn", type=float, default=10.0, help="reconnects a second")
    parser.add_argument(
        "--history", type=int, default=1_000, help="changes that the server keeps of a tenant"
    )
    parser.add_argument(
        "--subject", choices=("voxplane", "edge", "edge-tls"), default="voxplane", help="the listener"
    )
    samples, last = run(_main(Soak(**vars(parser.parse_args()))))
    Console(width=120).print(table(samples, last))
    for text, count in last.failures.items():
        print(f"{count} × {text}")
