"""A cache folder to which things happen."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import agent_node.upstream.cache as cache_module
from agent_node.upstream import Cached, CacheWriter, DiskCache
from agent_node.upstream.cache import FORMAT, CorruptCache, decode, encode
from tests.unit.node.samples import snapshot
from tests.virtual_clock import VirtualClock
from voxplane.names import TenantId

GOOD = Cached(snapshot(3, a="x"), snapshot(3))
BETA = Cached(snapshot(1, "beta", a="x"), snapshot(1, "beta"))
SECONDS_MAX = 10


@contextmanager
def file_bytes_max(size: int) -> Iterator[None]:
    """No file of this process may grow beyond it: writes fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 4096,
        encode(GOOD)[:-1],
        encode(GOOD) + b"more",
        FORMAT + b"2\n" + encode(GOOD)[len(FORMAT) + 2 :],
        os.urandom(1000),
    ],
)
def test_a_file_that_was_not_written_so_costs_its_tenant_alone(tmp_path: Path, data: bytes) -> None:
    """Empty, zeroed, cut, longer, of another format or random: the file is set aside, others are read."""
    cache = DiskCache(tmp_path)
    cache.write(BETA)
    (tmp_path / "acme.cache").write_bytes(data)
    assert cache.load() == [BETA]
    assert (tmp_path / "acme.bad").read_bytes() == data


def test_a_future_format_is_named() -> None:
    """The log says that the file is of a newer node, not that it is broken."""
    with pytest.raises(CorruptCache, match="format 2 is not one that this version"):
        decode(FORMAT + b"2\nwhatever")


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beyond what a tenant can have costs no memory."""
    cache = DiskCache(tmp_path)
    cache.write(BETA)
    with (tmp_path / "acme.cache").open("wb") as file:
        file.truncate(1 << 40)
    assert cache.load() == [BETA]
    assert not (tmp_path / "acme.cache").exists()


def test_what_is_no_file_does_not_hang_the_start(tmp_path: Path) -> None:
    """A FIFO, a folder and a link into nothing are passed over."""
    cache = DiskCache(tmp_path)
    cache.write(BETA)
    os.mkfifo(tmp_path / "fifo.cache")
    (tmp_path / "folder.cache").mkdir()
    (tmp_path / "link.cache").symlink_to(tmp_path / "nowhere")
    assert cache.load() == [BETA]


def test_a_file_of_two_tenants_is_refused() -> None:
    """The bundles that are held back are of the same tenant."""
    with pytest.raises(CorruptCache, match="two tenants"):
        decode(encode(Cached(snapshot(1, "acme", a="x"), snapshot(1, "beta", a="x"))))


def test_a_disk_that_cannot_be_read_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An I/O error is not taken for a bad file: the file stays for the next start."""
    cache = DiskCache(tmp_path)
    cache.write(GOOD)

    def fail(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "_read", fail)
        assert cache.load() == []
    assert cache.load() == [GOOD]


def test_a_write_that_does_not_fit_leaves_the_old_file_and_no_half(tmp_path: Path) -> None:
    """On a full disk the old file stays whole, and what was begun is taken away again."""
    cache = DiskCache(tmp_path)
    cache.write(GOOD)
    large = Cached(snapshot(4, **{f"a{n}": f"text {n}" for n in range(500)}), snapshot(4))
    with file_bytes_max(10_000), pytest.raises(OSError, match="File too large"):
        cache.write(large)
    assert [path.name for path in tmp_path.iterdir()] == ["acme.cache"]
    assert cache.load() == [GOOD]
    cache.write(large)
    assert cache.load() == [large]


def test_a_folder_that_vanished_is_made_again(tmp_path: Path) -> None:
    """A cache whose folder somebody has deleted goes on, in a new one for the owner alone."""
    folder = tmp_path / "cache"
    cache = DiskCache(folder)
    cache.write(GOOD)
    shutil.rmtree(folder)
    cache.remove(TenantId("acme"))
    cache.write(BETA)
    assert cache.load() == [BETA]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    """What somebody has put in the place of the new file is not followed to another file."""
    cache, victim = DiskCache(tmp_path / "cache"), tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "cache" / "acme.cache.new").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        cache.write(GOOD)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("tenant", ["../evil", "", "a/b", ".."])
def test_a_tenant_that_is_no_id_names_no_file(tmp_path: Path, tenant: str) -> None:
    """Not even by mistake is anything written or deleted outside of the folder."""
    cache = DiskCache(tmp_path / "cache")
    with pytest.raises(ValueError, match="no file"):
        cache.remove(TenantId(tenant))
    with pytest.raises(ValueError, match="no file"):
        cache.write(Cached(snapshot(1, tenant), snapshot(1, tenant)))


async def test_a_broken_disk_keeps_nobody_waiting_for_ever(tmp_path: Path) -> None:
    """Writes and removals that fail are tried again in order, and the newest wins; failures are counted."""
    folder, clock = tmp_path / "cache", VirtualClock()
    told: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    cache = DiskCache(folder)
    writer = CacheWriter(
        cache,
        clock,
        held=lambda s: snapshot(s.revision.number, s.tenant_id),
        written=[lambda s, serial: told.put_nowait(("written", serial))],
        removed=[lambda tenant_id, serial: told.put_nowait(("removed", serial))],
    )
    shutil.rmtree(folder)
    folder.write_text("a file in the folder's place")
    running = asyncio.create_task(writer.run())
    writer.put(snapshot(1, a="x"), 1)
    await asyncio.wait_for(clock.until_sleeping(), SECONDS_MAX)
    writer.put(snapshot(2, a="y"), 2)
    writer.remove(TenantId("acme"), 3)
    await clock.advance(5.0)
    await asyncio.wait_for(clock.until_sleeping(), SECONDS_MAX)
    assert told.empty()
    assert writer.failures == 2
    folder.unlink()
    await clock.advance(5.0)
    assert await asyncio.wait_for(told.get(), SECONDS_MAX) == ("removed", 3)
    writer.put(snapshot(1, "beta", a="x"), 4)
    assert await asyncio.wait_for(told.get(), SECONDS_MAX) == ("written", 4)
    assert [cached.snapshot.tenant_id for cached in cache.load()] == ["beta"]
    running.cancel()
    await asyncio.wait([running])
