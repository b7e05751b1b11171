"""The shims do to a process's disk and clock what they say, and nothing else."""

from __future__ import annotations

import ast
import asyncio
import errno
import os
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.robustness.faults import shims, small_disk
from tests.robustness.faults.clock import DAY, HOUR, ClockSteps
from tests.robustness.faults.disk import Call, DiskFaults
from tests.robustness.faults.serving import stopped
from tests.robustness.faults.shims import preload

SOON_SECONDS = 10.0
SILENCE_SECONDS = 0.15
PAGE = 4096
DISK_BYTES = 1024 * 1024

CHILD = """
import os, sys, threading, time
def put(path, data, at=0):
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        return os.pwrite(file, data, at)
    finally:
        os.close(file)
def sync(path):
    file = os.open(path, os.O_RDWR)
    try:
        os.fdatasync(file)
    finally:
        os.close(file)
def get(path):
    file = os.open(path, os.O_RDONLY)
    try:
        return os.pread(file, 100_000, 0)
    finally:
        os.close(file)
for line in sys.stdin:
    try:
        answer = eval(line)
    except OSError as error:
        answer = -error.errno
    print(repr(answer), flush=True)
"""

pytestmark = pytest.mark.skipif(bool(shims.why_not()), reason=shims.why_not())


class Child:
    """A process that says what an expression comes to; an OSError comes to
    its negative number."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def __call__(self, expression: str) -> Any:
        """Ask, and wait for the answer."""
        self.tell(expression)
        return await self.answer()

    def tell(self, expression: str) -> None:
        """Ask, without waiting."""
        assert self.process.stdin is not None
        self.process.stdin.write(expression.encode() + b"\n")

    async def answer(self) -> Any:
        """The answer to the oldest question."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), SOON_SECONDS)
        return ast.literal_eval(line.decode()) if line else None


