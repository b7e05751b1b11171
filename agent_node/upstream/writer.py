"""Brings the cache up to date, off the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from agent_node.upstream.cache import Cached, DiskCache
from agent_node.upstream.snapshot import Snapshot
from voxplane.clock import Clock
from voxplane.names import TenantId

WRITE_RETRY_SECONDS = 5.0

_log = structlog.stdlib.get_logger(__name__)


class CacheWriter:
    """Writes snapshots off the loop, one at a time, of each tenant the newest.

    `held` gives the bundles to hold back; `written` is told what is on disk,
    `removed` which tenants are gone from it.
    """

    def __init__(
        self,
        cache: DiskCache,
        clock: Clock,
        *,
        held: Callable[[Snapshot], Snapshot],
        written: Sequence[Callable[[Snapshot, int], None]],
        removed: Sequence[Callable[[TenantId, int], None]] = (),
    ) -> None:
        self._cache = cache
        self._clock = clock
        self._held = held
        self._written = written
        self._removed = removed
        self._pending: dict[TenantId, tuple[Snapshot | None, int]] = {}
        self._wake = asyncio.Event()
        self._failures = 0

    @property
    def failures(self) -> int:
        """Count of writes that did not work."""
        return self._failures

    def put(self, snapshot: Snapshot, serial: int) -> None:
        """Write a snapshot soon; a later one of the tenant replaces it."""
        self._pending[snapshot.tenant_id] = (snapshot, serial)
        self._wake.set()

    def remove(self, tenant_id: TenantId, serial: int) -> None:
        """Delete a tenant's file soon."""
        self._pending[tenant_id] = (None, serial)
        self._wake.set()

    async def run(self) -> None:
        """Write until cancelled. What is being written then is finished."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "cache") as thread:
            while True:
                while not self._pending:
                    self._wake.clear()
                    await self._wake.wait()
                tenant_id, (snapshot, serial) = next(iter(self._pending.items()))
                del self._pending[tenant_id]
                try:
                    if snapshot is None:
                        await loop.run_in_executor(thread, self._cache.remove, tenant_id)
                    else:
                        cached = Cached(snapshot, self._held(snapshot))
                        await loop.run_in_executor(thread, self._cache.write, cached)
                except OSError as error:
                    self._failures += 1
                    _log.error("cache not written", tenant_id=tenant_id, reason=str(error))
                    self._pending.setdefault(tenant_id, (snapshot, serial))
                    await self._clock.sleep(WRITE_RETRY_SECONDS)
                    continue
                self._tell(tenant_id, snapshot, serial)

    def _tell(self, tenant_id: TenantId, snapshot: Snapshot | None, serial: int) -> None:
        if snapshot is None:
            for gone in self._removed:
                gone(tenant_id, serial)
            return
        for listener in self._written:
            listener(snapshot, serial)
