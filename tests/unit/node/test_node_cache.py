"""The node's cache on disk."""

from __future__ import annotations

import asyncio
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_node.upstream import Cached, CacheWriter, DiskCache, Snapshot
from agent_node.upstream.cache import CorruptCache, decode, encode
from tests.unit.node.samples import snapshot
from tests.virtual_clock import VirtualClock

NOTHING = snapshot(1)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A tenant comes back as it was written, with the bundles that were held back."""
    cached = Cached(snapshot(5, a="new", b="other"), snapshot(5, since=3, a="old"))
    DiskCache(tmp_path).write(cached)
    assert DiskCache(tmp_path).load() == [cached]


def test_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    """Folder and files cannot be read by others."""
    folder = tmp_path / "cache"
    DiskCache(folder).write(Cached(snapshot(1, a="x"), NOTHING))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600]


@given(at=st.integers(min_value=0), flip=st.integers(1, 255))
def test_every_changed_byte_is_noticed(at: int, flip: int) -> None:
    """No byte of a file can change unnoticed."""
    data = bytearray(encode(Cached(snapshot(5, a="text"), NOTHING)))
    data[at % len(data)] ^= flip
    with pytest.raises(CorruptCache):
        decode(bytes(data))


@given(keep=st.floats(0, 1, exclude_max=True))
def test_every_cut_is_noticed(keep: float) -> None:
    """A file that was cut short is refused."""
    data = encode(Cached(snapshot(5, a="text"), NOTHING))
    with pytest.raises(CorruptCache):
        decode(data[: int(len(data) * keep)])


def test_a_corrupt_file_is_set_aside(tmp_path: Path) -> None:
    """One bad file costs its tenant alone, and is kept for people to look at."""
    cache = DiskCache(tmp_path)
    cache.write(Cached(snapshot(1, "acme", a="x"), snapshot(1, "acme")))
    cache.write(Cached(snapshot(1, "beta", a="y"), snapshot(1, "beta")))
    (tmp_path / "acme.cache").write_bytes(b"nonsense")
    assert [cached.snapshot.tenant_id for cached in cache.load()] == ["beta"]
    assert (tmp_path / "acme.bad").read_bytes() == b"nonsense"
    assert not (tmp_path / "acme.cache").exists()


def test_a_file_under_another_tenants_name_is_set_aside(tmp_path: Path) -> None:
    """A tenant's file serves that tenant only."""
    cache = DiskCache(tmp_path)
    cache.write(Cached(snapshot(1, "acme", a="x"), snapshot(1, "acme")))
    (tmp_path / "acme.cache").rename(tmp_path / "beta.cache")
    assert cache.load() == []


def test_a_write_that_was_cut_leaves_the_old_file(tmp_path: Path) -> None:
    """What a crash leaves of a new file does not hide the old one."""
    cache = DiskCache(tmp_path)
    cached = Cached(snapshot(1, a="x"), NOTHING)
    cache.write(cached)
    (tmp_path / "acme.new").write_bytes(b"half")
    assert cache.load() == [cached]


class FullDisk(DiskCache):
    """A disk that is full for the first writes."""

    def __init__(self, folder: Path, failures: int) -> None:
        super().__init__(folder)
        self.failures = failures

    def write(self, cached: Cached) -> None:
        """Write, or fail as a full disk does."""
        if self.failures:
            self.failures -= 1
            raise OSError(28, "No space left on device")
        super().write(cached)


async def test_a_full_disk_is_tried_again(tmp_path: Path) -> None:
    """A snapshot that could not be written is not called written, and is tried again."""
    clock = VirtualClock()
    written: asyncio.Queue[tuple[int, int]] = asyncio.Queue()

    def note(snapshot: Snapshot, serial: int) -> None:
        written.put_nowait((snapshot.revision.number, serial))

    writer = CacheWriter(FullDisk(tmp_path, 2), clock, held=lambda s: NOTHING, written=[note])
    running = asyncio.create_task(writer.run())
    writer.put(snapshot(1, a="x"), 1)
    for _ in range(2):
        await clock.until_sleeping()
        assert written.empty()
        await clock.advance(5.0)
    assert await written.get() == (1, 1)
    running.cancel()


async def test_a_write_that_failed_does_not_replace_a_newer_snapshot(tmp_path: Path) -> None:
    """What came while the disk refused the old snapshot is what is written then."""
    clock, entered, leave = VirtualClock(), threading.Event(), threading.Event()
    written: asyncio.Queue[int] = asyncio.Queue()

    class SlowlyFull(FullDisk):
        def write(self, cached: Cached) -> None:
            entered.set()
            leave.wait(10)
            super().write(cached)

    writer = CacheWriter(
        SlowlyFull(tmp_path, 1),
        clock,
        held=lambda s: NOTHING,
        written=[lambda s, serial: written.put_nowait(serial)],
    )
    running = asyncio.create_task(writer.run())
    writer.put(snapshot(1, a="x"), 1)
    await asyncio.to_thread(entered.wait, 10)
    writer.put(snapshot(2, a="y"), 2)
    leave.set()
    await clock.until_sleeping()
    await clock.advance(5.0)
    assert await asyncio.wait_for(written.get(), 10) == 2
    running.cancel()


async def test_only_the_newest_snapshot_of_a_tenant_is_written(tmp_path: Path) -> None:
    """Snapshots that come faster than the disk is are skipped, the last one is not."""
    written: asyncio.Queue[int] = asyncio.Queue()
    writer = CacheWriter(
        DiskCache(tmp_path),
        VirtualClock(),
        held=lambda s: NOTHING,
        written=[lambda s, serial: written.put_nowait(serial)],
    )
    for serial in range(1, 50):
        writer.put(snapshot(serial, a="x"), serial)
    running = asyncio.create_task(writer.run())
    assert await written.get() == 49
    assert written.empty()
    running.cancel()
    assert DiskCache(tmp_path).load()[0].snapshot.revision.number == 49
