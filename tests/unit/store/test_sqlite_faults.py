"""What a SQLite log makes of kills, full disks, damage and second openers."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from control_plane.store import Commit, OutcomeUnknown, SqliteStore, StoreError
from control_plane.store.chain import BrokenChain, verify_chain
from control_plane.store.log import NO_HASH
from control_plane.store.sqlite_writer import QUEUED_COMMITS_MAX
from tests.contract.log_samples import ACME, OTHER, commit, fill, meta, put, revisions, snapshot

ROOT = Path(__file__).parents[3]
ACKNOWLEDGED_BEFORE_KILL = (1, 300, 1000)
ROUND_SECONDS_MAX = 30
PAGE_BYTES = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log is, in a folder that is not there yet."""
    return tmp_path / "new" / "log.db"


@contextlib.contextmanager
def files_of_at_most(size: int) -> Generator[None]:
    """Writes beyond so many bytes of a file fail, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def damage(path: Path) -> None:
    """Overwrite a page in the middle of the file."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // PAGE_BYTES * PAGE_BYTES
    content[middle : middle + PAGE_BYTES] = b"\xff" * PAGE_BYTES
    path.write_bytes(content)


def tamper(path: Path, statement: str, *values: object) -> None:
    """Change the file behind the store's back."""
    connection = sqlite3.connect(path)
    assert connection.execute(statement, values).rowcount == 1
    connection.commit()
    connection.close()


