"""Going over a whole log: is each entry what was committed?"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from control_plane.store.chain import BrokenChain, verify_chain
from control_plane.store.log import NO_HASH, Entry
from voxplane.names import TenantId
from voxplane.storage.v1 import log_pb2


@dataclass(frozen=True, slots=True)
class Findings:
    """What a log holds, and what is wrong with it: a sentence each."""

    tenants: int
    commits: int
    entries: int
    problems: tuple[str, ...]


def audit(connection: sqlite3.Connection) -> Findings:
    """Check the pages of the file, the chain of each tenant, its head and its
    snapshot. Reads all of it. Raises sqlite3.Error if it cannot be read."""
    problems = [row[0] for row in connection.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]
    heads = connection.execute(
        "SELECT tenant_id, revision, CAST(hash AS BLOB), floor FROM heads ORDER BY tenant_id"
    ).fetchall()
    for tenant_id, revision, head_hash, floor in heads:
        try:
            problems += _tenant(connection, TenantId(tenant_id), revision, head_hash, floor)
        except BrokenChain as broken:
            problems.append(f"{tenant_id}: {broken}")
    strays = connection.execute(
        "SELECT DISTINCT tenant_id FROM entries WHERE tenant_id NOT IN (SELECT tenant_id FROM heads)"
    )
    problems += [f"{tenant_id}: there are entries and no head" for (tenant_id,) in strays]
    (entries,) = connection.execute("SELECT count(*) FROM entries").fetchone()
    return Findings(len(heads), sum(head[1] for head in heads), entries, tuple(problems))


def _tenant(
    connection: sqlite3.Connection, tenant_id: TenantId, revision: int, head_hash: bytes, floor: int
) -> Generator[str]:
    saved = connection.execute(
        "SELECT revision, CAST(snapshot AS BLOB) FROM snapshots WHERE tenant_id = ?", (tenant_id,)
    ).fetchone()
    snapshot = _decoded(saved[1]) if saved else None
    if saved and snapshot is None:
        yield f"{tenant_id}: the snapshot cannot be read"
    if snapshot is None and floor:
        yield f"{tenant_id}: the history up to {floor} is trimmed, and there is no snapshot of it"
    if snapshot is not None and not floor <= snapshot.revision <= revision:
        yield f"{tenant_id}: the snapshot is of revision {snapshot.revision}, outside of what is kept"
    last, last_hash = floor, _before(connection, tenant_id, floor)
    for entry in _entries(connection, tenant_id, floor):
        last_hash = verify_chain([entry], last, last_hash)
        last = entry.revision
        if entry.decode().tenant_id != tenant_id:
            yield f"{tenant_id}: revision {last} is an entry of another tenant"
        if snapshot is not None and snapshot.revision == last and snapshot.hash != last_hash:
            yield f"{tenant_id}: the snapshot is not of the entry of its revision"
    if last != revision or (last > floor and last_hash != head_hash):
        yield f"{tenant_id}: the head says {revision}, the last entry is {last}"


def _before(connection: sqlite3.Connection, tenant_id: TenantId, floor: int) -> bytes:
    """The hash that the first entry which is kept must follow: its own word,
    where what it follows is trimmed."""
    if not floor:
        return NO_HASH
    for entry in _entries(connection, tenant_id, floor):
        try:
            return entry.decode().previous_hash
        except DecodeError:
            break
    return NO_HASH


def _entries(connection: sqlite3.Connection, tenant_id: TenantId, after: int) -> Generator[Entry]:
    for row in connection.execute(
        "SELECT revision, CAST(entry AS BLOB), CAST(hash AS BLOB) FROM entries"
        " WHERE tenant_id = ? AND revision > ? ORDER BY revision",
        (tenant_id, after),
    ):
        yield Entry(*row)


def _decoded(encoded: bytes) -> log_pb2.Snapshot | None:
    try:
        return log_pb2.Snapshot.FromString(encoded)
    except DecodeError:
        return None
