"""The states of all tenants in this process, and the one way to change them."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import Message

from control_plane.state.decision import Decide, ResponseT
from control_plane.state.tenant_state import TenantState
from control_plane.store import LogStore
from voxplane.clock import Clock
from voxplane.names import TenantId

Listener = Callable[[TenantState], None]


class Tenants:
    """One per process."""

    def __init__(self, store: LogStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def get(self, tenant_id: TenantId) -> TenantState:
        """The tenant's state, loaded if need be; revision 0 if it has none.
        Raises VoxplaneError STORE_UNAVAILABLE."""
        raise NotImplementedError

    def peek(self, tenant_id: TenantId) -> TenantState | None:
        """The tenant's state, if it is in memory."""
        raise NotImplementedError

    async def commit(
        self, tenant_id: TenantId, decide: Decide[ResponseT], request: Message, *, method: str, principal: str
    ) -> ResponseT:
        """Decide, commit, and return the answer when it is durable."""
        raise NotImplementedError

    def subscribe(self, listener: Listener) -> None:
        """Have `listener` called with the new state after each durable commit,
        on the event loop. It must not block or raise."""
        raise NotImplementedError

    def pin(self, tenant_id: TenantId) -> None:
        """Keep the tenant in memory, once it is there, until `unpin`."""
        raise NotImplementedError

    def unpin(self, tenant_id: TenantId) -> None:
        """Undo one `pin`."""
        raise NotImplementedError

    async def tenant_ids(self) -> list[TenantId]:
        """All tenants that have a commit, in ascending order."""
        raise NotImplementedError
