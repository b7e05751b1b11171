"""A hub over tenants that change when a test says so, without a store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import cast

from control_plane.fleet import Fleet
from control_plane.state import Change, Tenants, TenantState, empty
from control_plane.watch import EVERY_AGENT, Hub, Permit, WatchSettings
from control_plane.watch.serving import Pieces, Stream
from tests.unit.watch.tenant_log import EPOCH, TenantLog
from tests.virtual_clock import VirtualClock
from voxplane.errors import VoxplaneError
from voxplane.names import TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

PRINCIPAL = "someone"


async def turns_until(met: Callable[[], bool]) -> int:
    """Look at a condition in each turn of the loop; the turns until it is met."""
    turns = 0
    while not met():
        await asyncio.sleep(0)
        turns += 1
    return turns


class SteeredTenants:
    """What the hub asks of control_plane.state.Tenants. A commit is told in the
    very step in which it is made."""

    def __init__(self) -> None:
        self.logs: dict[str, TenantLog] = {}
        self.pinned: dict[str, int] = {}
        self.loads = 0
        self._tell: Callable[[Change], None] = lambda _: None

    def log(self, tenant: str) -> TenantLog:
        """A tenant's log, begun if need be."""
        return self.logs.setdefault(tenant, TenantLog(tenant))

    def told(self, before: TenantState, *, urgent: bool = False) -> None:
        """Tell of the change from a state to the newest."""
        self._tell(Change(before, self.logs[before.tenant_id].state, urgent))

    def publish(self, tenant: str, agent: str, text: str, *, urgent: bool = False) -> None:
        """Commit a version, and tell of it."""
        log = self.log(tenant)
        before = log.state
        log.publish(agent, text)
        self.told(before, urgent=urgent)

    def subscribe(self, listener: Callable[[Change], None]) -> None:
        """See Tenants."""
        self._tell = listener

    def peek(self, tenant_id: TenantId) -> TenantState | None:
        """See Tenants."""
        return self.logs[tenant_id].state if tenant_id in self.logs else None

    async def get(self, tenant_id: TenantId) -> TenantState:
        """See Tenants."""
        self.loads += 1
        return self.peek(tenant_id) or empty(tenant_id, EPOCH)

    async def tenant_ids(self) -> list[TenantId]:
        """See Tenants."""
        return sorted(TenantId(tenant) for tenant, log in self.logs.items() if log.state.revision)

    def ahead(self, tenant_id: TenantId, claimed: int, actual: int) -> None:
        """See Tenants."""

    def pin(self, tenant_id: TenantId) -> None:
        """See Tenants."""
        self.pinned[tenant_id] = self.pinned.get(tenant_id, 0) + 1

    def unpin(self, tenant_id: TenantId) -> None:
        """See Tenants."""
        self.pinned[tenant_id] -= 1
        if not self.pinned[tenant_id]:
            del self.pinned[tenant_id]


class SteeredRights:
    """control_plane.watch.Rights that tests change by hand."""

    def __init__(self) -> None:
        self.permits: dict[str, Permit] = {}
        self.ends: float | None = None
        self.otherwise = EVERY_AGENT
        self._changed: Callable[[], None] = lambda: None

    def permit(self, principal: str, tenant_id: str) -> Permit:
        """What was set."""
        return self.permits.get(tenant_id, self.otherwise)

    def expires(self, principal: str) -> float | None:
        """What was set, or never."""
        return self.ends

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Keep who wants to know."""
        self._changed = listener

    def set(self, tenant_id: str, permit: Permit) -> None:
        """Change a right."""
        self.permits[tenant_id] = permit
        self._changed()


class Held:
    """A stream in a task; what it sends goes to `take`. It waits in its writes
    while `reads` is not set."""

    def __init__(
        self, hub: Hub, request: sync_pb2.WatchConfigRequest, take: Callable[[bytes], object] | None = None
    ) -> None:
        self.messages: list[sync_pb2.WatchConfigResponse] = []
        self.stream: Stream | None = None
        self.error: VoxplaneError | None = None
        self.reads = asyncio.Event()
        self.reads.set()
        self._hub = hub
        self._request = request
        self._take = take
        self.task = asyncio.create_task(self._serve())

    def etags(self, tenant: str) -> dict[str, str]:
        """What a client that reads all has of a tenant."""
        have: dict[str, str] = {}
        for message in self.messages:
            transfer = message.transfer
            if transfer.tenant_id != tenant:
                continue
            if transfer.start.intent == sync_pb2.TRANSFER_INTENT_FULL or transfer.tenant_removed:
                have.clear()
            have.update({bundle.name: bundle.etag for bundle in transfer.bundles})
            for name in transfer.removed:
                have.pop(name, None)
        return have

    async def _serve(self) -> None:
        try:
            self.stream = await self._hub.open(self._request, PRINCIPAL)
            try:
                await self.stream.serve(self._write)
            finally:
                self._hub.close_stream(self.stream)
        except VoxplaneError as error:
            self.error = error

    async def _write(self, pieces: Pieces) -> None:
        data = b"".join(pieces)
        await self.reads.wait()
        if self._take is not None:
            self._take(data)
        else:
            self.messages.append(sync_pb2.WatchConfigResponse.FromString(data))


class AttackWorld:
    """A hub, its tenants, and rights, in virtual time."""

    def __init__(
        self,
        jitter: Callable[[], float] = lambda: 0.5,
        rights: SteeredRights | None = None,
        **settings: float,
    ) -> None:
        self.clock = VirtualClock()
        self.tenants = SteeredTenants()
        self.rights = rights or SteeredRights()
        self.fleet = Fleet(self.clock)
        made = replace(WatchSettings(quiet_seconds=0.0), **settings)  # type: ignore[arg-type]
        tenants = cast("Tenants", self.tenants)
        self.hub = Hub(tenants, self.fleet, self.clock, made, jitter, self.rights)

    def hold(self, request: sync_pb2.WatchConfigRequest | str) -> Held:
        """Open a stream, by its request or of all of a tenant."""
        if isinstance(request, str):
            request = sync_pb2.WatchConfigRequest(tenant_id=request)
        return Held(self.hub, request)

    async def close(self, *held: Held) -> None:
        """End what is open."""
        for each in held:
            each.task.cancel()
        await asyncio.gather(*(each.task for each in held), return_exceptions=True)
        await self.hub.close()
