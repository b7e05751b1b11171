"""A SQLite connection whose statements can be made to fail or to wait."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from control_plane.store.sqlite_file import connect_to_write

WAIT_SECONDS_MAX = 20.0


@dataclass
class Faults:
    """What is wrong with the disk. `before` has the statements, by how they
    begin, that fail; `after` those that are done and then said to have failed;
    `hold` one that waits for `go`."""

    before: set[str] = field(default_factory=set[str])
    after: set[str] = field(default_factory=set[str])
    hold: str = ""
    held: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    connections: int = 0


def failure(code: int = sqlite3.SQLITE_IOERR_FSYNC) -> sqlite3.OperationalError:
    """What SQLite raises when the disk fails."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


def connect_faulty(path: Path, faults: Faults) -> sqlite3.Connection:
    """The connection that writes, on a disk with these faults."""

    class Faulty(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:  # pyright: ignore[reportIncompatibleMethodOverride]
            if any(sql.startswith(start) for start in faults.before):
                raise failure()
            if faults.hold and sql.startswith(faults.hold):
                faults.held.set()
                assert faults.go.wait(WAIT_SECONDS_MAX)
            done = super().execute(sql, *values)
            if any(sql.startswith(start) for start in faults.after):
                raise failure()
            return done

    faults.connections += 1
    return connect_to_write(path, Faulty)
