"""When a tenant's change goes out. Pure.

The first change after a quiet time goes out at once. Those that follow it
within `quiet_seconds` wait until it is quiet again, and at most
`longest_seconds`, so that a burst is a few messages and a lone change is not
delayed. An urgent change goes out at once, and takes along what waits.
"""

from __future__ import annotations

from voxplane.names import TenantId

QUIET_SECONDS = 0.005
LONGEST_SECONDS = 0.05


class Debounce:
    """Times are in seconds of a monotonic clock."""

    def __init__(
        self, quiet_seconds: float = QUIET_SECONDS, longest_seconds: float = LONGEST_SECONDS
    ) -> None:
        self._quiet = quiet_seconds
        self._longest = longest_seconds
        self._last: dict[TenantId, float] = {}
        self._first_waiting: dict[TenantId, float] = {}

    def changed(self, tenant_id: TenantId, now: float, *, urgent: bool = False) -> bool:
        """A tenant has changed; returns whether that goes out now. Otherwise
        `due` says when."""
        last = self._last.get(tenant_id)
        self._last[tenant_id] = now
        if urgent or last is None or now - last >= self._quiet:
            self._first_waiting.pop(tenant_id, None)
            return True
        self._first_waiting.setdefault(tenant_id, now)
        return False

    def due(self, tenant_id: TenantId) -> float | None:
        """When what waits goes out; None if nothing waits."""
        first = self._first_waiting.get(tenant_id)
        if first is None:
            return None
        return min(self._last[tenant_id] + self._quiet, first + self._longest)

    def gone_out(self, tenant_id: TenantId) -> None:
        """What waited has gone out."""
        self._first_waiting.pop(tenant_id, None)

    def sweep(self, now: float) -> None:
        """Forget the tenants that have been quiet for long enough: their next
        change is like a first one."""
        for tenant_id, last in list(self._last.items()):
            if now - last >= self._quiet and tenant_id not in self._first_waiting:
                del self._last[tenant_id]

    def forget(self, tenant_id: TenantId) -> None:
        """Nobody watches the tenant any more."""
        self._last.pop(tenant_id, None)
        self._first_waiting.pop(tenant_id, None)
