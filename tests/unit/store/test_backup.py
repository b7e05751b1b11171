"""Backups of a log, put back by the command for it, and the check of a log."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from control_plane.store import SqliteStore, StoreError
from control_plane.store.backup import back_up, check, forget_epoch, restore
from tests.contract.log_samples import ACME, OTHER, commit, fill, revisions, snapshot
from tests.unit.store.test_restored_files import SIDES, commit_and_die, commits, contents, epoch_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log is."""
    return tmp_path / "data" / "log.db"


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Where the backup is."""
    return tmp_path / "backup.db"


def tamper(path: Path, *statements: str) -> None:
    """Change a log behind everyone's back."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def names(folder: Path) -> set[str]:
    """What is in a folder."""
    return {found.name for found in folder.iterdir()}


async def revisions_of(path: Path) -> list[int]:
    """The revisions that a store on the file has."""
    store = await SqliteStore.open(path)
    found = await revisions(store, ACME)
    await store.close()
    return found


async def test_a_backup_is_made_while_the_store_commits(path: Path, backup: Path) -> None:
    """The copy is the log at one moment, and sound; writers go on."""
    store = await SqliteStore.open(path)
    await fill(store, ACME, 300)
    copying = asyncio.create_task(asyncio.to_thread(back_up, path, backup))
    at = 300
    while not copying.done():
        at = (await commit(store, ACME, at)).revision
    report = await copying
    assert 300 <= report.findings.commits <= at
    assert (report.findings.problems, report.epoch, report.copy_of) == ((), "", store.epoch)
    assert (await commit(store, ACME, at)).revision == at + 1
    await store.close()
    assert await revisions_of(backup) == list(range(1, report.findings.commits + 1))


async def test_a_backup_has_another_epoch_wherever_it_is_put(path: Path, backup: Path) -> None:
    """Also where it holds the very commits of the log that it replaces."""
    before = await commits(path, 3)
    back_up(path, backup)
    shutil.copy(backup, path)
    after = await epoch_of(path)
    assert after != before
    assert await epoch_of(path) == after


def test_a_backup_replaces_nothing(path: Path, backup: Path) -> None:
    """A file that is there is not written to, and nothing is left beside it."""
    asyncio.run(commits(path, 3))
    backup.write_text("precious")
    with pytest.raises(StoreError, match="is there already"):
        back_up(path, backup)
    assert backup.read_text() == "precious"
    assert names(backup.parent) == {"data", "backup.db"}


async def test_a_damaged_log_makes_no_backup(path: Path, backup: Path) -> None:
    """What is copied is checked, and a copy with a fault is not kept."""
    await commits(path, 3)
    tamper(path, "UPDATE entries SET entry = x'00' WHERE revision = 2")
    with pytest.raises(StoreError, match="broken at revision 2"):
        back_up(path, backup)
    assert names(backup.parent) == {"data"}


async def test_a_backup_where_nothing_can_be_written(path: Path, tmp_path: Path) -> None:
    """A folder that is not there is a StoreError that names the file."""
    await commits(path, 3)
    with pytest.raises(StoreError, match=r"no/backup\.db cannot be written"):
        back_up(path, tmp_path / "no" / "backup.db")


async def test_a_backup_is_put_back(path: Path, backup: Path) -> None:
    """The log is as it was when it was copied, under a new epoch; the one that
    was there is kept, whole."""
    before = await commits(path, 3)
    back_up(path, backup)
    await commits(path, 7)
    report, aside = restore(backup, path)
    assert (report.findings.commits, report.copy_of) == (3, before)
    assert await revisions_of(path) == [1, 2, 3]
    assert await epoch_of(path) != before
    assert aside is not None
    assert await revisions_of(aside) == [1, 2, 3, 4, 5, 6, 7]
    assert check(backup).findings.problems == ()


async def test_the_log_of_a_killed_server_is_replaced(path: Path, backup: Path) -> None:
    """What was in its journal is kept with the log that it belongs to."""
    await commits(path, 3)
    back_up(path, backup)
    commit_and_die(path, 3, 4)
    _, aside = restore(backup, path)
    assert await revisions_of(path) == [1, 2, 3]
    assert aside is not None
    assert await revisions_of(aside) == list(range(1, 8))


async def test_a_restore_by_hand_that_went_wrong_is_put_right(path: Path, backup: Path) -> None:
    """Where a file lies beside a journal that is not its own, the command
    clears both away, unmixed."""
    await commits(path, 3)
    back_up(path, backup)
    commit_and_die(path, 3, 40)
    shutil.copy(backup, path)
    wrong = contents(path)
    with pytest.raises(StoreError):
        await SqliteStore.open(path)
    _, aside = restore(backup, path)
    assert await revisions_of(path) == [1, 2, 3]
    assert aside is not None
    assert contents(aside) == wrong


@pytest.mark.parametrize("side", ["", *SIDES])
async def test_a_backup_is_put_where_nothing_is(path: Path, backup: Path, side: str) -> None:
    """On a new machine; what is left of another log is cleared away."""
    before = await commits(path, 3)
    back_up(path, backup)
    shutil.rmtree(path.parent)
    if side:
        path.parent.mkdir()
        path.with_name(path.name + side).write_bytes(b"left")
    report, aside = restore(backup, path)
    assert (report.findings.commits, aside) == (3, None)
    assert await revisions_of(path) == [1, 2, 3]
    assert await epoch_of(path) != before


