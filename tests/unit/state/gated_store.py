"""A store whose commits a test can hold back or have fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

from control_plane.store import Commit, CommitMeta, LogStore
from voxplane.names import TenantId
from voxplane.storage.v1 import log_pb2


class GatedStore:
    """Passes everything to another store. Commits wait while `gate` is
    closed, and keep their order; `failures` are raised by the next commits in
    place of making them."""

    def __init__(self, inner: LogStore) -> None:
        self._inner = inner
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures: list[Exception] = []
        self.commits = 0
        self._before: asyncio.Task[Commit] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def commit(
        self,
        tenant_id: TenantId,
        expected_revision: int,
        mutations: Sequence[log_pb2.Mutation],
        meta: CommitMeta,
    ) -> Awaitable[Commit]:
        """See LogStore."""
        self.commits += 1
        failure = self.failures.pop(0) if self.failures else None
        before = self._before

        async def run() -> Commit:
            await self.gate.wait()
            if before is not None:
                await asyncio.wait([before])
            if failure is not None:
                raise failure
            return await self._inner.commit(tenant_id, expected_revision, mutations, meta)

        self._before = asyncio.get_running_loop().create_task(run())
        return self._before
