"""Which tenants are in memory: those that are pinned, and for a while those
that were used lately."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import cachetools

from control_plane.state.pipeline import Pipeline
from voxplane.clock import Clock
from voxplane.names import TenantId

IDLE_TENANTS_MAX = 1_000
IDLE_SECONDS_MAX = 300.0


class Residents:
    """Loads each tenant once, by `load`, however many ask for it together."""

    def __init__(self, load: Callable[[TenantId], Awaitable[Pipeline]], clock: Clock) -> None:
        self._load = load
        self._pins: Counter[TenantId] = Counter()
        self._pinned: dict[TenantId, Pipeline] = {}
        self._idle: cachetools.TTLCache[TenantId, Pipeline] = cachetools.TTLCache(
            IDLE_TENANTS_MAX, IDLE_SECONDS_MAX, timer=clock.monotonic
        )
        self._loading: dict[TenantId, asyncio.Task[Pipeline]] = {}

    def peek(self, tenant_id: TenantId) -> Pipeline | None:
        """The tenant, if it is in memory."""
        return self._pinned.get(tenant_id) or self._idle.get(tenant_id)

    async def get(self, tenant_id: TenantId) -> Pipeline:
        """The tenant, loaded if need be. Raises what `load` raises."""
        found = self._pinned.get(tenant_id)
        if found is None and (found := self._idle.pop(tenant_id, None)) is not None:
            # Put back, it is the youngest again.
            self._idle[tenant_id] = found
        if found is not None:
            return found
        task = self._loading.get(tenant_id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._move_in(tenant_id))
            self._loading[tenant_id] = task
            task.add_done_callback(lambda done: self._loaded(tenant_id, done))
        return await asyncio.shield(task)

    def pin(self, tenant_id: TenantId) -> None:
        """Keep the tenant, once it is loaded, until `unpin`."""
        self._pins[tenant_id] += 1
        idle = self._idle.pop(tenant_id, None)
        if idle is not None:
            self._pinned[tenant_id] = idle

    def unpin(self, tenant_id: TenantId) -> None:
        """Undo one `pin`."""
        self._pins[tenant_id] -= 1
        if self._pins[tenant_id] <= 0:
            del self._pins[tenant_id]
            pinned = self._pinned.pop(tenant_id, None)
            if pinned is not None:
                self._idle[tenant_id] = pinned

    async def _move_in(self, tenant_id: TenantId) -> Pipeline:
        pipeline = await self._load(tenant_id)
        home = self._pinned if tenant_id in self._pins else self._idle
        home[tenant_id] = pipeline
        return pipeline

    def _loaded(self, tenant_id: TenantId, done: asyncio.Task[Pipeline]) -> None:
        del self._loading[tenant_id]
        # All who asked may have gone; its failure is then nobody's concern.
        if not done.cancelled():
            done.exception()