async def test_a_file_that_sqlite_copied_is_put_back(path: Path, backup: Path) -> None:
    """A copy that was made without the command will do."""
    before = await commits(path, 3)
    shutil.copy(path, backup)
    await commits(path, 5)
    restore(backup, path)
    assert await revisions_of(path) == [1, 2, 3]
    assert await epoch_of(path) != before


async def test_a_log_in_use_is_not_replaced(path: Path, backup: Path) -> None:
    """While a server has the log, restore and new-epoch are refused, and
    disturb nothing."""
    store = await SqliteStore.open(path)
    await fill(store, ACME, 3)
    back_up(path, backup)
    for change in (lambda: restore(backup, path), lambda: forget_epoch(path)):
        with pytest.raises(StoreError, match="is in use by another process"):
            change()
    assert (await commit(store, ACME, 3)).revision == 4
    await store.close()
    assert await epoch_of(path) == store.epoch


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (["UPDATE entries SET principal = 'x', hash = x'00' WHERE revision = 2"], "broken at revision 2"),
        (["UPDATE alembic_version SET version_num = '9999'"], "9999"),
        (["DROP TABLE entries"], "is not a log"),
    ],
)
async def test_what_is_no_sound_backup_is_not_put_back(
    path: Path, backup: Path, statements: list[str], reason: str
) -> None:
    """A backup that is damaged, of a newer release, or no log at all is
    refused; the log is as it was, epoch included."""
    before = await commits(path, 3)
    back_up(path, backup)
    tamper(backup, *statements)
    with pytest.raises(StoreError, match=reason):
        restore(backup, path)
    assert not any(".replaced" in name or ".part" in name for name in names(path.parent))
    assert await epoch_of(path) == before
    assert await revisions_of(path) == [1, 2, 3]


async def test_the_log_is_no_backup_of_itself(path: Path) -> None:
    """Restoring a log from itself is refused."""
    before = await commits(path, 3)
    with pytest.raises(StoreError, match="the log itself"):
        restore(path, path)
    assert await epoch_of(path) == before


async def test_a_new_epoch_by_command(path: Path) -> None:
    """The next start has another epoch, and all commits."""
    before = await commits(path, 3)
    forget_epoch(path)
    assert await epoch_of(path) != before
    assert await revisions_of(path) == [1, 2, 3]


async def test_a_sound_log_is_said_to_be(path: Path) -> None:
    """After a trim, with a snapshot, in use or not."""
    store = await SqliteStore.open(path)
    made = await fill(store, ACME, 9)
    await fill(store, OTHER, 2)
    saved = snapshot(ACME, 6)
    saved.hash = made[5].entry.hash
    await store.save_snapshot(saved)
    await store.trim(ACME, 4)
    for _ in range(2):
        report = check(path)
        assert (report.findings.problems, report.epoch) == ((), store.epoch)
        assert (report.findings.tenants, report.findings.commits, report.findings.entries) == (2, 11, 7)
        await store.close()


async def test_a_check_leaves_the_journal_of_a_killed_server(path: Path) -> None:
    """Who looks at a log changes nothing of what the next start will see."""
    before = await commits(path, 3)
    commit_and_die(path, 3, 2)
    found = contents(path)
    assert check(path).findings.commits == 5
    assert contents(path) == found
    assert await epoch_of(path) == before


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE entries SET entry = replace(entry, 'a3', 'zz') WHERE revision = 3", "broken at revision 3"),
        ("DELETE FROM entries WHERE revision = 2", "broken at revision 2"),
        ("DELETE FROM entries WHERE revision = 5", "the head says 5, the last entry is 4"),
        ("UPDATE heads SET hash = x'00'", "the head says 5"),
        ("UPDATE entries SET tenant_id = 'other' WHERE revision = 5", "entries and no head"),
        ("UPDATE heads SET floor = 2", "there is no snapshot"),
        ("INSERT INTO snapshots VALUES ('acme', 9, x'0A')", "the snapshot cannot be read"),
        ("INSERT INTO snapshots VALUES ('acme', 9, x'1009')", "outside of what is kept"),
        ("INSERT INTO snapshots VALUES ('acme', 3, x'1003')", "not of the entry of its revision"),
    ],
)
async def test_each_kind_of_damage_is_found(path: Path, statement: str, problem: str) -> None:
    """What was changed, taken away or moved in a log is named."""
    await commits(path, 5)
    tamper(path, statement)
    assert any(problem in found for found in check(path).findings.problems)


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    """A file that is not there, or is something else, is a StoreError."""
    text = tmp_path / "text.db"
    text.write_text("hello, this is not a database at all" * 100)
    for wrong in (tmp_path / "none.db", tmp_path, text):
        with pytest.raises(StoreError):
            check(wrong)
        with pytest.raises(StoreError):
            restore(wrong, tmp_path / "log.db")
    assert names(tmp_path) == {"text.db"}
