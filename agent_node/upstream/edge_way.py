"""The way over the edge: its channel, and when the node takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import structlog

from agent_node.upstream.routes import NEVER, Edge, Routes
from voxplane.clock import Clock
from voxplane.tls import TlsError
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc

CONNECT_SECONDS_MAX = 5.0
FIRST_MESSAGE_SECONDS_MAX = 15.0
"""A stream of the edge that has said nothing for so long is given up."""

_log = structlog.stdlib.get_logger(__name__)


class EdgeWay:
    """One stream at a time: `begin`, `heard` for each message, `end`."""

    def __init__(
        self, routes: Routes, open_channel: Callable[[Edge], grpc.aio.Channel], clock: Clock
    ) -> None:
        self.routes = routes
        self._open_channel = open_channel
        self._clock = clock
        self._channel: grpc.aio.Channel | None = None
        self._leads_to: Edge | None = None
        self._task: asyncio.Task[None] | None = None
        self._heard = False
        self._taken = False

    async def begin(self, give_up: Callable[[str], None]) -> sync_grpc.ConfigSyncServiceAsyncStub | None:
        """A stream is opened: by this stub, if it takes the edge. `give_up` ends
        it."""
        edge = self.routes.begin()
        self._heard, self._taken = False, edge is not None
        if edge is None:
            return None
        try:
            channel = await self._channel_to(edge)
        except TlsError as error:
            _log.error("no channel to the edge", address=edge.address, reason=str(error))
            self._taken = False
            self.routes.unreached()
            return None
        self._task = asyncio.create_task(self._first_message(give_up))
        _log.info("stream takes the edge", address=edge.address, tls=edge.tls)
        return sync_grpc.ConfigSyncServiceStub(channel)

    def heard(
        self, message: sync_pb2.WatchConfigResponse, move: Callable[[], None], *, in_step: bool
    ) -> None:
        """A message has come. `move` ends the stream for another by the edge."""
        if not self._heard:
            self._heard = True
            if not self._taken:
                self.routes.told(message.edge_offer if message.HasField("edge_offer") else None)
        if in_step:
            self.routes.in_step(self._clock.monotonic())
            if self.routes.due < NEVER and (self._task is None or self._task.done()):
                self._task = asyncio.create_task(self._until_ready(move))

    def end(self) -> None:
        """The stream is over."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def close(self) -> None:
        """Let go of the channel."""
        self.end()
        channel, self._channel, self._leads_to = self._channel, None, None
        if channel is not None:
            await channel.close()

    async def _first_message(self, give_up: Callable[[str], None]) -> None:
        await self._clock.sleep(FIRST_MESSAGE_SECONDS_MAX)
        if not self._heard:
            give_up(f"the edge has said nothing for {FIRST_MESSAGE_SECONDS_MAX:g} s")

    async def _until_ready(self, move: Callable[[], None]) -> None:
        while True:
            await self._clock.sleep(self.routes.due - self._clock.monotonic())
            offer = self.routes.offer
            if offer is None:
                return
            if await self._connects(offer):
                self.routes.ready()
                move()
                return
            self.routes.not_ready(self._clock.monotonic())
            _log.warning("the edge takes no connections", address=offer.address)

    async def _connects(self, edge: Edge) -> bool:
        try:
            channel = await self._channel_to(edge)
        except TlsError:
            return False
        ready = asyncio.ensure_future(channel.channel_ready())
        late = asyncio.ensure_future(self._clock.sleep(CONNECT_SECONDS_MAX))
        try:
            await asyncio.wait({ready, late}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                return True
        finally:
            ready.cancel()
            late.cancel()
        await self._drop()
        return False

    async def _channel_to(self, edge: Edge) -> grpc.aio.Channel:
        if self._channel is None or self._leads_to != edge:
            await self._drop()
            self._channel, self._leads_to = self._open_channel(edge), edge
        return self._channel

    async def _drop(self) -> None:
        channel, self._channel, self._leads_to = self._channel, None, None
        if channel is not None:
            await channel.close()
