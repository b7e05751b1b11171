"""Our classes with the mistakes of others in them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from agent_node.upstream import WatchProtocol
from agent_node.upstream.events import Action as NodeAction
from control_plane.state import TenantState
from control_plane.watch import Hub, Stream
from control_plane.watch.planner import Planner
from control_plane.watch.serving import Pieces, Write
from control_plane.watch.stream import Action, StateChanged, StreamState
from control_plane.watch.transfer import Declared
from voxplane.names import TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2


class LosesWhileBusy(Hub):
    """Tells a stream of a change only if it has nothing else to do."""

    def _look(self) -> None:
        marked, self._marked = self._marked, {}
        for tenant_id in marked:
            for watched in (tenant_id, "-"):
                for stream in self._watchers.get(watched, ()):
                    if stream.writing_since is None:
                        stream.mark(tenant_id)
                        stream.wake()


class BusyFirst(Stream):
    """Serves the tenant that has changed last before the others."""

    def _next_tenant(self) -> TenantId:
        tenant_id = next(reversed(self._dirty))
        del self._dirty[tenant_id]
        self._around.pins.pin(self, tenant_id)
        return tenant_id


class ReadsFirst(Hub):
    """Wakes no stream while a read is under way."""

    reads = 0

    async def fetch(self, request: sync_pb2.FetchConfigRequest, principal: str = "") -> bytes:
        """As its parent, with the mistake."""
        self.reads += 1
        try:
            await asyncio.sleep(0)
            return await super().fetch(request, principal)
        finally:
            self.reads -= 1

    def _wake_some(self) -> None:
        if self.reads:
            asyncio.get_running_loop().call_soon(self._wake_some)
        else:
            super()._wake_some()


class Buffers(Stream):
    """Keeps every state until it has been sent."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.buffer: deque[TenantState] = deque()

    def mark(self, tenant_id: TenantId) -> None:
        """As its parent, with the mistake."""
        state = self._around.tenants.peek(tenant_id)
        if state is not None:
            self.buffer.append(state)
        super().mark(tenant_id)

    def _change(self, state: TenantState) -> Any:
        if self.buffer:
            state = self.buffer.popleft()
        if self.buffer:
            self._dirty[state.tenant_id] = None
        return super()._change(state)


class Relists(Planner):
    """Does not care what a client has."""

    def transfer(self, have: Any, state: TenantState, scope: Any) -> Any:
        """As its parent, with the mistake."""
        return super().transfer(Declared() if isinstance(have, Declared) else have, state, scope)


class RelistingNode(WatchProtocol):
    """Declares nothing."""

    def _request(self) -> sync_pb2.WatchConfigRequest:
        return sync_pb2.WatchConfigRequest(tenant_id=self._tenant_id)


class Leaks(Hub):
    """Keeps a stream among the watchers of its tenant when it is over."""

    def close_stream(self, stream: Stream) -> None:
        """As its parent, with the mistake."""
        super().close_stream(stream)
        self._watchers.setdefault(stream.tenant_id, {})[stream] = None


class SendsUnderLock(Stream):
    """All streams send under one lock."""

    lock = asyncio.Lock()

    async def serve(self, write: Write) -> Any:
        """As its parent, with the mistake."""

        async def locked(data: Pieces) -> None:
            async with self.lock:
                await write(data)

        await super().serve(locked)


class NotifiesUnderLock(Hub):
    """Wakes the next stream when the one before has sent."""

    def _wake_some(self) -> None:
        if any(stream.writing_since is not None for stream in self._open()):
            asyncio.get_running_loop().call_later(0, self._wake_some)
        else:
            super()._wake_some()


class WaitsForEver(WatchProtocol):
    """Believes in a stream that says nothing."""

    def _tick(self, now: float) -> list[NodeAction]:
        return []


class WaitsForItsRevision(StreamState):
    """Sends nothing until the log has come as far as the client says it is."""

    def _first(self, event: StateChanged, scope: Any) -> list[Action]:
        have = self._declared.get(event.state.tenant_id)
        if have is not None and have.revision is not None and have.revision > event.state.revision:
            return []
        return super()._first(event, scope)
