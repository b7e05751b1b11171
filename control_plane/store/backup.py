"""Backups of a SQLite log: made while it is in use, and put back.

A backup has no epoch: whichever way it is put back, the store that opens it
makes one.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from control_plane.store.audit import Findings, audit
from control_plane.store.lineage import judge
from control_plane.store.log import StoreError
from control_plane.store.mark import read_mark, remove_mark, sync_folder
from control_plane.store.sqlite_file import fact, look, migrate, reading, take

PART = ".part"
SIDES = ("-wal", "-shm", "-journal")
_FORGET = (
    "DELETE FROM meta WHERE name IN ('epoch', 'turn')",
    "INSERT OR REPLACE INTO meta (name, value) VALUES ('generation', 'copy')",
)


@dataclass(frozen=True, slots=True)
class Report:
    """A log that was gone over. `epoch` is "" for a backup, and `copy_of` and
    `copied` (seconds since 1970) say what it is one of; sizes in bytes."""

    path: Path
    findings: Findings
    epoch: str
    copy_of: str
    copied: float
    size: int
    journal_size: int


def back_up(database: Path, target: Path) -> Report:
    """Copy a log as it is at one moment, also while a server writes it; what is
    copied is checked. Raises StoreError if there is no log, the target is there
    already, or the copy has a fault; then nothing is left behind."""
    _expect_log(database)
    with _copying(target) as part:
        with reading(database) as source:
            source.execute("VACUUM INTO ?", (str(part),))
        with closing(sqlite3.connect(part, isolation_level=None)) as copy:
            copy.execute("PRAGMA synchronous=FULL")
            facts = (("copy_of", fact(copy, "epoch")), ("copied", f"{time.time():.0f}"))
            copy.executemany("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", facts)
            for statement in _FORGET:
                copy.execute(statement)
        _expect_sound(part, database)
        if target.exists():
            raise StoreError(f"{target} is there already")
        part.replace(target)
    return check(target)


def restore(backup: Path, database: Path) -> tuple[Report, Path | None]:
    """Put a backup, or any copy of a log, in place of a log that no server has
    open. The former is kept beside it: the second result. Raises StoreError;
    then the log is as it was."""
    _expect_log(backup)
    database, lock = take(database)
    try:
        if backup.resolve() == database:
            raise StoreError(f"{backup} is the log itself")
        with _copying(database.with_name(database.name + ".restored")) as part:
            with reading(backup) as source, closing(sqlite3.connect(part)) as copy:
                source.backup(copy)
                copy.execute("PRAGMA journal_mode=DELETE")
            migrate(part, {"generation": "copy"})
            with closing(sqlite3.connect(part, isolation_level=None)) as copy:
                for statement in _FORGET:
                    copy.execute(statement)
            _expect_sound(part, backup)
            _like(part, database)
            _sync(part)
            aside = _set_aside(database)
            part.replace(database)
            sync_folder(database.parent)
        return check(database), aside
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(f"{backup} cannot be put back: {error}") from error
    finally:
        os.close(lock)


def forget_epoch(database: Path) -> None:
    """Have the next start of the server make a new epoch. Raises StoreError if
    there is no log, or a server has it open."""
    _expect_log(database)
    database, lock = take(database)
    try:
        verdict = judge(read_mark(database), look(database))
        if verdict.foreign:
            raise StoreError(f"{database}: {verdict.foreign}")
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("DELETE FROM meta WHERE name = 'epoch'")
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{database} cannot be written: {error}") from error
    finally:
        os.close(lock)


def check(database: Path) -> Report:
    """Go over a log or a backup, also while a server writes it; nothing is
    changed. Raises StoreError if it cannot be read at all."""
    _expect_log(database)
    try:
        with reading(database) as connection:
            connection.execute("BEGIN")
            findings = audit(connection)
            epoch, copy_of, copied = (fact(connection, name) for name in ("epoch", "copy_of", "copied"))
    except sqlite3.Error as error:
        raise StoreError(f"{database} cannot be read: {error}") from error
    journal = database.with_name(database.name + "-wal")
    journal_size = journal.stat().st_size if journal.exists() else 0
    return Report(
        database, findings, epoch, copy_of, float(copied or 0), database.stat().st_size, journal_size
    )


def _expect_log(path: Path) -> None:
    if not path.is_file():
        raise StoreError(f"there is no file {path}")
    try:
        with reading(path) as connection:
            connection.execute("SELECT 1 FROM heads, entries, meta LIMIT 1")
    except sqlite3.Error as error:
        raise StoreError(f"{path} is not a log: {error}") from error


def _expect_sound(part: Path, origin: Path) -> None:
    with reading(part) as connection:
        problems = audit(connection).problems
    if problems:
        raise StoreError(f"{origin} is damaged: {'; '.join(problems[:5])}")


@contextmanager
def _copying(target: Path) -> Generator[Path]:
    """An empty file beside the target, for its owner's eyes alone, which does
    not outlive the block under this name. Raises StoreError."""
    part = target.with_name(target.name + PART)
    if target.exists():
        raise StoreError(f"{target} is there already")
    try:
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        yield part
        sync_folder(target.parent)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{target} cannot be written: {error}") from error
    finally:
        for side in ("", *SIDES):
            with suppress(OSError):
                part.with_name(part.name + side).unlink(missing_ok=True)


def _set_aside(database: Path) -> Path | None:
    """Keep the log that is in the way under another name, with its journal; it
    stays in place, too. Whoever opens it from now on takes it for restored."""
    if not database.exists():
        for side in SIDES:
            database.with_name(database.name + side).unlink(missing_ok=True)
        return None
    with suppress(sqlite3.Error):
        if judge(read_mark(database), look(database)).foreign is None:
            with closing(sqlite3.connect(database)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    remove_mark(database)
    aside = database.with_name(time.strftime(f"{database.name}.replaced-%Y%m%dT%H%M%SZ", time.gmtime()))
    try:
        os.link(database, aside)
    except OSError:
        shutil.copy2(database, aside)
    for side in SIDES:
        beside = database.with_name(database.name + side)
        if beside.exists():
            beside.replace(aside.with_name(aside.name + side))
    return aside


def _like(part: Path, database: Path) -> None:
    """Give a file the mode and the owner of the one that it is to replace."""
    if database.exists():
        found = database.stat()
        part.chmod(found.st_mode & 0o777)
        with suppress(PermissionError):
            os.chown(part, found.st_uid, found.st_gid)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
