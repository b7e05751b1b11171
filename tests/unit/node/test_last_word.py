"""How old configs are after a restart."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_node.upstream import DiskCache, Freshness, WordKeeper, boot_id
from agent_node.upstream.freshness import NEVER
from agent_node.upstream.last_word import RECORD_FILE, RECORD_SECONDS, decode, encode
from tests.virtual_clock import VirtualClock
from voxplane.clock import Clock
from voxplane.names import TenantId

ACME, BETA = TenantId("acme"), TenantId("beta")
SECONDS_MAX = 10


@dataclass
class Clocks:
    """Both clocks of a machine, as the test sets them."""

    wall: float
    mono: float

    def time(self) -> float:
        """Seconds since 1970."""
        return self.wall

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return self.mono

    async def sleep(self, seconds: float) -> None:
        """Not used."""


def age_after(before: Clock, boot_before: str, now: Clock, boot_now: str) -> float:
    """The age that a record of a tenant which was level has on the later clocks."""
    words = decode(encode({ACME: before.monotonic()}, before, boot_before), now, boot_now)
    return now.monotonic() - words.get(ACME, NEVER)


@given(
    passed=st.floats(0, 1e7),
    step=st.floats(-1e9, 1e9),
)
def test_a_restart_of_the_node_ages_by_the_monotonic_clock(passed: float, step: float) -> None:
    """While the machine runs, no step of the wall clock makes configs younger or older."""
    age = age_after(Clocks(1e9, 500.0), "b1", Clocks(1e9 + passed + step, 500.0 + passed), "b1")
    assert age == pytest.approx(passed, abs=1e-2)


@given(passed=st.floats(0, 1e7))
def test_a_reboot_ages_by_the_wall_clock(passed: float) -> None:
    """After a reboot the monotonic clock starts again, and the wall's difference counts."""
    age = age_after(Clocks(1e9, 9e5), "b1", Clocks(1e9 + passed, 30.0), "b2")
    assert age == pytest.approx(passed, abs=1e-2)


def test_a_wall_clock_that_went_back_over_a_reboot_knows_nothing() -> None:
    """A machine that wakes up in the past cannot say how old its configs are: older than anything."""
    assert age_after(Clocks(1e9, 9e5), "b1", Clocks(1e9 - 3600, 30.0), "b2") == math.inf
    assert age_after(Clocks(1e9, 9e5), "b1", Clocks(1e9 - 1, 30.0), "b2") == 0.0


def test_without_a_boot_id_the_wall_clock_counts() -> None:
    """Two unnamed boots are not the same one."""
    assert age_after(Clocks(1e9, 500.0), "", Clocks(1e9 + 100, 510.0), "") == pytest.approx(100.0)


def test_an_unknown_word_stays_unknown() -> None:
    """What was not known before a restart is not known after it; nor is a tenant without a record."""
    words = decode(encode({ACME: NEVER, BETA: 0.0}, Clocks(1e9, 10.0), "b"), Clocks(1e9, 20.0), "b")
    assert words == {BETA: 0.0}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"boot_id": "b", "monotonic": "x", "wall": 1, "ages": {}}',
        b'{"boot_id": "b", "monotonic": 1, "wall": 1, "ages": [1]}',
        b'{"boot_id": "b", "monotonic": NaN, "wall": NaN, "ages": {"acme": 1}}',
        b'{"boot_id": "b", "monotonic": 1, "wall": 1, "ages": {"acme": NaN}}',
        b'{"boot_id": "b", "monotonic": 1, "wall": 1, "ages": {"acme": -Infinity}}',
        b"[" * 100_000,
    ],
)
def test_a_broken_record_makes_nothing_young(tmp_path: Path, data: bytes) -> None:
    """A record that cannot be read is none."""
    cache = DiskCache(tmp_path)
    (tmp_path / RECORD_FILE).write_bytes(data)
    assert WordKeeper(cache, Clocks(1e9, 100.0), "b").load() == {}


def test_an_age_from_the_future_is_no_age(tmp_path: Path) -> None:
    """No record makes a config younger than new."""
    words = decode(
        b'{"boot_id": "b", "monotonic": 1, "wall": 1, "ages": {"acme": -50}}', Clocks(1e9, 1.0), "b"
    )
    assert words == {ACME: 1.0}


async def test_the_record_is_kept_while_the_node_lives(tmp_path: Path) -> None:
    """Soon after the first word, then in turns, and once more at the end; it is never younger than
    the truth, and older by a turn at the most."""
    cache, clock = DiskCache(tmp_path), VirtualClock()
    freshness = Freshness(0.0, {})
    running = asyncio.create_task(WordKeeper(cache, clock, "b").run(freshness))
    await clock.advance(0.5)
    freshness.hear(clock.monotonic())
    freshness.level(ACME)
    async with asyncio.timeout(SECONDS_MAX):
        while not (tmp_path / RECORD_FILE).exists():
            await clock.until_sleeping()
            await clock.advance(1.0)
    for _ in range(20):
        await asyncio.wait_for(clock.until_sleeping(), SECONDS_MAX)
        await clock.advance(4.0)
        freshness.hear(clock.monotonic())
        recorded = WordKeeper(cache, clock, "b").load()[ACME]
        assert clock.monotonic() - RECORD_SECONDS - 5 <= recorded <= clock.monotonic()
    running.cancel()
    await asyncio.wait([running])
    assert WordKeeper(cache, clock, "b").load()[ACME] == clock.monotonic()


def test_the_boot_is_named() -> None:
    """On this machine the boot has an id, the same each time."""
    assert boot_id() == boot_id()
