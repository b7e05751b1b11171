"""Short runs of the real system under faults, by fixed seeds; the long one is
`make robustness`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.robustness import actions
from tests.robustness.actions import PROXY_ACTIONS, STOPS, Action
from tests.robustness.check import table
from tests.robustness.faults.shims import why_not
from tests.robustness.findings import Property
from tests.robustness.history import Committed, History, Received
from tests.robustness.scenario import Options, Scenario, judge, scenario

PAUSE_SECONDS_MIN = 0.2
PAUSE_SECONDS_MAX = 0.5
STORM_CLIENTS = 200
MISTAKEN_COMMITS = 150
"""Every 20th call is acknowledged and not made; of so many some change something."""
MISTAKEN_SECONDS_MAX = 60


async def _do(run: Scenario, *todo: Action) -> None:
    for action in todo:
        await action(run)
        await run.pause(PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX)


async def _held(
    folder: Path, options: Options, what: Callable[[Scenario], Awaitable[None]]
) -> tuple[Scenario, History]:
    """Run it; fails with what was found."""
    async with scenario(folder, options) as run:
        await what(run)
    history, findings = judge(run)
    found = [*run.problems, *map(str, findings.violations)]
    assert not found, (
        f"{len(found)} found, seed {options.seed}, history {folder / 'history.jsonl'}\n"
        + table(history, findings)
        + "\n\n"
        + "\n\n".join(found[:3])
    )
    assert findings.checked
    return run, history


def _transfers(history: History) -> Counter[str]:
    """Count of the transfers by intent, parts of split ones, and reasons."""
    counts: Counter[str] = Counter()
    for record in history:
        if isinstance(record, Received) and record.transfer is not None:
            start = record.transfer.start
            counts[start.intent if start else "part"] += 1
            counts["compacted"] += bool(start and "compacted" in start.reason)
            counts["epoch"] += bool(start and "epoch" in start.reason)
            counts["withheld"] += bool(record.transfer.withheld)
    return counts


async def test_the_server_is_killed_and_terminated(tmp_path: Path, transport: str) -> None:
    """Nothing acknowledged is lost, and every watch goes on where it was, with a node among them."""
    mixed = [actions.kill, actions.terminate, actions.kill, actions.kill, actions.terminate]
    _, history = await _held(
        tmp_path, Options(11, transport=transport, daemons=1), lambda run: _do(run, *mixed)
    )
    assert _transfers(history)["DELTA"] > 100


async def test_the_network_and_the_clients_fail(tmp_path: Path, transport: str) -> None:
    """Connections that stall, break or vanish, and clients that stand still, lose nothing."""
    several = [*PROXY_ACTIONS.values(), STOPS["pause near"], STOPS["pause server"]]
    await _held(tmp_path, Options(12, transport=transport), lambda run: _do(run, *several))


@pytest.mark.skipif(bool(why_not()), reason=why_not())
async def test_the_disk_and_the_clock_fail(tmp_path: Path, transport: str) -> None:
    """A full disk, I/O errors and a clock that jumps cost no acknowledged write."""
    several = [
        actions.disk_full,
        actions.clock_step,
        actions.disk_errors,
        actions.kill,
        actions.disk_errors,
        actions.clock_step,
        actions.terminate,
    ]
    await _held(tmp_path, Options(13, transport=transport, shims=True), lambda run: _do(run, *several))


async def test_history_is_trimmed_and_a_backup_is_restored(tmp_path: Path, transport: str) -> None:
    """Clients that were away for too long, and clients of another epoch, take everything anew; all
    of it in many small parts."""
    options = Options(14, transport=transport, snapshot_commits=10, history_entries_max=20, part_bytes=500)
    several = [actions.away, actions.restore, actions.reset, actions.kill]
    _, history = await _held(tmp_path, options, lambda run: _do(run, *several))
    counts = _transfers(history)
    assert min(counts["compacted"], counts["epoch"], counts["part"]) > 0, counts


async def test_many_clients_come_back_together(tmp_path: Path, transport: str) -> None:
    """A server that was killed brings all its clients in step again, whatever their number."""

    async def kill_under_a_crowd(run: Scenario) -> None:
        await actions.kill(run)
        await run.all_in_step("many")

    options = Options(15, transport=transport, writers=2, pause_seconds=0.3, crowd=STORM_CLIENTS)
    await _held(tmp_path, options, kill_under_a_crowd)


async def test_a_server_that_makes_mistakes_is_found_out(tmp_path: Path, transport: str) -> None:
    """Of a real server that now and then loses a commit, a message or the newest state, each is found."""
    options = Options(16, transport=transport, mistakes=True, settle_seconds_max=1.0)
    async with scenario(tmp_path, options) as run:
        for _ in range(MISTAKEN_SECONDS_MAX):
            await run.pause(1.0, 1.0)
            if sum(isinstance(record, Committed) for record in run.tap.records()) > MISTAKEN_COMMITS:
                break
    _, findings = judge(run)
    assert findings.violated >= {Property.DURABLE, Property.LINEARIZABLE, Property.TRUTHFUL}
