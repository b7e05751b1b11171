"""The ids of nodes, by the tenant that they ask for."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

from voxplane.names import ALL_TENANTS


class Members:
    """Ids in ascending order; nodes of other tenants cost nothing."""

    def __init__(self) -> None:
        self._ids: dict[str, list[str]] = {}

    def add(self, tenant_id: str, node_id: str) -> None:
        """A node asks for a tenant, or for all."""
        insort(self._ids.setdefault(tenant_id, []), node_id)

    def discard(self, tenant_id: str, node_id: str) -> None:
        """It does so no more."""
        ids = self._ids[tenant_id]
        del ids[bisect_left(ids, node_id)]
        if not ids:
            del self._ids[tenant_id]

    def of(self, tenant_id: str, after: str = "") -> list[str]:
        """The nodes that ask for the tenant or for all, with greater ids; of no
        tenant, all nodes."""
        groups = self._ids.values()
        if tenant_id:
            groups = [self._ids.get(watched, []) for watched in {tenant_id, ALL_TENANTS}]
        return sorted(node_id for ids in groups for node_id in ids[bisect_right(ids, after) :])
