"""A tenant's state out of its log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from control_plane.state.tenant_state import TenantState, apply, empty, from_snapshot
from control_plane.store import Compacted, Entry, LogStore
from voxplane.errors import VoxplaneError
from voxplane.names import TenantId
from voxplane.storage.v1 import log_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

LOAD_ENTRIES = 500
ON_LOOP_MAX = 50
"""Entries or resources that are applied at once; more are on a thread, as
streams and calls of other tenants do not wait for a load."""


async def load(store: LogStore, tenant_id: TenantId) -> TenantState:
    """The present state: the newest snapshot and the entries after it, and the
    floor. Raises StoreError."""
    state = await _present(store, tenant_id)
    return replace(state, floor=await store.floor(tenant_id))


async def _present(store: LogStore, tenant_id: TenantId) -> TenantState:
    snapshot = await store.snapshot(tenant_id)
    start = await _unpacked(snapshot, store.epoch) if snapshot else empty(tenant_id, store.epoch)
    try:
        return await forward(store, start)
    except Compacted:
        # Another process saved a newer snapshot and trimmed in between.
        newer = await store.snapshot(tenant_id)
        if newer is None:
            raise
        return await forward(store, await _unpacked(newer, store.epoch))


async def forward(store: LogStore, state: TenantState, to_revision: int | None = None) -> TenantState:
    """`state` with the entries after it applied, all or up to a revision.
    Raises StoreError; Compacted if they are gone."""
    while to_revision is None or state.revision < to_revision:
        limit = LOAD_ENTRIES if to_revision is None else min(LOAD_ENTRIES, to_revision - state.revision)
        entries = await store.changes(state.tenant_id, state.revision, limit)
        if len(entries) > ON_LOOP_MAX:
            state = await asyncio.to_thread(_applied, state, entries)
        else:
            state = _applied(state, entries)
        if len(entries) < limit:
            break
    return state


async def replay(store: LogStore, tenant_id: TenantId, to_revision: int) -> TenantState:
    """The tenant as it was at a revision. Raises VoxplaneError
    REVISION_COMPACTED or REVISION_IN_FUTURE, and StoreError."""
    snapshot = await store.snapshot(tenant_id)
    start = empty(tenant_id, store.epoch)
    if snapshot and snapshot.revision <= to_revision:
        start = await _unpacked(snapshot, store.epoch)
    try:
        state = await forward(store, start, to_revision)
    except Compacted as compacted:
        # What lies between the trimmed entries and the snapshot cannot be
        # rebuilt: there is no state to begin from.
        floor = max(compacted.floor, snapshot.revision if snapshot else 0)
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_REVISION_COMPACTED,
            f"revision {to_revision} is no longer kept; history begins at {floor}",
            metadata={"floor": str(floor)},
        ) from compacted
    if state.revision < to_revision:
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_REVISION_IN_FUTURE,
            f"the tenant is at revision {state.revision}; {to_revision} is not made yet",
        )
    return replace(state, floor=await store.floor(tenant_id))


async def _unpacked(snapshot: log_pb2.Snapshot, epoch: str) -> TenantState:
    if len(snapshot.resources) > ON_LOOP_MAX:
        return await asyncio.to_thread(from_snapshot, snapshot, epoch)
    return from_snapshot(snapshot, epoch)


def _applied(state: TenantState, entries: Sequence[Entry]) -> TenantState:
    for entry in entries:
        state = apply(state, entry.decode(), entry.hash)
    return state
