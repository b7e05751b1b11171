"""Opening a log's SQLite file: lock, look, check, migrate."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import sqlite3
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, Connection, create_engine, event, text
from sqlalchemy.pool import NullPool

from control_plane.store.identity import identify
from control_plane.store.lineage import Seen, judge
from control_plane.store.log import StoreError
from control_plane.store.mark import Mark, read_mark, write_mark
from control_plane.store.migrations import upgrade

EPOCH_BYTES = 8
RUN_BYTES = 4
BUSY_SECONDS_MAX = 5.0
CHECK_BYTES_MAX = 256 * 1024 * 1024
"""A larger file is checked in part when it opens, as a check reads all of it."""
JOURNAL_BYTES_KEPT = 64 * 1024 * 1024
JOURNAL_PAGES_MAX = 16_384
"""64 MiB: from there on SQLite itself checkpoints with each commit, should
sqlite_journal.py not have."""


@dataclass(frozen=True, slots=True)
class LockedFile:
    """A file that is ready for use by this process alone, until `unlock`.
    `restored` says why it was given a new epoch, None if it was not.
    `generations` are those that it may be in, the newest last."""

    path: Path
    epoch: str
    restored: str | None
    generations: tuple[str, ...]
    lock: int

    def unlock(self) -> None:
        """Let another process have the file."""
        os.close(self.lock)


def prepare(path: Path) -> LockedFile:
    """Make the file where there is none, bring its tables up to date, and give
    it a new epoch if it does not go on where the last process left it.

    Raises StoreError if another store has it open, if it is damaged, if its
    journal belongs to another file, or if it is no log, or one of a newer
    Voxplane.
    """
    path, lock = take(path)
    try:
        seen, mark = look(path), read_mark(path)
        verdict = judge(mark, seen)
        if verdict.foreign:
            raise StoreError(
                f"{verdict.foreign}: the two together would be neither. If {path.name} is a restored backup, "
                f"delete {path.name}-wal and {path.name}-shm beside it; if it is not, put back the file that "
                "the journal belongs to. `voxplane store restore` does all of that by itself"
            )
        _check(path)
        epoch = secrets.token_hex(EPOCH_BYTES) if verdict.restored else seen.epoch
        generation = f"{secrets.token_hex(RUN_BYTES)}-0"
        found = (seen.generation if seen.settled is None else seen.settled, seen.generation)
        generations = tuple(dict.fromkeys((*found, generation)))
        write_mark(path, Mark(epoch, False, seen.digest, generations, None, None))
        migrate(path, {"epoch": epoch, "generation": generation})
        restored = verdict.restored if seen.database else None
        return LockedFile(path, epoch, restored, generations, lock)
    except Exception as error:
        os.close(lock)
        raise StoreError(f"{path} cannot be opened: {error}") from error


def take(path: Path) -> tuple[Path, int]:
    """Make the file's folder, and lock the file, which need not be there.
    Returns its true path, and the lock, which is let go by closing it. Raises
    StoreError."""
    path = path.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path = path.resolve()
        return path, _lock(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror}") from error


def look(path: Path) -> Seen:
    """What is on the disk, left as it is. Raises StoreError, sqlite3.Error."""
    database = identify(path)
    journal = identify(path.with_name(path.name + "-wal"))
    if database is None:
        if journal is not None and path.with_name(path.name + "-wal").stat().st_size:
            raise StoreError(f"the journal {path.name}-wal is there without its file")
        return Seen(None, None, "", "", "", heads_digest(None))
    if path.with_name(path.name + "-journal").exists():
        # Of tables that were half made: nobody can have committed before the
        # file had a write-ahead journal. Only a writer can roll it back.
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS_MAX)) as connection:
            _has_table(connection, "meta")
    try:
        with reading(path, "&immutable=1") as alone:
            settled = fact(alone, "generation")
    except sqlite3.Error:
        settled = None
    with reading(path) as connection:
        facts = fact(connection, "generation"), fact(connection, "epoch"), heads_digest(connection)
    return Seen(database, journal, settled, *facts)


def heads_digest(connection: sqlite3.Connection | None) -> str:
    """The digest of where all tenants are: equal only if no commit lies
    between."""
    digest = hashlib.sha256()
    if connection is not None and _has_table(connection, "heads"):
        for tenant_id, revision, head in connection.execute(
            "SELECT tenant_id, revision, hash FROM heads ORDER BY tenant_id"
        ):
            digest.update(f"{tenant_id} {revision} ".encode() + head)
    return digest.hexdigest()


def connect_to_write(
    path: Path, factory: type[sqlite3.Connection] = sqlite3.Connection
) -> sqlite3.Connection:
    """The connection that writes: what it has committed survives a loss of power."""
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS_MAX, factory=factory
    )
    try:
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"{path} is on a file system that has no shared memory for its journal")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA fullfsync=1")
        connection.execute(f"PRAGMA journal_size_limit={JOURNAL_BYTES_KEPT}")
        connection.execute(f"PRAGMA wal_autocheckpoint={JOURNAL_PAGES_MAX}")
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


def migrate(path: Path, facts: Mapping[str, str]) -> None:
    """Bring the tables up to date and put facts into `meta`, all or nothing.
    Raises what alembic and SQLAlchemy raise."""
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)
    event.listen(engine, "begin", _begin)
    with engine.begin() as connection:
        upgrade(connection)
        for name, value in facts.items():
            connection.execute(
                text(
                    "INSERT INTO meta (name, value) VALUES (:name, :value)"
                    " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
                ),
                {"name": name, "value": value},
            )


@contextmanager
def reading(path: Path, options: str = "") -> Generator[sqlite3.Connection]:
    """A connection that leaves the file and its journal as they are, in use or
    not. Raises sqlite3.Error."""
    if not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists():
        options = "&immutable=1"
    uri = f"{path.absolute().as_uri()}?mode=ro{options}"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS_MAX)) as opened:
        yield opened


def fact(connection: sqlite3.Connection, name: str) -> str:
    """What the log says of itself; "" if it does not."""
    if not _has_table(connection, "meta"):
        return ""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return row[0] if row else ""


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,))
    return found.fetchone() is not None


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
    if not path.exists():
        return
    with reading(path) as connection:
        small = path.stat().st_size <= CHECK_BYTES_MAX
        (found,) = connection.execute(f"PRAGMA quick_check({1 if small else 'heads'})").fetchone()
        if found != "ok":
            raise StoreError(f"it is damaged: {found}")


def _begin(connection: Connection) -> None:
    # Left to itself the driver makes each table in a transaction of its own.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
