"""Voxplane beside etcd: `python -m bench.watch [--quick]`.

Both are real processes on this machine, with a durable commit each (SQLite,
synchronous=FULL; etcd's default), driven by one load client in Go with the
same settings: a connection and a stream for each client, payloads not parsed.
ADS is go-control-plane's, and bare grpc.aio is what stands under us: neither
has a disk. The fast edge is the same server, watched at its other listener. The
next change is made when all have the last; times are from before the call that
commits. A client of etcd that is back watches from its revision on and reads
nothing; its report is a Put of a key of its own, which is durable, as ours is
not. Rounds are interleaved; figures are medians of the rounds. As other load
moves all figures, look at the ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from bench.building import build
from bench.load_client import CommitsResult, FanResult, Subject, load
from bench.processes import raise_file_limit, run
from bench.rows import Rounds, Row, Size, commit_rows, edge_rows, fan_rows, silent_rows

OPEN_FILES = 12_000
WRITERS = (1, 64)
WRITER_BYTES = 2_000
PEER_STREAMS = 1_000
REPORTING: tuple[Subject, ...] = ("voxplane", "edge", "edge-tls", "etcd")
SILENT = Size(1_000, 16_000, 10)
WIDTH = 132


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured. By streams: changes, and changes with reports.
    `peer_payloads` are those at which go-control-plane and bare grpc.aio take
    part."""

    rounds: int
    streams: tuple[int, ...]
    payloads: tuple[int, ...]
    changes: dict[int, int]
    reports: dict[int, int]
    reconnects: int
    commit_seconds: int
    peer_payloads: tuple[int, ...]


FULL = Effort(
    3,
    (100, 1_000, 5_000),
    (2_000, 16_000),
    {100: 100, 1_000: 40, 5_000: 12},
    {100: 20, 1_000: 10, 5_000: 3},
    2,
    3,
    (2_000, 16_000),
)
QUICK = Effort(
    1,
    (100, 1_000),
    (2_000, 16_000),
    {100: 50, 1_000: 20, 5_000: 6},
    {100: 10, 1_000: 5, 5_000: 2},
    1,
    2,
    (2_000,),
)


def _near(by_streams: dict[int, int], streams: int) -> int:
    return by_streams[min(by_streams, key=lambda size: abs(size - streams))]


async def _fan(subject: Subject, size: Size, effort: Effort) -> FanResult:
    reports = _near(effort.reports, size.streams) if subject in REPORTING and not size.silent else 0
    said = await load(
        subject,
        "fan",
        *("-streams", str(size.streams), "-silent", str(size.silent), "-payload", str(size.payload)),
        *("-changes", str(_near(effort.changes, size.streams)), "-reports", str(reports)),
        *("-reconnects", str(0 if size.silent else effort.reconnects)),
    )
    return FanResult.model_validate_json(said)


async def _commits(subject: Subject, writers: int, effort: Effort) -> CommitsResult:
    said = await load(
        subject,
        "commits",
        *("-writers", str(writers), "-duration", f"{effort.commit_seconds}s", "-payload", str(WRITER_BYTES)),
    )
    return CommitsResult.model_validate_json(said)


def sizes(effort: Effort) -> list[Size]:
    """The sizes to measure, small ones first."""
    found = [Size(streams, payload) for streams in effort.streams for payload in effort.payloads]
    if Size(SILENT.streams, SILENT.payload) in found:
        found.insert(found.index(Size(SILENT.streams, SILENT.payload)) + 1, SILENT)
    return found


def subjects(size: Size, effort: Effort) -> tuple[Subject, ...]:
    """Who is measured at a size, in turn."""
    if size.silent:
        return ("voxplane", "etcd")
    with_all = size.streams == PEER_STREAMS and size.payload in effort.peer_payloads
    if with_all:
        return ("voxplane", "edge", "etcd", "edge-tls", "ads", "bare")
    return ("voxplane", "edge", "etcd")


async def measure(effort: Effort) -> Rounds:
    """All rounds. Raises BenchError."""
    raise_file_limit(OPEN_FILES)
    await build()
    rounds = Rounds()
    for number in range(effort.rounds):
        began = time.monotonic()
        for size in sizes(effort):
            for subject in subjects(size, effort):
                rounds.fans[(subject, size)].append(await _fan(subject, size, effort))
        for writers in WRITERS:
            for subject in ("voxplane", "etcd"):
                rounds.commits[(subject, writers)].append(await _commits(subject, writers, effort))
        print(f"round {number + 1} of {effort.rounds}: {time.monotonic() - began:.0f} s", flush=True)
    return rounds


def _sections(rounds: Rounds, effort: Effort) -> Iterator[tuple[str, Iterable[Row]]]:
    for size in sizes(effort):
        if size.silent:
            yield size.title, silent_rows(rounds, size)
        else:
            yield size.title, fan_rows(rounds, size)
            yield f"{size.title}, over the fast edge", edge_rows(rounds, size)
    for writers in WRITERS:
        yield (
            f"{writers} writer{'s' * (writers > 1)}, 2 KB, through the whole edge",
            commit_rows(rounds, writers),
        )


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    text = f"{value:,.1f}" if abs(value) < 100 and unit in ("ms", "µs", "KB") else f"{value:,.0f}"
    return f"{text} {unit}".rstrip()


def table(rounds: Rounds, effort: Effort) -> Table:
    """The table of all figures."""
    made = Table(title=f"Voxplane and etcd in one run, medians of {effort.rounds} rounds")
    made.add_column("")
    for column in ("Voxplane", "etcd", "ADS", "bare grpc.aio", "ratio", "target", ""):
        made.add_column(column, justify="right")
    for title, rows in _sections(rounds, effort):
        made.add_section()
        made.add_row(f"[bold]{title}[/bold]")
        for row in rows:
            ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
            verdict = {None: "", True: "met", False: "missed"}[row.met]
            figures = (_figure(value, row.unit) for value in (row.ours, row.etcd, row.ads, row.bare))
            made.add_row(row.measure, *figures, ratio, str(row.target or ""), verdict)
    return made


async def _main(effort: Effort) -> None:
    began = time.monotonic()
    rounds = await measure(effort)
    console = Console(width=WIDTH)
    console.print(table(rounds, effort))
    for (subject, size), runs in rounds.fans.items():
        for found in runs:
            if found.lost:
                console.print(
                    f"{subject}, {size.title}: {found.lost} streams ended unasked: {found.failures}"
                )
    console.print(f"{time.monotonic() - began:.0f} s")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small round, under 3 minutes")
    parser.add_argument("--rounds", type=int, help="rounds to take the median of")
    parser.add_argument("--streams", type=_numbers, help="numbers of streams, with commas between")
    parser.add_argument("--payloads", type=_numbers, help="bytes of a change, with commas between")
    options = parser.parse_args()
    base = QUICK if options.quick else FULL
    effort = replace(
        base,
        rounds=options.rounds or base.rounds,
        streams=options.streams or base.streams,
        payloads=options.payloads or base.payloads,
    )
    run(_main(effort))
