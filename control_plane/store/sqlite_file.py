"""Opening a log's SQLite file: lock, check, migrate."""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, Connection, create_engine, event, text
from sqlalchemy.pool import NullPool

from control_plane.store.log import StoreError
from control_plane.store.migrations import upgrade

EPOCH_BYTES = 8
BUSY_SECONDS_MAX = 5.0
CHECK_BYTES_MAX = 256 * 1024 * 1024
"""A larger file is checked in part when it opens, as a check reads all of it."""
JOURNAL_BYTES_KEPT = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LockedFile:
    """A file that is ready for use by this process alone, until `unlock`."""

    path: Path
    epoch: str
    lock: int

    def unlock(self) -> None:
        """Let another process have the file."""
        os.close(self.lock)


def prepare(path: Path) -> LockedFile:
    """Make the file where there is none, and bring its tables up to date.

    Raises StoreError if another store has it open, if it is damaged, or if it
    is no log, or one of a newer Voxplane.
    """
    path = path.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path = path.resolve()
        lock = _lock(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        _check(path)
        return LockedFile(path, _migrate(path), lock)
    except Exception as error:
        os.close(lock)
        raise StoreError(f"{path} cannot be opened: {error}") from error


def connect_to_write(path: Path) -> sqlite3.Connection:
    """The connection that writes: what it has committed survives a loss of power."""
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS_MAX
    )
    try:
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"{path} is on a file system that has no shared memory for its journal")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA fullfsync=1")
        connection.execute(f"PRAGMA journal_size_limit={JOURNAL_BYTES_KEPT}")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that can write nothing."""
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS_MAX
    )
    connection.execute("PRAGMA query_only=1")
    return connection


def _lock(path: Path) -> int:
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    except BlockingIOError as error:
        owner = os.pread(lock, 20, 0).decode(errors="replace") or "unknown"
        os.close(lock)
        raise StoreError(f"{path} is in use by another process ({owner})") from error
    except OSError:
        os.close(lock)
        raise
    return lock


def _check(path: Path) -> None:
    """Raises StoreError or sqlite3.Error if the file is damaged."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS_MAX)
    try:
        small = path.stat().st_size <= CHECK_BYTES_MAX
        (found,) = connection.execute(f"PRAGMA quick_check({1 if small else 'heads'})").fetchone()
        if found != "ok":
            raise StoreError(f"it is damaged: {found}")
    finally:
        connection.close()


def _migrate(path: Path) -> str:
    """Bring the tables up to date, all or nothing, and return the epoch."""
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)
    event.listen(engine, "begin", _begin)
    with engine.begin() as connection:
        upgrade(connection)
        connection.execute(
            text("INSERT INTO meta (name, value) VALUES ('epoch', :value) ON CONFLICT DO NOTHING"),
            {"value": secrets.token_hex(EPOCH_BYTES)},
        )
        return str(connection.execute(text("SELECT value FROM meta WHERE name = 'epoch'")).scalar_one())


def _begin(connection: Connection) -> None:
    # Left to itself the driver makes each table in a transaction of its own.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
