"""What a log store promises; every implementation passes tests/contract.

- Revisions of a tenant are 1, 2, 3, … without a gap. A commit is all or
  nothing, and is durable when `commit` returns.
- A commit that fails with StoreError was not made, except with OutcomeUnknown:
  then it may turn up when the store is next opened, unless its revision has
  been given to another.
- A commit names the revision that it was decided on; if another came first it
  is refused with RevisionConflict and leaves no trace.
- Commits of one caller that are submitted in order are tried in order, also
  when they are awaited later; a commit may name the revision that a pending
  one before it will make.
- A request_id that the tenant has used within REQUEST_ID_SECONDS is refused
  with DuplicateRequest, which holds the first answer.
- Entries are chained by hash: an entry's `previous_hash` is the sha256 of the
  serialised entry before it. `Entry.encoded` are the exact bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from voxplane.names import TenantId
from voxplane.storage.v1 import log_pb2

REQUEST_ID_SECONDS = 24 * 3600
CHANGES_LIMIT_MAX = 10_000
NO_HASH = bytes(32)


class StoreError(Exception):
    """The store cannot do what was asked; nothing was changed, unless it is
    OutcomeUnknown."""


class OutcomeUnknown(StoreError):
    """The commit may be made or not: the disk failed while it was written. A
    repeat with the same request_id gets the first answer, if there is one."""


class RevisionConflict(StoreError):
    """The tenant is at another revision than was expected."""

    def __init__(self, expected: int, actual: int) -> None:
        at = f"at {actual}" if actual != expected else "at another one of that number"
        super().__init__(f"expected revision {expected}, the tenant is {at}")
        self.expected = expected
        self.actual = actual


class Compacted(StoreError):
    """The history that was asked for is trimmed; it is kept after `floor`."""

    def __init__(self, floor: int) -> None:
        super().__init__(f"history is kept after revision {floor}")
        self.floor = floor


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered: its fingerprint and the serialised response."""

    revision: int
    fingerprint: bytes
    response: bytes


class DuplicateRequest(StoreError):
    """The request_id was used before."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("the request_id was used before")
        self.answer = answer


@dataclass(frozen=True, slots=True)
class CommitMeta:
    """Who changed what, when (seconds since 1970), by which request.

    `fingerprint` and `response` are kept with request_id, where there is one.
    `previous_hash`, where it is given, is the hash of the entry that the commit
    was decided on (NO_HASH for the first), and another head is a
    RevisionConflict: a commit that was submitted behind one that fails cannot
    land on what somebody else has committed in its place.
    """

    principal: str
    method: str
    time: float
    request_id: str = ""
    fingerprint: bytes = b""
    response: bytes = b""
    previous_hash: bytes = b""


@dataclass(frozen=True, slots=True)
class Entry:
    """One commit as it is stored."""

    revision: int
    encoded: bytes
    hash: bytes

    def decode(self) -> log_pb2.LogEntry:
        """The entry as a message."""
        return log_pb2.LogEntry.FromString(self.encoded)


@dataclass(frozen=True, slots=True)
class Commit:
    """An acknowledged commit: the revision that it made and its entry."""

    revision: int
    entry: Entry


class LogStore(Protocol):
    """A log of each tenant. Errors are StoreError and its kinds."""

    @property
    def epoch(self) -> str:
        """Names this history of the store; a restored backup has another."""
        ...

    def commit(
        self,
        tenant_id: TenantId,
        expected_revision: int,
        mutations: Sequence[log_pb2.Mutation],
        meta: CommitMeta,
    ) -> Awaitable[Commit]:
        """Append one entry, durably: it is when the result has come. The call
        itself enqueues, so commits are tried in the order of the calls; the
        mutations must not be changed after it. A store that has too much
        enqueued refuses with StoreError."""
        ...

    async def head(self, tenant_id: TenantId) -> int:
        """The tenant's revision; 0 if it has none."""
        ...

    async def floor(self, tenant_id: TenantId) -> int:
        """The revision after which the tenant's history is kept; 0 if nothing
        was trimmed. It never falls."""
        ...

    async def changes(self, tenant_id: TenantId, after: int, limit: int) -> list[Entry]:
        """The entries after a revision, oldest first, at most `limit`
        (clamped to CHANGES_LIMIT_MAX). Raises Compacted."""
        ...

    async def answer(self, tenant_id: TenantId, request_id: str, now: float) -> Answer | None:
        """What a request_id was answered, if within REQUEST_ID_SECONDS."""
        ...

    async def snapshot(self, tenant_id: TenantId) -> log_pb2.Snapshot | None:
        """The newest saved snapshot."""
        ...

    async def save_snapshot(self, snapshot: log_pb2.Snapshot) -> None:
        """Keep a snapshot in place of the tenant's older ones. One that is
        older than the saved one, or ahead of the log, is refused."""
        ...

    async def trim(self, tenant_id: TenantId, through: int) -> int:
        """Forget the entries up to a revision, and return the floor. Never
        past the saved snapshot: what is kept is always enough to load."""
        ...

    async def tenants(self) -> list[TenantId]:
        """All tenants that have an entry, in ascending order."""
        ...

    async def wait(self, seen: int) -> int:
        """Wait until the store's commit counter is above `seen`, and return
        it. It counts commits of all tenants, by this process or another.
        Raises StoreError once the store is closed."""
        ...

    async def close(self) -> None:
        """Finish what is enqueued and let go of the files; further calls do
        nothing. Other calls on a closed store may fail with StoreError, and
        `commit` does."""
        ...
