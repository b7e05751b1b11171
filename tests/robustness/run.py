"""The long mode: python -m tests.robustness.run [--seed N] [--minutes N]

Everything at once, for as long as it is told: at least SERVER_ENDS_MIN ends of
the server, every fault, a minute of blackhole, two restored backups, and
STORM_CLIENTS clients that come back together. The seed is printed; the same
seed makes the same choices, though not the same moments.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

from tests.robustness.actions import (
    DISK_ACTIONS,
    PROXY_ACTIONS,
    SERVER_ENDS,
    STOPS,
    Action,
    away,
    blackhole,
    restore,
)
from tests.robustness.check import show
from tests.robustness.faults.shims import why_not
from tests.robustness.scenario import Options, Scenario, judge, scenario
from tests.robustness.site import TRANSPORTS

Run = Callable[[Path, int], Coroutine[None, None, Scenario]]
"""In a folder, by a seed."""

SERVER_ENDS_MIN = 50
STORM_CLIENTS = 1_000
RESTORES = 2
MINUTES = 10.0
PAUSE_SECONDS_MAX = 2.0


def plan(chance: random.Random) -> list[tuple[str, Action]]:
    """The actions of a run, in a random order; to be repeated while time is left."""
    actions = [(name, SERVER_ENDS[name]) for name in SERVER_ENDS for _ in range(SERVER_ENDS_MIN // 2)]
    others = {**PROXY_ACTIONS, **STOPS, **DISK_ACTIONS}
    actions += [(name, others[name]) for name in others for _ in range(2)]
    actions += [("restore", restore), ("away", away)] * RESTORES
    chance.shuffle(actions)
    return actions


async def faults(run: Scenario, minutes: float) -> None:
    """Do everything that is planned, and more until the time is over."""
    deadline = time.monotonic() + 60 * minutes
    hole = asyncio.create_task(blackhole(run))
    through_proxy = {*PROXY_ACTIONS, "away"}
    actions = plan(run.random)
    while actions or time.monotonic() < deadline:
        actions = actions or plan(run.random)
        name, action = actions.pop()
        if name in through_proxy and not hole.done():
            actions.insert(0, (name, action))
            if all(other in through_proxy for other, _ in actions):
                await hole
            continue
        print(f"{time.monotonic() - run.began:7.1f} s  {name}", flush=True)  # noqa: T201
        await action(run)
        await run.pause(0, PAUSE_SECONDS_MAX)
    await hole


async def storm(folder: Path, seed: int, transport: str) -> Scenario:
    """Many clients, whose server is killed and comes back."""
    options = Options(seed, writers=2, pause_seconds=0.5, crowd=STORM_CLIENTS, transport=transport)
    async with scenario(folder, options) as run:
        for _ in range(2):
            await SERVER_ENDS["kill"](run)
            await run.all_in_step("many")
    return run


async def everything(folder: Path, seed: int, transport: str, minutes: float) -> Scenario:
    """All faults, one after the other, for so long."""
    options = Options(
        seed,
        daemons=1,
        shims=True,
        snapshot_commits=20,
        history_entries_max=20,
        part_bytes=2_000,
        transport=transport,
    )
    async with scenario(folder, options) as run:
        await faults(run, minutes)
    return run


def report(run: Scenario) -> bool:
    """Judge a run, print what was found, and say whether all is well."""
    history, findings = judge(run)
    show(history, findings)
    for problem in run.problems:
        print(f"\nPROBLEM: {problem}")  # noqa: T201
    well = not findings.violations and not run.problems
    if not well:
        print(f"\nthe history is {run.folder / 'history.jsonl'}")  # noqa: T201
    return well


def main() -> int:
    """0 if everything held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--folder", type=Path, help="where to keep what the run leaves")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="voxplane-robustness-"))
    print(f"seed {options.seed}, folder {folder}", flush=True)  # noqa: T201
    if without := why_not():
        print(f"no faults of the disk and the clock: {without}")  # noqa: T201
    runs: list[tuple[str, Run]] = []
    for transport in TRANSPORTS:
        minutes = options.minutes / len(TRANSPORTS)
        runs.append((f"storm-{transport}", partial(storm, transport=transport)))
        runs.append((f"faults-{transport}", partial(everything, transport=transport, minutes=minutes)))
    well = True
    for name, run in runs:
        print(f"\n{name}", flush=True)  # noqa: T201
        (folder / name).mkdir(parents=True)
        well = report(asyncio.run(run(folder / name, options.seed))) and well
    print(f"\n{'all held' if well else 'NOT ALL HELD'}; repeat it by --seed {options.seed}")  # noqa: T201
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
