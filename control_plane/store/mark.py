"""The mark beside a database: what the last process knew of it.

It tells a database that goes on from one that was restored (lineage.py). A
mark names its own identity, and is written as a new file each time, so that a
mark out of a backup is known as a copy, also one that was written over the
present mark.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from control_plane.store.identity import Identity, identify

SUFFIX = ".mark"


@dataclass(frozen=True, slots=True)
class Mark:
    """What was so when the mark was written.

    With `running` a process may have committed since, into the journal that
    is named. Without it `digest` is that of all heads, and nobody has.
    `generations` are those that the database may be in.
    """

    epoch: str
    running: bool
    digest: str
    generations: tuple[str, ...]
    database: Identity | None
    journal: Identity | None


def read_mark(database: Path) -> Mark | None:
    """The mark beside a database; None if there is none, or only a copy."""
    path = _path(database)
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        if _identity(found["self"]) != identify(path):
            return None
        return Mark(
            str(found["epoch"]),
            bool(found["running"]),
            str(found["digest"]),
            tuple(map(str, found["generations"])),
            _identity(found["database"]),
            _identity(found["journal"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_mark(database: Path, mark: Mark) -> None:
    """Put a mark in place of the former, durably. Raises OSError."""
    path = _path(database)
    new = path.with_name(path.name + ".new")
    with suppress(FileNotFoundError):
        new.unlink()
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        me = identify(new)
        assert me is not None
        os.write(file, json.dumps({"self": asdict(me), **asdict(mark)}).encode() + b"\n")
        os.fsync(file)
    finally:
        os.close(file)
    new.replace(path)
    sync_folder(path.parent)


def remove_mark(database: Path) -> None:
    """Have the next process take the database for a restored one. Raises OSError."""
    with suppress(FileNotFoundError):
        _path(database).unlink()
        sync_folder(database.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _path(database: Path) -> Path:
    return database.with_name(database.name + SUFFIX)


def _identity(found: dict[str, Any] | None) -> Identity | None:
    return None if found is None else Identity(int(found["inode"]), int(found["born"]))
