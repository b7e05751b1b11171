"""A server with mistakes in it, each rare: that the suite finds them shows that
it would find them in ours."""

from __future__ import annotations

import time
from typing import Any

from google.protobuf.message import Message

from control_plane.services.config_sync import ConfigSyncService
from control_plane.state import Tenants, TenantState
from voxplane.names import TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

FORGOTTEN_EVERY = 20
"""Commits of which one is acknowledged and not made."""
STALE_SECONDS = 0.5
LOST_EVERY = 25
"""Messages of a stream of which one does not come."""


class ForgetfulTenants(Tenants):
    """Acknowledges commits that it has not made, and serves reads from a cache
    that it does not refresh."""

    def __init__(self, *parts: Any, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._commits = 0
        self._cached: dict[TenantId, tuple[float, TenantState]] = {}

    async def get(self, tenant_id: TenantId) -> TenantState:
        """Perhaps the state of a moment ago."""
        since, state = self._cached.get(tenant_id, (0.0, None))
        if state is None or time.monotonic() - since > STALE_SECONDS:
            state = await super().get(tenant_id)
            self._cached[tenant_id] = (time.monotonic(), state)
        return state

    async def commit(self, tenant_id: TenantId, decide: Any, request: Message, **more: Any) -> Any:
        """Perhaps only decided."""
        self._commits += 1
        if self._commits % FORGOTTEN_EVERY == 0:
            only_asked: Any = type(request)()
            only_asked.CopyFrom(request)
            only_asked.validate_only = True
            return await super().commit(tenant_id, decide, only_asked, **more)
        return await super().commit(tenant_id, decide, request, **more)


class LossyConfigSync(ConfigSyncService):
    """Loses messages of a stream, and counts as if there had been none."""

    async def watch_config(self, request: sync_pb2.WatchConfigRequest, context: Any) -> None:
        """Perhaps not all of it."""
        lossy: Any = _Lossy(context)
        await super().watch_config(request, lossy)


class _Lossy:
    """The context of a call, but for what it writes."""

    push = None

    def __init__(self, context: Any) -> None:
        self._context = context
        self._messages = 0
        self._lost = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, pieces: tuple[bytes, bytes]) -> None:
        """Perhaps nothing."""
        self._messages += 1
        if self._messages % LOST_EVERY == 0:
            self._lost += 1
            return
        message = sync_pb2.WatchConfigResponse.FromString(b"".join(pieces))
        message.nonce = str(int(message.nonce) - self._lost)
        await self._context.write((message.SerializeToString(), b""))