@asynccontextmanager
async def child(environment: dict[str, str], *prefix: str) -> AsyncGenerator[Child]:
    """A process with an environment."""
    process = await asyncio.create_subprocess_exec(
        *(*prefix, sys.executable, "-S", "-E", "-c", CHILD),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        yield Child(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the faults concern."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def disk(folder: Path, tmp_path: Path) -> Iterator[DiskFaults]:
    """A disk without memory."""
    made = DiskFaults(folder, tmp_path / "disk")
    yield made
    made.close()


@pytest.fixture
def cached(folder: Path, tmp_path: Path) -> Iterator[DiskFaults]:
    """A disk with a cache."""
    made = DiskFaults(folder, tmp_path / "disk", remembers=True)
    yield made
    made.close()


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[ClockSteps]:
    """A clock that is right."""
    made = ClockSteps(tmp_path / "clock")
    yield made
    made.close()


async def test_calls_fail_when_and_as_often_as_told(disk: DiskFaults, folder: Path) -> None:
    """A fault begins after so many calls, ends after so many, has its errno,
    and leaves nothing of what was written."""
    path = str(folder / "a")
    async with child(disk.environment) as ask:
        disk.fail(Call.WRITE, error=errno.ENOSPC, after=1, times=2)
        assert await ask(f"put({path!r}, b'one')") == 3
        for _ in range(2):
            assert await ask(f"put({path!r}, b'two')") == -errno.ENOSPC
        assert await ask(f"get({path!r})") == b"one"
        assert await ask(f"put({path!r}, b'three')") == 5
        assert (disk.met(Call.WRITE), disk.faults(Call.WRITE)) == (4, 2)
        disk.fail(Call.SYNC)
        assert await ask(f"sync({path!r})") == -errno.EIO
        assert await ask(f"put({path!r}, b'four!')") == 5
        disk.heal()
        assert await ask(f"sync({path!r})") is None
        disk.fail(Call.READ)
        assert await ask(f"get({path!r})") == -errno.EIO


async def test_writes_are_cut_short(disk: DiskFaults, folder: Path) -> None:
    """A short write takes half, and says so."""
    path = str(folder / "a")
    async with child(disk.environment) as ask:
        disk.shorten(times=1)
        assert await ask(f"put({path!r}, b'12345678')") == 4
        assert await ask(f"get({path!r})") == b"1234"


async def test_other_files_have_no_fault(disk: DiskFaults, folder: Path, tmp_path: Path) -> None:
    """Faults are below the folder alone, and there in the named files alone."""
    inside, beside = str(folder / "log-wal"), str(tmp_path / "log-wal")
    async with child(disk.environment) as ask:
        disk.fail(Call.WRITE)
        assert await ask(f"put({beside!r}, b'x')") == 1
        disk.only("-shm")
        assert await ask(f"put({inside!r}, b'x')") == 1
        disk.only("-wal")
        assert await ask(f"put({inside!r}, b'x')") == -errno.EIO


async def test_a_disk_that_hangs_goes_on(disk: DiskFaults, folder: Path) -> None:
    """A call that hangs ends well when the fault is over, and not before."""
    path = str(folder / "a")
    async with child(disk.environment) as ask:
        disk.hang(Call.WRITE)
        ask.tell(f"put({path!r}, b'late')")
        answer = asyncio.create_task(ask.answer())
        await asyncio.sleep(SILENCE_SECONDS)
        assert not answer.done()
        disk.heal()
        assert await answer == 4


async def test_power_off_loses_what_was_not_synced(cached: DiskFaults, folder: Path) -> None:
    """After a loss of power the file is as it was at its last sync."""
    path = folder / "a"
    async with child(cached.environment) as ask:
        await ask(f"put({str(path)!r}, b'a' * {3 * PAGE})")
        await ask(f"sync({str(path)!r})")
        await ask(f"put({str(path)!r}, b'b' * 10, {PAGE + 5})")
        await ask(f"put({str(path)!r}, b'c' * 10, {3 * PAGE})")
        assert (await ask(f"get({str(path)!r})"))[PAGE + 5 : PAGE + 15] == b"b" * 10
        await cached.power_off()
        assert await asyncio.wait_for(ask.process.wait(), SOON_SECONDS) == -9
    assert path.read_bytes() == b"a" * 3 * PAGE + bytes(10)


async def test_a_failed_sync_is_not_made_good_by_the_next(cached: DiskFaults, folder: Path) -> None:
    """After a sync that failed the next one succeeds, and yet the pages are in
    the cache alone; only what is written again is written."""
    path = str(folder / "a")
    async with child(cached.environment) as ask:
        await ask(f"put({path!r}, b'old ' * {2 * PAGE // 4})")
        await ask(f"sync({path!r})")
        await ask(f"put({path!r}, b'new1')")
        await ask(f"put({path!r}, b'new2', {PAGE})")
        cached.fail(Call.SYNC, times=1)
        assert await ask(f"sync({path!r})") == -errno.EIO
        assert await ask(f"put({path!r}, b'NEW2', {PAGE})") == 4
        assert await ask(f"sync({path!r})") is None
        assert (await ask(f"get({path!r})"))[:4] == b"new1"
        await cached.forget()
        found = await ask(f"get({path!r})")
        assert (found[:4], found[PAGE : PAGE + 4]) == (b"old ", b"NEW2")


async def test_a_file_that_was_cut_stays_cut(cached: DiskFaults, folder: Path) -> None:
    """What the cache gives back does not make a file longer again."""
    path = folder / "a"
    async with child(cached.environment) as ask:
        await ask(f"put({str(path)!r}, b'a' * {2 * PAGE})")
        await ask(f"sync({str(path)!r})")
        await ask(f"put({str(path)!r}, b'b' * {2 * PAGE})")
        await ask(f"os.truncate({str(path)!r}, 100)")
        await cached.power_off()
        await asyncio.wait_for(ask.process.wait(), SOON_SECONDS)
    assert path.read_bytes() == b"a" * 100


@pytest.mark.parametrize("step", [HOUR, -HOUR, DAY, -DAY])
async def test_the_wall_clock_steps_alone(clock: ClockSteps, step: float) -> None:
    """The wall clock jumps while the process runs, and back; the monotonic one
    does not."""
    async with child(clock.environment) as ask:
        assert abs(await ask("time.time()") - time.time()) < 5
        clock.set(step)
        assert abs(await ask("time.time()") - time.time() - step) < 5
        assert abs(await ask("time.time_ns() / 1e9") - time.time() - step) < 5
        assert abs(await ask("time.monotonic()") - time.monotonic()) < 5
        clock.set(0)
        assert abs(await ask("time.time()") - time.time()) < 5


async def test_a_wait_by_the_wall_clock_feels_the_step(clock: ClockSteps) -> None:
    """Who waits until a time of the wall clock is through when that has come,
    by whatever clock there is."""
    wait = (
        "(lambda c: c.CDLL(None).sem_timedwait((c.c_char * 64)(),"
        " (c.c_long * 2)(int(time.time()) + 1000, 0)))(__import__('ctypes'))"
    )
    async with child(clock.environment) as ask:
        ask.tell(wait)
        answer = asyncio.create_task(ask.answer())
        await asyncio.sleep(SILENCE_SECONDS)
        assert not answer.done()
        clock.set(HOUR)
        assert await answer == -1
        assert clock.waits == 1


async def test_two_shims_go_together(disk: DiskFaults, clock: ClockSteps, folder: Path) -> None:
    """A process may have faults of both kinds."""
    path = str(folder / "a")
    async with child(preload(disk.environment, clock.environment)) as ask:
        disk.fail(Call.WRITE)
        clock.set(DAY)
        assert await ask(f"put({path!r}, b'x')") == -errno.EIO
        assert await ask("time.time()") > time.time() + DAY / 2


async def test_a_stopped_process_stands_still() -> None:
    """Between SIGSTOP and SIGCONT a process does nothing; then it goes on."""
    async with child({}) as ask:
        with stopped(ask.process.pid):
            ask.tell("1")
            answer = asyncio.create_task(ask.answer())
            await asyncio.sleep(SILENCE_SECONDS)
            assert not answer.done()
        assert await answer == 1


async def test_a_small_disk_is_full_and_free_again(folder: Path) -> None:
    """A process in it has no space when it is full, and has when it is free;
    others see nothing of it, and what was written outlives the process."""
    if small_disk.why_not():
        pytest.skip(small_disk.why_not())
    path = str(folder / "a")
    async with small_disk.small_disk(folder, DISK_BYTES) as disk:
        async with child({}, *disk.prefix) as ask:
            disk.fill()
            assert await ask(f"put({path!r}, b'x')") == -errno.ENOSPC
            disk.free()
            assert await ask(f"put({path!r}, b'x')") == 1
        async with child({}, *disk.prefix) as ask:
            assert await ask(f"get({path!r})") == b"x"
        assert not os.listdir(folder)
