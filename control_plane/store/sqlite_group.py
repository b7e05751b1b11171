"""What is done to a SQLite log in one transaction, on the connection's thread.

Each commit of a group succeeds or is refused on its own. A fault of the disk
is told to the caller, who finds out what became of the group.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from control_plane.store.chain import make_entry
from control_plane.store.log import (
    NO_HASH,
    REQUEST_ID_SECONDS,
    Answer,
    Commit,
    CommitMeta,
    DuplicateRequest,
    Entry,
    RevisionConflict,
    StoreError,
)
from voxplane.names import TenantId
from voxplane.storage.v1 import log_pb2

EXPIRED_REQUESTS_PURGED = 500
"""By one group, so that no commit waits long for it."""
TRIMMED_ENTRIES = 1000
"""By one transaction, for the same reason."""

ANSWER = (
    "SELECT revision, fingerprint, response FROM requests"
    " WHERE tenant_id = ? AND request_id = ? AND expires > ?"
)

FAULT_OF_ONE = (
    *(ValueError, TypeError, OverflowError),
    *(sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError),
)
"""Faults of what is written, not of the disk."""
Guard = Callable[[sqlite3.Connection], None]
"""Raises what makes a transaction that has begun end without effect."""


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A commit that waits for its group."""

    tenant_id: TenantId
    expected_revision: int
    mutations: Sequence[log_pb2.Mutation]
    meta: CommitMeta
    done: asyncio.Future[Commit]


class Transaction:
    """BEGIN and COMMIT; ROLLBACK when either or what is between them fails."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a group: an outcome for each commit, in order; fewer if
    a fault came in between, and then what the others have come to is not
    known."""

    outcomes: list[Commit | StoreError]
    fault: sqlite3.Error | StoreError | None = None


def write_group(connection: sqlite3.Connection, group: Sequence[Pending], guard: Guard) -> Written:
    """Commit a group in one transaction."""
    try:
        with Transaction(connection):
            guard(connection)
            outcomes = [_write(connection, pending) for pending in group]
            _purge(connection, max(pending.meta.time for pending in group))
        return Written(outcomes)
    except FAULT_OF_ONE as error:
        if len(group) == 1:
            return Written([StoreError(f"the log cannot be written: {error}")])
    except (sqlite3.Error, StoreError) as fault:
        return Written([], fault)
    except Exception as error:
        # Whatever it is, nothing of the group is durable, and each must hear it.
        return Written([StoreError(f"the log cannot be written: {error}") for _ in group])
    outcomes: list[Commit | StoreError] = []
    for pending in group:
        written = write_group(connection, [pending], guard)
        outcomes += written.outcomes
        if written.fault:
            return Written(outcomes, written.fault)
    return Written(outcomes)


def landed(connection: sqlite3.Connection, pending: Pending) -> Commit | None:
    """The commit, if it is in the log after all."""
    revision = pending.expected_revision + 1
    row = connection.execute(
        "SELECT entry, hash FROM entries WHERE tenant_id = ? AND revision = ?", (pending.tenant_id, revision)
    ).fetchone()
    if row is None:
        return None
    entry = Entry(revision, *row)
    try:
        previous = entry.decode().previous_hash
        same = make_entry(pending.tenant_id, revision, pending.mutations, pending.meta, previous) == entry
    except (ValueError, TypeError, OverflowError):
        return None
    return Commit(revision, entry) if same else None


def _write(connection: sqlite3.Connection, pending: Pending) -> Commit | StoreError:
    execute, meta, tenant = connection.execute, pending.meta, pending.tenant_id
    if meta.request_id:
        earlier = execute(ANSWER, (tenant, meta.request_id, meta.time)).fetchone()
        if earlier:
            return DuplicateRequest(Answer(*earlier))
    row = execute("SELECT revision, hash FROM heads WHERE tenant_id = ?", (tenant,)).fetchone()
    revision, head_hash = row or (0, NO_HASH)
    if revision != pending.expected_revision or meta.previous_hash not in (b"", head_hash):
        return RevisionConflict(pending.expected_revision, revision)
    entry = make_entry(tenant, revision + 1, pending.mutations, meta, head_hash)
    execute(
        "INSERT INTO entries (tenant_id, revision, time, principal, method, request_id, entry, hash)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(tenant, entry.revision, meta.time, meta.principal, meta.method, meta.request_id),
            *(entry.encoded, entry.hash),
        ),
    )
    execute(
        "INSERT INTO heads (tenant_id, revision, hash, floor) VALUES (?, ?, ?, 0)"
        " ON CONFLICT (tenant_id) DO UPDATE SET revision = excluded.revision, hash = excluded.hash",
        (tenant, entry.revision, entry.hash),
    )
    if meta.request_id:
        expires = meta.time + REQUEST_ID_SECONDS
        execute(
            "INSERT OR REPLACE INTO requests"
            " (tenant_id, request_id, revision, fingerprint, response, expires)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (tenant, meta.request_id, entry.revision, meta.fingerprint, meta.response, expires),
        )
    return Commit(entry.revision, entry)


def _purge(connection: sqlite3.Connection, now: float) -> None:
    connection.execute(
        "DELETE FROM requests WHERE rowid IN (SELECT rowid FROM requests WHERE expires <= ? LIMIT ?)",
        (now, EXPIRED_REQUESTS_PURGED),
    )


def put_snapshot(connection: sqlite3.Connection, tenant_id: str, revision: int, encoded: bytes) -> None:
    """Keep a snapshot in place of the older one. Raises StoreError."""
    with Transaction(connection):
        saved = _number(connection, "SELECT revision FROM snapshots WHERE tenant_id = ?", tenant_id)
        head = _number(connection, "SELECT revision FROM heads WHERE tenant_id = ?", tenant_id)
        if not max(saved, 1) <= revision <= head:
            raise StoreError(f"a snapshot of revision {revision} does not fit the log")
        connection.execute(
            "INSERT OR REPLACE INTO snapshots (tenant_id, revision, snapshot) VALUES (?, ?, ?)",
            (tenant_id, revision, encoded),
        )


def raise_floor(connection: sqlite3.Connection, tenant_id: str, through: int) -> int:
    """Hide the entries up to a revision that a snapshot covers; the new floor."""
    with Transaction(connection):
        floor = _number(connection, "SELECT floor FROM heads WHERE tenant_id = ?", tenant_id)
        saved = _number(connection, "SELECT revision FROM snapshots WHERE tenant_id = ?", tenant_id)
        end = max(floor, min(through, saved))
        connection.execute("UPDATE heads SET floor = ? WHERE tenant_id = ?", (end, tenant_id))
        return end


def delete_some(connection: sqlite3.Connection, tenant_id: str, floor: int) -> bool:
    """Delete the oldest hidden entries; False when none is left."""
    with Transaction(connection):
        deleted = connection.execute(
            "DELETE FROM entries WHERE tenant_id = ? AND revision IN (SELECT revision FROM entries"
            " WHERE tenant_id = ? AND revision <= ? ORDER BY revision LIMIT ?)",
            (tenant_id, tenant_id, floor, TRIMMED_ENTRIES),
        ).rowcount
        return deleted == TRIMMED_ENTRIES


def _number(connection: sqlite3.Connection, statement: str, tenant_id: str) -> int:
    row = connection.execute(statement, (tenant_id,)).fetchone()
    return row[0] if row else 0
