"""Backups that an operator puts back by hand, in any of the usual ways."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from control_plane.store import SqliteStore, StoreError
from tests.contract.log_samples import ACME, OTHER, commit, fill, meta, put, revisions

ROOT = Path(__file__).parents[3]
SIDES = ("-wal", "-shm")
OPENING_STEPS = 13
"""See die.py. The first opening has fewer; a process that has no more is killed
at the end."""
How = Callable[[Path, Path], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log is."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "log.db"


async def commits(path: Path, count: int) -> str:
    """Open, commit, close; the epoch."""
    store = await SqliteStore.open(path)
    for at in range(await store.head(ACME), count):
        await commit(store, ACME, at)
    await store.close()
    return store.epoch


async def epoch_of(path: Path) -> str:
    """The epoch that a start finds."""
    store = await SqliteStore.open(path)
    await store.close()
    return store.epoch


def contents(path: Path) -> tuple[bytes, bytes]:
    """Of the file and of its journal."""
    return path.read_bytes(), path.with_name(path.name + "-wal").read_bytes()


def copied(backup: Path, path: Path) -> None:
    """rm voxplane.db; cp backup voxplane.db."""
    path.unlink()
    shutil.copy(backup, path)


def copied_with_times(backup: Path, path: Path) -> None:
    """cp -a backup voxplane.db, as a file that takes the number of the former."""
    path.unlink()
    shutil.copy2(backup, path)


def overwritten(backup: Path, path: Path) -> None:
    """cp backup voxplane.db: the same inode."""
    inode = path.stat().st_ino
    shutil.copy2(backup, path)
    assert path.stat().st_ino == inode


def lost(path: Path) -> None:
    """rm voxplane.db."""
    path.unlink()


def moved(backup: Path, path: Path) -> None:
    """mv backup voxplane.db."""
    shutil.copy(backup, backup.with_name("again"))
    backup.with_name("again").replace(path)


def restored_by_sqlite(backup: Path, path: Path) -> None:
    """sqlite3 voxplane.db '.restore backup'."""
    with closing(sqlite3.connect(backup)) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)


def dumped(backup: Path, path: Path) -> None:
    """sqlite3 backup .dump | sqlite3 voxplane.db."""
    path.unlink()
    with closing(sqlite3.connect(backup)) as source, closing(sqlite3.connect(path)) as target:
        target.executescript("\n".join(source.iterdump()))


WAYS = [copied, copied_with_times, overwritten, moved, restored_by_sqlite, dumped]


@pytest.mark.parametrize("way", WAYS)
async def test_an_older_backup_has_a_new_epoch(path: Path, tmp_path: Path, way: How) -> None:
    """However a file from before the last commits was put back, the store has
    another epoch, and keeps it from then on."""
    before = await commits(path, 3)
    shutil.copy2(path, tmp_path / "backup")
    assert await commits(path, 5) == before
    way(tmp_path / "backup", path)
    after = await epoch_of(path)
    assert after != before
    assert await epoch_of(path) == after
    assert await commits(path, 4) == after


@pytest.mark.parametrize("way", WAYS)
async def test_an_older_backup_over_a_killed_server(path: Path, tmp_path: Path, way: How) -> None:
    """The same after kill -9, when the operator has cleared the journal away."""
    before = await commits(path, 3)
    shutil.copy2(path, tmp_path / "backup")
    commit_and_die(path, 3, 2)
    if way is not restored_by_sqlite:
        for side in SIDES:
            path.with_name(path.name + side).unlink()
    way(tmp_path / "backup", path)
    store = await SqliteStore.open(path)
    assert store.epoch != before
    assert await revisions(store, ACME) == [1, 2, 3]
    await store.close()


@pytest.mark.parametrize("way", [copied, copied_with_times, overwritten, moved])
async def test_a_journal_that_was_left_is_not_mixed_in(path: Path, tmp_path: Path, way: How) -> None:
    """A backup that is put back beside the journal of a killed server is
    refused, untouched, with the remedy; with the journal gone it opens."""
    before = await commits(path, 3)
    shutil.copy2(path, tmp_path / "backup")
    commit_and_die(path, 3, 40)
    way(tmp_path / "backup", path)
    found = contents(path)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"delete log\.db-wal"):
            await SqliteStore.open(path)
    assert contents(path) == found
    for side in SIDES:
        path.with_name(path.name + side).unlink(missing_ok=True)
    store = await SqliteStore.open(path)
    assert store.epoch != before
    assert await revisions(store, ACME) == [1, 2, 3]
    await store.close()


async def test_a_backup_of_the_same_run_is_not_mixed_with_its_journal(path: Path, tmp_path: Path) -> None:
    """A copy that was taken while the server ran, some generations before the
    kill, is told from the file that the journal follows."""
    store = await SqliteStore.open(path)
    await fill(store, ACME, 5)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(tmp_path / "backup")) as target:
        source.backup(target)
    await store.close()
    commit_and_die(path, 5, 40, backup=tmp_path / "in-run", generations=2)
    overwritten(tmp_path / "in-run", path)
    with pytest.raises(StoreError, match="generation"):
        await SqliteStore.open(path)


async def test_a_pair_of_file_and_journal_is_a_restore(path: Path, tmp_path: Path) -> None:
    """A file that is put back together with the journal it was copied with has
    all that the pair holds, and a new epoch."""
    before = await commits(path, 3)
    commit_and_die(path, 3, 4)
    for side in ("", "-wal"):
        shutil.copy2(f"{path}{side}", tmp_path / f"backup{side}")
    assert await commits(path, 12) == before
    for side in ("", "-wal"):
        shutil.copy2(tmp_path / f"backup{side}", f"{path}{side}")
    store = await SqliteStore.open(path)
    assert store.epoch != before
    assert await revisions(store, ACME) == list(range(1, 8))
    await store.close()


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
async def test_a_whole_folder_that_is_put_back(
    path: Path, tmp_path: Path, in_place: bool, killed: bool
) -> None:
    """A copy of the whole folder, mark included, has a new epoch, also when it
    is written over the files of the present one."""
    before = await commits(path, 3)
    if killed:
        commit_and_die(path, 3, 1)
    shutil.copytree(path.parent, tmp_path / "backup")
    assert await commits(path, 9) == before
    if not in_place:
        shutil.rmtree(path.parent)
    shutil.copytree(tmp_path / "backup", path.parent, dirs_exist_ok=True)
    store = await SqliteStore.open(path)
    assert store.epoch != before
    assert await store.head(ACME) == (4 if killed else 3)
    await store.close()


async def test_a_folder_on_another_disk_has_a_new_epoch(path: Path, tmp_path: Path) -> None:
    """A copied folder cannot be told from a restored one, and is taken for it."""
    before = await commits(path, 3)
    shutil.copytree(path.parent, tmp_path / "elsewhere")
    assert await epoch_of(tmp_path / "elsewhere" / path.name) != before
    assert await epoch_of(path) == before


async def test_a_folder_that_is_moved_keeps_its_epoch(path: Path, tmp_path: Path) -> None:
    """mv on one file system, another owner or mode, a look with sqlite3 after a
    close: none of them is a restore."""
    before = await commits(path, 3)
    path.parent.rename(tmp_path / "moved")
    there = tmp_path / "moved" / path.name
    assert await epoch_of(there) == before
    os.chown(there, os.getuid(), os.getgid())
    there.chmod(0o600)
    os.utime(there)
    with closing(sqlite3.connect(there)) as looking:
        assert looking.execute("SELECT count(*) FROM entries").fetchone() == (3,)
    assert await epoch_of(there) == before


async def test_the_same_content_goes_on(path: Path, tmp_path: Path) -> None:
    """A file that holds exactly what was committed last is no step back,
    however it came there."""
    before = await commits(path, 3)
    shutil.copy(path, tmp_path / "backup")
    copied(tmp_path / "backup", path)
    assert await epoch_of(path) == before


async def test_kills_keep_the_epoch(path: Path) -> None:
    """A process that is killed, in the middle of commits, is followed by one
    of the same epoch, with all commits."""
    before = await commits(path, 2)
    for turn in range(4):
        commit_and_die(path, 2 + 3 * turn, 3, generations=turn % 3)
    store = await SqliteStore.open(path)
    assert (store.epoch, await store.head(ACME)) == (before, 14)
    await store.close()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"self": 1}', "\x00" * 300])
async def test_a_mark_that_is_damaged_is_as_good_as_none(path: Path, text: str) -> None:
    """A mark that says nothing proves nothing: a new epoch, no failure."""
    before = await commits(path, 2)
    path.with_name(path.name + ".mark").write_text(text)
    assert await epoch_of(path) != before


async def test_a_journal_without_its_file_is_refused(path: Path) -> None:
    """A database that was deleted under its journal is not begun anew over it."""
    await commits(path, 2)
    commit_and_die(path, 2, 2)
    lost(path)
    with pytest.raises(StoreError, match="without its file"):
        await SqliteStore.open(path)


async def test_a_store_of_an_earlier_release_is_taken_for_restored(path: Path) -> None:
    """Before there were marks nobody can know: it gets a new epoch once."""
    before = await commits(path, 2)
    path.with_name(path.name + ".mark").unlink()
    with closing(sqlite3.connect(path)) as older:
        older.execute("DELETE FROM meta WHERE name = 'generation'")
        older.commit()
    after = await epoch_of(path)
    assert after != before
    assert await epoch_of(path) == after


async def test_kills_while_it_opens_are_no_restore(path: Path) -> None:
    """Whichever step of an opening is the last before a kill, the next opening
    finds all commits and the epoch."""
    before = await commits(path, 2)
    commit_and_die(path, 2, 2)
    for step in range(3, OPENING_STEPS):
        open_and_die(path, step)
    store = await SqliteStore.open(path)
    assert (store.epoch, await store.head(ACME)) == (before, 4)
    assert (await store.commit(OTHER, 0, [put("a")], meta())).revision == 1
    await store.close()


async def test_kills_of_the_first_opening_can_be_repeated(path: Path) -> None:
    """Nothing that is half made keeps the next opening from making it."""
    for step in range(OPENING_STEPS - 3):
        open_and_die(path, step)
    store = await SqliteStore.open(path)
    assert (await commit(store, ACME, 0)).revision == 1
    await store.close()
    assert await epoch_of(path) == store.epoch


def commit_and_die(
    path: Path, at: int, count: int, *, backup: Path | None = None, generations: int = 0
) -> None:
    """A process that commits, and is then killed. It begins so many generations
    of the journal after half of the commits, and copies the file before them."""
    _run("commits", path, at, count, backup or "-", generations)


def open_and_die(path: Path, step: int) -> None:
    """A process that opens the log, and is killed before a step of it."""
    _run("opens", path, step)


def _run(*arguments: object) -> None:
    command = [sys.executable, "-m", "tests.unit.store.die", *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, timeout=60, check=False)
    assert ended.returncode == -9
