"""The journal of a SQLite log: how it is emptied, and whether it is still ours.

All of it is called on the writer's thread. The rules:

- What is committed goes into the journal, and from there into the file. Each
  time that all of it has gone there the file is of a new generation, whose
  name is the first thing in the journal that follows: so a journal can be told
  from one that belongs to another file (lineage.py).
- The mark beside the file names a generation before the file can be of it.
- Nothing is acknowledged that was written to a file which has lost its name,
  or on a log which another program has changed.
- After a fault of the disk nothing that is in memory is trusted, that of the
  operating system included: all of the journal is written and synced once more.
"""

from __future__ import annotations

import os
import secrets
import sqlite3

from control_plane.store.identity import identify
from control_plane.store.log import StoreError
from control_plane.store.mark import Mark, write_mark
from control_plane.store.sqlite_file import BUSY_SECONDS_MAX, LockedFile, heads_digest

GENERATION_BYTES = 16 * 1024 * 1024
"""Written to the journal, by a rough count, before it is emptied."""
TRANSACTION_BYTES = 40 * 1024
COMMIT_BYTES = 4 * 1024
"""What a transaction, and a commit in it, takes beyond the payload."""
READERS_MILLISECONDS_MAX = 200
"""For how long writers wait until readers let the journal be emptied."""
TURN_BYTES = 4

_NAME = "INSERT OR REPLACE INTO meta (name, value) VALUES ('generation', ?), ('turn', ?)"
"""A row that is what it was would not be written; a turn is never the same."""
_Place = tuple[int, ...]


class Journal:
    """Begin with `begin`; when the writer's connection is a new one, with
    `prove`."""

    def __init__(self, file: LockedFile) -> None:
        self._path = file.path
        self._journal = file.path.with_name(file.path.name + "-wal")
        self._names = str(self._path), str(self._journal)
        self._epoch = file.epoch
        self._generations = file.generations
        self._place: _Place = ()
        self._version = 0
        self._commits = 0
        self._unsure = 0
        self._bytes = 0
        self._lost: str | None = None

    @property
    def is_due(self) -> bool:
        """Whether it is time to `rotate`."""
        return self._bytes >= GENERATION_BYTES

    def begin(self, connection: sqlite3.Connection) -> None:
        """Say in the mark that from now on there are commits. Raises
        sqlite3.Error, OSError."""
        if not self._empty(connection):
            self._name(connection)
            self._mark()
        self._place = self._find()
        self._know(connection)

    def rotate(self, connection: sqlite3.Connection) -> bool:
        """Begin a new generation; False if readers still need the journal, and
        then it goes on. Raises sqlite3.Error, OSError."""
        self._bytes = 0
        if len(self._generations) == 1:
            run, _, number = self._generations[0].rpartition("-")
            self._generations += (f"{run}-{int(number) + 1}",)
            self._mark()
            self._name(connection)
        return self._empty(connection)

    def prove(self, connection: sqlite3.Connection) -> None:
        """Have all that was acknowledged written and synced anew. Raises
        StoreError, sqlite3.Error, OSError if it cannot be."""
        self.check_place()
        self._know(connection, self._commits, self._unsure)
        # Overwrites what a failed transaction has left behind.
        self._name(connection)
        if not self.rotate(connection):
            raise StoreError("the journal is in use by a reader; it cannot be written anew")
        self.check_place()

    def end(self, connection: sqlite3.Connection) -> None:
        """Say in the mark that there are no more commits. Raises StoreError,
        sqlite3.Error, OSError."""
        self.check_place()
        self._guard(connection)
        digest = heads_digest(connection)
        write_mark(self._path, Mark(self._epoch, False, digest, self._generations, None, None))

    def check_place(self) -> None:
        """Raises StoreError once the file or its journal is not where it was."""
        if self._lost is None and self._find() != self._place:
            self._lost = (
                f"{self._path} or its journal was removed or replaced while in use; what was committed is "
                "in files without a name. Restore a backup and start again"
            )
        if self._lost is not None:
            raise StoreError(self._lost)

    def guard(self, connection: sqlite3.Connection) -> None:
        """In a transaction: raises StoreError if it must not go on."""
        self.check_place()
        self._guard(connection)

    def written(self, commits: int, size: int) -> None:
        """Note that a transaction has made so many commits, of so many bytes."""
        self._commits += commits
        self._bytes += size + TRANSACTION_BYTES + commits * COMMIT_BYTES

    def in_doubt(self, commits: int) -> None:
        """Note that so many commits may have been made."""
        self._unsure += commits

    def _guard(self, connection: sqlite3.Connection) -> None:
        if _number(connection, "PRAGMA data_version") != self._version:
            self._know(connection, self._commits)

    def _know(self, connection: sqlite3.Connection, expected: int | None = None, unsure: int = 0) -> None:
        """Take the log as it is for ours, or, if so many commits are expected
        in it, and others may be, make sure that it is."""
        self._version = _number(connection, "PRAGMA data_version")
        commits = _number(connection, "SELECT coalesce(sum(revision), 0) FROM heads")
        (generation,) = connection.execute("SELECT value FROM meta WHERE name = 'generation'").fetchone()
        (epoch,) = connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
        strange = expected is not None and not expected <= commits <= expected + unsure
        if strange or epoch != self._epoch:
            self._lost = f"another program has changed {self._path} while it was in use; start again"
        elif generation not in self._generations:
            self._lost = f"another program has replaced what is in {self._path}; start again"
        if self._lost is not None:
            raise StoreError(self._lost)
        self._commits, self._unsure = commits, 0

    def _name(self, connection: sqlite3.Connection) -> None:
        connection.execute(_NAME, (self._generations[-1], secrets.token_hex(TURN_BYTES)))

    def _empty(self, connection: sqlite3.Connection) -> bool:
        # Readers that began with less than all of the journal are waited for:
        # those of the store are done soon, a backup may take long.
        connection.execute(f"PRAGMA busy_timeout={READERS_MILLISECONDS_MAX}")
        try:
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        finally:
            connection.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS_MAX * 1000)}")
        if busy:
            return False
        # This begins the journal again.
        self._name(connection)
        self._generations = self._generations[-1:]
        self._mark()
        return True

    def _mark(self) -> None:
        database, journal = identify(self._path), identify(self._journal)
        write_mark(self._path, Mark(self._epoch, True, "", self._generations, database, journal))

    def _find(self) -> _Place:
        try:
            file, journal = os.stat(self._names[0]), os.stat(self._names[1])
        except FileNotFoundError:
            return ()
        return file.st_dev, file.st_ino, journal.st_dev, journal.st_ino


def _number(connection: sqlite3.Connection, statement: str) -> int:
    return connection.execute(statement).fetchone()[0]
