"""The log in memory: for tests and trials; it ends with the process."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field

from control_plane.store.chain import make_entry
from control_plane.store.counter import CommitCounter
from control_plane.store.log import (
    CHANGES_LIMIT_MAX,
    NO_HASH,
    REQUEST_ID_SECONDS,
    Answer,
    Commit,
    CommitMeta,
    Compacted,
    DuplicateRequest,
    Entry,
    RevisionConflict,
    StoreError,
)
from control_plane.store.memory_sessions import MemorySessions
from voxplane.names import TenantId
from voxplane.storage.v1 import log_pb2


@dataclass(slots=True)
class _Log:
    revision: int = 0
    hash: bytes = NO_HASH
    floor: int = 0
    entries: list[Entry] = field(default_factory=list[Entry])
    answers: dict[str, tuple[float, Answer]] = field(default_factory=dict[str, tuple[float, Answer]])
    snapshot: bytes = b""
    snapshot_revision: int = 0


class MemoryStore:
    """A Store without a disk."""

    def __init__(self) -> None:
        self._epoch = secrets.token_hex(8)
        self._logs: dict[TenantId, _Log] = {}
        self._counter = CommitCounter()
        self._sessions = MemorySessions()
        self._closed = False

    @property
    def epoch(self) -> str:
        """Names this history of the store."""
        return self._epoch

    @property
    def sessions(self) -> MemorySessions:
        """The table of sessions beside the log."""
        return self._sessions

    def commit(
        self,
        tenant_id: TenantId,
        expected_revision: int,
        mutations: Sequence[log_pb2.Mutation],
        meta: CommitMeta,
    ) -> Awaitable[Commit]:
        """See LogStore.commit."""
        result: asyncio.Future[Commit] = asyncio.get_running_loop().create_future()
        try:
            result.set_result(self._commit(tenant_id, expected_revision, mutations, meta))
        except StoreError as error:
            result.set_exception(error)
        return result

    def _commit(
        self, tenant_id: TenantId, expected: int, mutations: Sequence[log_pb2.Mutation], meta: CommitMeta
    ) -> Commit:
        if self._closed:
            raise StoreError("the store is closed")
        if meta.request_id and (earlier := self._answer(tenant_id, meta.request_id, meta.time)):
            raise DuplicateRequest(earlier)
        log = self._logs.get(tenant_id) or _Log()
        if log.revision != expected or meta.previous_hash not in (b"", log.hash):
            raise RevisionConflict(expected, log.revision)
        try:
            entry = make_entry(tenant_id, expected + 1, mutations, meta, log.hash)
        except (ValueError, TypeError, OverflowError) as error:
            raise StoreError(f"the log cannot be written: {error}") from error
        self._logs[tenant_id] = log
        log.entries.append(entry)
        log.revision, log.hash = entry.revision, entry.hash
        if meta.request_id:
            answer = Answer(entry.revision, meta.fingerprint, meta.response)
            _purge(log.answers, meta.time)
            log.answers.pop(meta.request_id, None)
            log.answers[meta.request_id] = (meta.time + REQUEST_ID_SECONDS, answer)
        self._counter.add(1)
        return Commit(entry.revision, entry)

    async def head(self, tenant_id: TenantId) -> int:
        """See LogStore.head."""
        return self._log(tenant_id).revision

    async def floor(self, tenant_id: TenantId) -> int:
        """See LogStore.floor."""
        return self._log(tenant_id).floor

    async def changes(self, tenant_id: TenantId, after: int, limit: int) -> list[Entry]:
        """See LogStore.changes."""
        log, after = self._log(tenant_id), max(0, after)
        if after < log.floor:
            raise Compacted(log.floor)
        start = after - log.floor
        return log.entries[start : start + max(0, min(limit, CHANGES_LIMIT_MAX))]

    async def answer(self, tenant_id: TenantId, request_id: str, now: float) -> Answer | None:
        """See LogStore.answer."""
        return self._answer(tenant_id, request_id, now)

    def _answer(self, tenant_id: TenantId, request_id: str, now: float) -> Answer | None:
        expires, answer = self._log(tenant_id).answers.get(request_id, (now, None))
        return answer if expires > now else None

    async def snapshot(self, tenant_id: TenantId) -> log_pb2.Snapshot | None:
        """See LogStore.snapshot."""
        saved = self._log(tenant_id).snapshot
        return log_pb2.Snapshot.FromString(saved) if saved else None

    async def save_snapshot(self, snapshot: log_pb2.Snapshot) -> None:
        """See LogStore.save_snapshot."""
        log = self._log(TenantId(snapshot.tenant_id))
        if not max(log.snapshot_revision, 1) <= snapshot.revision <= log.revision:
            raise StoreError(f"a snapshot of revision {snapshot.revision} does not fit the log")
        log.snapshot, log.snapshot_revision = snapshot.SerializeToString(), snapshot.revision

    async def trim(self, tenant_id: TenantId, through: int) -> int:
        """See LogStore.trim."""
        log = self._log(tenant_id)
        through = min(through, log.snapshot_revision)
        if through > log.floor:
            del log.entries[: through - log.floor]
            log.floor = through
        return log.floor

    async def tenants(self) -> list[TenantId]:
        """See LogStore.tenants."""
        return sorted(self._logs)

    async def wait(self, seen: int) -> int:
        """See LogStore.wait."""
        return await self._counter.above(seen)

    async def close(self) -> None:
        """See LogStore.close."""
        self._closed = True
        self._counter.close()
        self._sessions.close()

    def _log(self, tenant_id: TenantId) -> _Log:
        return self._logs.get(tenant_id) or _Log()


def _purge(answers: dict[str, tuple[float, Answer]], now: float) -> None:
    """Forget what has expired, from the oldest on."""
    while answers:
        oldest = next(iter(answers))
        if answers[oldest][0] > now:
            return
        del answers[oldest]
