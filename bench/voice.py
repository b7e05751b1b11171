"""Live calls: `python -m bench.voice [--calls 3] [--seconds 8] [--dials 3] [--changes 60]`.

In a network of their own: a LiveKit server, a control plane, a node, callers on
LiveKit's SDK, and servers that speak Deepgram's and OpenAI's protocols. The peer
is the same agent hard-coded in a worker of livekit-agents, with the same plugins
against the same servers; both are measured in turns, in one run. Callers, servers
and subjects share the machine, so what is measured is a lower bound for a node
that has it alone. As other load moves all figures, look at the ratios.

A reply has a dropout if there are 20 ms of silence in it. "talking" means that
all calls talk all the time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from bench.processes import BenchError, run
from bench.voice_figures import (
    MB,
    SUBJECTS,
    Found,
    Reply,
    Step,
    Subject,
    Swaps,
    clean_calls,
    dropouts,
    losses,
    ratio,
    spread,
    tail,
)
from bench.voice_scene import (
    Dialled,
    Line,
    Processes,
    applied,
    change,
    dial,
    plain_worker,
    turn,
    turn_with_swap,
)
from tests.livekit.calls import Call, CallError
from tests.livekit.program import Program, ProgramError
from tests.livekit.stage import Stage, missing

WIDTH = 110
SETTLE_SECONDS = 1.5
"""For a pool to have its warm processes again."""
SWAP_TURNS = 3


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    calls: int
    seconds: float
    dials: int
    changes: int


class Bench:
    """Both subjects on one stage."""

    def __init__(self, stage: Stage, plain: Program, effort: Effort) -> None:
        self._stage = stage
        self._effort = effort
        self._lines = {subject: Line(stage, subject) for subject in SUBJECTS}
        self._processes: dict[Subject, Processes] = {
            "voxplane": Processes(stage.node),
            "plain": Processes(plain),
        }
        self.found: dict[Subject, Found] = {subject: Found() for subject in SUBJECTS}
        self.swaps = Swaps()

    async def measure(self) -> None:
        """All of it. Raises CallError."""
        await self._lines["voxplane"].create(self._lines["voxplane"].examiner())
        for subject in SUBJECTS:
            await (await self._dial(subject, counts=False)).call.hang_up()
        _progress(f"{self._effort.dials} dials of each")
        for _ in range(self._effort.dials):
            for subject in SUBJECTS:
                await (await self._dial(subject)).call.hang_up()
        for subject in SUBJECTS:
            _progress(f"{subject}: up to {self._effort.calls} calls, {self._effort.seconds:g} s each step")
            await self._climb(subject)
        _progress(f"{self._effort.changes} changes in a call, and {SWAP_TURNS} while the agent speaks")
        await self._swap()

    async def _dial(self, subject: Subject, *, counts: bool = True) -> Dialled:
        await asyncio.sleep(SETTLE_SECONDS)
        dialled = await dial(self._lines[subject])
        if counts:
            self.found[subject].ready.append(dialled.ready)
            self.found[subject].first_sound.append(dialled.first_sound)
        return dialled

    async def _climb(self, subject: Subject) -> None:
        """One call more at each step; all of them talk."""
        calls: list[Call] = []
        processes, found = self._processes[subject], self.found[subject]
        await asyncio.sleep(SETTLE_SECONDS)
        before = processes.pss()
        for number in range(1, self._effort.calls + 1):
            calls.append((await self._dial(subject, counts=False)).call)
            found.steps.append(await self._talk(subject, calls))
            found.pss.append((processes.pss() - before) / number)
        for call in calls:
            await call.hang_up()

    async def _talk(self, subject: Subject, calls: Sequence[Call]) -> Step:
        """All calls talk for some seconds."""
        processes = self._processes[subject]
        psutil.cpu_percent()
        cpu, began = processes.cpu_seconds(), time.monotonic()
        talks = await asyncio.gather(*(self._replies(subject, call, began) for call in calls))
        lasted = time.monotonic() - began
        replies = [reply for talk in talks for reply in talk if reply is not None]
        failed = sum(reply is None for talk in talks for reply in talk)
        cores = (processes.cpu_seconds() - cpu) / lasted / len(calls)
        return Step(len(calls), psutil.cpu_percent() / 100, cores, replies, failed)

    async def _replies(self, subject: Subject, call: Call, began: float) -> list[Reply | None]:
        found: list[Reply | None] = []
        while time.monotonic() - began < self._effort.seconds:
            try:
                found.append(await turn(self._lines[subject], call))
            except CallError:
                found.append(None)  # on a machine that is full
        return found

    async def _swap(self) -> None:
        """Changes while a call is quiet, and while its agent speaks."""
        line = self._lines["voxplane"]
        call = (await self._dial("voxplane", counts=False)).call
        for number in range(self._effort.changes):
            revision, committed = await change(line, number)
            self.swaps.applied += [at - committed for at in await applied(self._stage, revision, 1)]
        for number in range(SWAP_TURNS):
            self.swaps.without.append(await turn(line, call))
            self.swaps.swapped.append(await turn_with_swap(line, call, number))
        await call.hang_up()


def table(found: dict[Subject, Found], swaps: Swaps, calls: int) -> Table:
    """All figures; medians, and the longest in brackets."""
    ours, plain = found["voxplane"], found["plain"]
    made = Table(title="One agent in live calls: Voxplane, and hard-coded in a plain worker")
    made.add_column("")
    for column in ("Voxplane", "plain", "ratio"):
        made.add_column(column, justify="right")

    def row(name: str, us: Sequence[float], them: Sequence[float], scale: float, unit: str) -> None:
        share = ratio(us, them)
        text = f"{share:.2f}" if share is not None else ""
        made.add_row(name, spread(us, scale, unit), spread(them, scale, unit), text)

    row("dispatch → the agent is there", ours.ready, plain.ready, 1e3, "ms")
    row("dispatch → its first sound", ours.first_sound, plain.first_sound, 1e3, "ms")
    row("memory (PSS) of a call", ours.pss, plain.pss, 1 / MB, "MB")
    for number in range(1, calls + 1):
        made.add_section()
        made.add_row(f"[bold]{number} call{'s' * (number > 1)}, talking[/]")
        mine, other = (_step(each, number) for each in (ours, plain))
        delays, others = ([reply.delay for reply in each.replies(number)] for each in (ours, plain))
        row("last word → reply's first sound", delays, others, 1e3, "ms")
        row("processor of a call", [mine.cores], [other.cores], 1, "cores")
        made.add_row("machine's processors", f"{mine.machine:.0%}", f"{other.machine:.0%}")
        made.add_row("replies with a dropout", dropouts(mine.replies), dropouts(other.replies))
        made.add_row("longest wait for a frame, made up", losses(mine.replies), losses(other.replies))
        if mine.failed or other.failed:
            made.add_row("replies that did not come", str(mine.failed), str(other.failed))
    made.add_section()
    cores = os.cpu_count() or 1
    clean = [clean_calls(each.steps) for each in (ours, plain)]
    made.add_row("calls before the first dropout", *map(str, clean))
    made.add_row(f"for each of {cores} cores", *(f"{each / cores:.1f}" for each in clean))
    made.add_section()
    made.add_row("[bold]changes in a call that runs[/]")
    made.add_row("commit → next turn has it, p50 / p99", tail(swaps.applied, 1e3, "ms"))
    for name, replies in (("no change", swaps.without), ("a change", swaps.swapped)):
        made.add_row(f"{name} while it speaks: dropouts", dropouts(replies))
        made.add_row("longest wait for a frame, made up", losses(replies))
    return made


def _step(found: Found, calls: int) -> Step:
    return next(step for step in found.steps if step.calls == calls)


def _progress(what: str) -> None:
    print(what, flush=True)


async def _main(effort: Effort) -> None:
    if lacking := missing():
        raise BenchError(lacking)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="voxplane-bench-") as name:
        try:
            async with Stage(Path(name)) as stage, plain_worker(stage) as plain:
                bench = Bench(stage, plain, effort)
                try:
                    await bench.measure()
                except CallError as error:
                    logs = "".join(
                        f"\n{each.name}:\n{each.log_end()}" for each in (stage.livekit, stage.node, plain)
                    )
                    raise BenchError(f"{error}{logs}") from error
        except ProgramError as error:
            raise BenchError(str(error)) from error
    Console(width=WIDTH).print(table(bench.found, bench.swaps, effort.calls))
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=3, help="most calls at once")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long so many calls talk")
    parser.add_argument("--dials", type=int, default=3, help="calls that are dialled by themselves")
    parser.add_argument("--changes", type=int, default=60, help="changes in a call that runs")
    options = parser.parse_args()
    run(_main(Effort(options.calls, options.seconds, options.dials, options.changes)))
