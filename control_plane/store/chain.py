"""The chain of hashes through a tenant's log."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from google.protobuf.message import DecodeError

from control_plane.store.log import CommitMeta, Entry
from voxplane.names import TenantId
from voxplane.storage.v1 import log_pb2


class BrokenChain(Exception):
    """An entry is not what was committed; `revision` is the first such."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"the chain is broken at revision {revision}")
        self.revision = revision


def make_entry(
    tenant_id: TenantId,
    revision: int,
    mutations: Sequence[log_pb2.Mutation],
    meta: CommitMeta,
    previous_hash: bytes,
) -> Entry:
    """The entry of a commit, with the bytes that are kept and their sha256."""
    entry = log_pb2.LogEntry(
        tenant_id=tenant_id,
        revision=revision,
        mutations=mutations,
        principal=meta.principal,
        method=meta.method,
        request_id=meta.request_id,
        previous_hash=previous_hash,
    )
    entry.time.FromNanoseconds(round(meta.time * 1e9))
    encoded = entry.SerializeToString(deterministic=True)
    return Entry(revision, encoded, hashlib.sha256(encoded).digest())


def verify_chain(entries: Iterable[Entry], previous_revision: int, previous_hash: bytes) -> bytes:
    """Check that the entries follow the given one, and return the last hash.
    Raises BrokenChain at the first that was changed, dropped or moved."""
    revision = previous_revision
    for entry in entries:
        revision += 1
        if not _follows(entry, revision, previous_hash):
            raise BrokenChain(revision)
        previous_hash = entry.hash
    return previous_hash


def _follows(entry: Entry, revision: int, previous_hash: bytes) -> bool:
    if hashlib.sha256(entry.encoded).digest() != entry.hash:
        return False
    try:
        decoded = entry.decode()
    except DecodeError:
        return False
    return entry.revision == decoded.revision == revision and decoded.previous_hash == previous_hash
