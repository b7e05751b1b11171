"""A request of WatchConfig, read: what to stream, and what the client has."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from control_plane.watch.scope import EVERYTHING, Scope
from control_plane.watch.transfer import Declared
from voxplane.errors import Violation, VoxplaneError
from voxplane.names import ALL_TENANTS, TenantId, agent_name, split_agent_name
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

DECLARED_ON_LOOP_MAX = 2_000
"""Declared names and contents that are read at once; more are read in a
thread, so that no other stream waits for it."""
VIOLATIONS_MAX = 20


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a stream is about: one tenant, or ALL_TENANTS, and of it a scope.
    `declared` is what the client has, by tenant; `contents` are the hashes
    that it has, whichever tenant's."""

    tenant_id: str
    scope: Scope = EVERYTHING
    declared: Mapping[TenantId, Declared] = field(default_factory=dict[TenantId, Declared])
    contents: frozenset[str] = frozenset()
    node_id: str = ""
    principal: str = ""

    @property
    def everything(self) -> bool:
        """Whether it is about all tenants."""
        return self.tenant_id == ALL_TENANTS


async def subscribe(request: sync_pb2.WatchConfigRequest, principal: str = "") -> Subscription:
    """Read a valid request, and hold nobody up. Raises VoxplaneError
    INVALID_REQUEST."""
    if len(request.known) + len(request.known_contents) > DECLARED_ON_LOOP_MAX:
        return await asyncio.to_thread(read_subscription, request, principal)
    return read_subscription(request, principal)


def read_subscription(request: sync_pb2.WatchConfigRequest, principal: str = "") -> Subscription:
    """Read a request that is valid by the rules of the contract. Raises
    VoxplaneError INVALID_REQUEST."""
    contents = frozenset(request.known_contents)
    return Subscription(
        request.tenant_id,
        _scope(request),
        _declared(request, contents),
        contents,
        request.node.node_id,
        principal,
    )


def _scope(request: sync_pb2.WatchConfigRequest) -> Scope:
    if not request.agent_ids and not request.agent_labels:
        return EVERYTHING
    names = frozenset(agent_name(request.tenant_id, agent) for agent in request.agent_ids) or None
    return Scope(names, frozenset(request.agent_labels.items()))


def _declared(request: sync_pb2.WatchConfigRequest, contents: frozenset[str]) -> dict[TenantId, Declared]:
    violations: list[Violation] = []
    everything = request.tenant_id == ALL_TENANTS
    if everything and request.agent_ids:
        violations.append(Violation("agent_ids", "can be given only with one tenant"))
    etags: dict[TenantId, list[tuple[str, str]]] = {}
    for name, etag in request.known.items():
        try:
            tenant_id, _ = split_agent_name(name)
        except ValueError as error:
            violations.append(Violation(f'known["{name}"]', str(error)))
            continue
        if not everything and tenant_id != request.tenant_id:
            violations.append(Violation(f'known["{name}"]', f"is not of tenant {request.tenant_id}"))
        etags.setdefault(tenant_id, []).append((name, etag))
    for tenant in request.start_revisions:
        if not everything and tenant != request.tenant_id:
            violations.append(Violation(f'start_revisions["{tenant}"]', "is not the tenant of the watch"))
    if violations:
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_INVALID_REQUEST,
            "the request is not valid",
            violations=violations[:VIOLATIONS_MAX],
        )
    found: dict[TenantId, Declared] = {}
    for tenant_id in {*etags, *map(TenantId, request.start_revisions)}:
        known = frozenset(etags.get(tenant_id, ()))
        if tenant_id in request.start_revisions:
            start = request.start_revisions[tenant_id]
            found[tenant_id] = Declared(start.number, start.epoch, known, contents)
        else:
            found[tenant_id] = Declared(etags=known, contents=contents)
    return found