async def run_until(path: Path, name: str, lines: int) -> list[tuple[int, str]]:
    """Have another process commit, kill it after so many acknowledgements, and
    return all that it has got."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.unit.store.commit_until_killed", str(path), name),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    got = [await process.stdout.readline() for _ in range(lines)]
    process.kill()
    got += (await process.stdout.read()).splitlines(keepends=True)
    await process.wait()
    whole = [line.decode().split() for line in got if line.endswith(b"\n")]
    return [(int(revision), request_id) for revision, request_id in whole]


async def test_a_kill_loses_no_acknowledged_commit(path: Path) -> None:
    """After kill -9, again and again, each acknowledged entry and answer is
    there, and the chain holds."""
    acknowledged: list[tuple[int, str]] = []
    for number, lines in enumerate(ACKNOWLEDGED_BEFORE_KILL):
        async with asyncio.timeout(ROUND_SECONDS_MAX):
            got = await run_until(path, f"round{number}", lines)
        assert len(got) >= lines
        acknowledged += got
        store = await SqliteStore.open(path)
        entries = await store.changes(ACME, 0, 10_000)
        verify_chain(entries, 0, NO_HASH)
        kept = {entry.revision: entry.decode().request_id for entry in entries}
        assert [kept.get(revision) for revision, _ in acknowledged] == [name for _, name in acknowledged]
        assert await store.head(ACME) == len(entries)
        for revision, request_id in acknowledged[-50:]:
            answer = await store.answer(ACME, request_id, time.time())
            assert answer is not None
            assert answer.revision == revision
        await store.close()


async def test_a_write_that_fails_acknowledges_nothing(path: Path) -> None:
    """When the journal cannot be written all commits of the group fail; when
    it can again, the store works on, and nothing of them is there."""
    store = await SqliteStore.open(path)
    await fill(store, ACME, 3)
    journal = path.with_name(path.name + "-wal").stat().st_size
    with files_of_at_most(journal + 8192):
        pending = [store.commit(ACME, 3 + n, [put("x" * 3000)], meta(f"r{n}")) for n in range(50)]
        outcomes = await asyncio.gather(*pending, return_exceptions=True)
        assert await revisions(store, ACME) == [1, 2, 3]
    assert {type(outcome) for outcome in outcomes} <= {StoreError, OutcomeUnknown}
    assert await store.head(ACME) == 3
    assert await store.answer(ACME, "r0", meta().time) is None
    assert (await commit(store, ACME, 3, meta("r0"))).revision == 4
    await store.close()
    store = await SqliteStore.open(path)
    verify_chain(await store.changes(ACME, 0, 100), 0, NO_HASH)
    assert await revisions(store, ACME) == [1, 2, 3, 4]
    await store.close()


async def test_a_snapshot_that_cannot_be_written_leaves_the_older(path: Path) -> None:
    """A fault while a snapshot is saved is a StoreError, and the older stays."""
    store = await SqliteStore.open(path)
    await fill(store, ACME, 3)
    await store.save_snapshot(snapshot(ACME, 1, ["a"]))
    with files_of_at_most(path.with_name(path.name + "-wal").stat().st_size), pytest.raises(StoreError):
        await store.save_snapshot(snapshot(ACME, 3, ["x" * 100_000]))
    assert await store.snapshot(ACME) == snapshot(ACME, 1, ["a"])
    await store.save_snapshot(snapshot(ACME, 3, ["b"]))
    await store.close()


async def test_a_first_opening_that_fails_can_be_repeated(path: Path) -> None:
    """When the disk is full while the tables are made, nothing half made is
    left: the next opening succeeds."""
    for size in (4096, 12_288, 24_576, 40_960):
        with files_of_at_most(size), pytest.raises(StoreError):
            await SqliteStore.open(path)
    store = await SqliteStore.open(path)
    assert (await commit(store, ACME, 0)).revision == 1
    await store.close()


async def test_a_store_left_open_does_not_hold_its_process(path: Path) -> None:
    """A process that ends without closing its store ends, and lets go of the file."""
    text = "import asyncio, pathlib, sys; from control_plane.store import SqliteStore;"
    text += "store = asyncio.run(SqliteStore.open(pathlib.Path(sys.argv[1])))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", text, str(path), cwd=ROOT)
    try:
        assert await asyncio.wait_for(process.wait(), ROUND_SECONDS_MAX) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await (await SqliteStore.open(path)).close()


async def test_a_second_opener_is_refused(path: Path) -> None:
    """While a store has the file, another, of this process or of another, gets
    a clear error, and disturbs nothing; afterwards it gets the file."""
    store = await SqliteStore.open(path)
    with pytest.raises(StoreError, match="is in use by another process"):
        await SqliteStore.open(path)
    link = path.with_name("link.db")
    link.symlink_to(path)
    with pytest.raises(StoreError, match="is in use by another process"):
        await SqliteStore.open(link)
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.unit.store.commit_until_killed", str(path), "other"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(other.communicate(), ROUND_SECONDS_MAX)
    assert other.returncode == 1
    assert output == b""
    assert b"is in use by another process" in errors
    assert (await commit(store, ACME, 0)).revision == 1
    await store.close()
    again = await SqliteStore.open(path)
    assert await again.head(ACME) == 1
    await again.close()


async def test_damage_is_found_when_the_file_is_opened(path: Path) -> None:
    """A page that is not what SQLite wrote is an error at once, not later."""
    store = await SqliteStore.open(path)
    for tenant_id in (ACME, OTHER):
        await fill(store, tenant_id, 200)
    await store.close()
    damage(path)
    with pytest.raises(StoreError, match="cannot be opened"):
        await SqliteStore.open(path)


@pytest.mark.parametrize("content", [b"this is a text file, not a database\n" * 100, b"\x00" * 5000])
def test_another_kind_of_file_is_left_alone(path: Path, content: bytes) -> None:
    """What is no database is refused, and not written to."""
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be opened"):
        asyncio.run(SqliteStore.open(path))
    assert path.read_bytes() == content


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A path below a file is a StoreError that says which path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/log\.db cannot be opened"):
        await SqliteStore.open(tmp_path / "file" / "log.db")


async def test_a_log_of_a_newer_release_is_refused(path: Path) -> None:
    """Tables that this release does not know are not touched."""
    await (await SqliteStore.open(path)).close()
    tamper(path, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="9999"):
        await SqliteStore.open(path)


async def test_a_restored_backup_can_be_given_a_new_epoch(path: Path) -> None:
    """Without its epoch row a store takes a new epoch, and keeps its log."""
    store = await SqliteStore.open(path)
    await fill(store, ACME, 2)
    await store.close()
    tamper(path, "DELETE FROM meta WHERE name = 'epoch'")
    again = await SqliteStore.open(path)
    assert again.epoch != store.epoch
    assert await revisions(again, ACME) == [1, 2]
    await again.close()


async def test_a_row_that_was_tampered_with_breaks_the_chain(path: Path) -> None:
    """Who edits an entry in the file is found out by verify_chain."""
    store = await SqliteStore.open(path)
    await fill(store, ACME, 5)
    (entry,) = await store.changes(ACME, 2, 1)
    await store.close()
    forged = entry.decode()
    forged.principal = "mallory"
    tamper(path, "UPDATE entries SET entry = ? WHERE revision = 3", forged.SerializeToString())
    store = await SqliteStore.open(path)
    with pytest.raises(BrokenChain) as raised:
        verify_chain(await store.changes(ACME, 0, 10), 0, NO_HASH)
    assert raised.value.revision == 3
    await store.close()


async def test_a_queue_that_is_full_refuses(path: Path) -> None:
    """Beyond its bound the queue takes nothing more, and what it has lands."""
    store = await SqliteStore.open(path)
    pending = [store.commit(ACME, at, [put("a")], meta()) for at in range(QUEUED_COMMITS_MAX + 2)]
    outcomes = await asyncio.gather(*pending, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes[:-2]} == {Commit}
    assert [type(outcome) for outcome in outcomes[-2:]] == [StoreError] * 2
    assert (await commit(store, ACME, QUEUED_COMMITS_MAX)).revision == QUEUED_COMMITS_MAX + 1
    await store.close()
