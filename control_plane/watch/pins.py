"""Keeps tenants in memory while streams watch them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from control_plane.state import Tenants
from voxplane.names import TenantId


class Pinning(Protocol):
    """Who keeps tenants: `pinned` are those that it has asked for."""

    pinned: set[TenantId]


class Pins:
    """`unwatched` is called with a tenant that nobody keeps any more."""

    def __init__(self, tenants: Tenants, unwatched: Callable[[TenantId], None]) -> None:
        self._tenants = tenants
        self._unwatched = unwatched
        self._counts: Counter[TenantId] = Counter()

    def pin(self, who: Pinning, tenant_id: TenantId) -> None:
        """Keep a tenant in memory, once it is loaded."""
        if tenant_id in who.pinned:
            return
        who.pinned.add(tenant_id)
        self._counts[tenant_id] += 1
        if self._counts[tenant_id] == 1:
            self._tenants.pin(tenant_id)

    def unpin(self, who: Pinning, tenant_id: TenantId) -> None:
        """Let go of a tenant, if it was kept."""
        if tenant_id in who.pinned:
            who.pinned.discard(tenant_id)
            self._let_go(tenant_id)

    def release(self, who: Pinning) -> None:
        """Let go of all that somebody keeps."""
        for tenant_id in who.pinned:
            self._let_go(tenant_id)
        who.pinned.clear()

    def _let_go(self, tenant_id: TenantId) -> None:
        self._counts[tenant_id] -= 1
        if not self._counts[tenant_id]:
            del self._counts[tenant_id]
            self._tenants.unpin(tenant_id)
            self._unwatched(tenant_id)
