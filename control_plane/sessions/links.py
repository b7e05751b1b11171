"""The streams of all nodes, and what becomes of the sessions of those that have
none.

- Of the streams of one node the newest counts; an older one is ended.
- What is written for a node is written one after the other, and only for the
  stream that counts: no word of an older one can come after that of a newer.
- A node that has no stream for `away_seconds` has lost its sessions, also one
  that was last seen by a process before this one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import structlog
from google.rpc import status_pb2

from control_plane.sessions.absent import Absent
from control_plane.sessions.node_link import NodeLink
from control_plane.sessions.outlet import Write
from control_plane.sessions.refusals import (
    RETRY_SECONDS,
    STORE_ERRORS,
    limit_reached,
    replaced,
    shutting_down,
    store_unavailable,
    unreachable,
)
from control_plane.sessions.watchers import Watchers
from control_plane.store import SessionId, SessionTable, StoreError
from voxplane.clock import Clock
from voxplane.v1 import session_service_pb2 as pb2

NODES_MAX = 20_000

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Seat:
    """A node: its stream, and who writes for it."""

    node_id: str
    link: NodeLink | None = None
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Links:
    """Nodes that have a stream, or have had one not long ago."""

    def __init__(
        self,
        table: SessionTable,
        watchers: Watchers,
        clock: Clock,
        away_seconds: float,
        command_seconds: float,
        nodes_max: int = NODES_MAX,
    ) -> None:
        self._table = table
        self._watchers = watchers
        self._clock = clock
        self._command_seconds = command_seconds
        self._nodes_max = nodes_max
        self._seats: dict[str, _Seat] = {}
        self._links: set[NodeLink] = set()
        self._absent = Absent(away_seconds)
        self._left = asyncio.Event()
        self._writing: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def count(self) -> int:
        """Streams that are open."""
        return len(self._links)

    async def serve(
        self, requests: AsyncIterator[pb2.ReportSessionsRequest], write: Write[pb2.ReportSessionsResponse]
    ) -> None:
        """Serve one stream until its node ends it. Raises VoxplaneError
        INVALID_REQUEST, NODE_REPLACED, STORE_UNAVAILABLE, LIMIT_REACHED,
        SHUTTING_DOWN."""
        if self._closed:
            raise shutting_down()
        if len(self._links) >= self._nodes_max:
            raise limit_reached(f"{self._nodes_max} nodes report sessions")
        link = NodeLink(self, self._clock, write)
        self._links.add(link)
        try:
            await link.serve(requests)
        finally:
            self._links.discard(link)
            self._leave(link)

    async def command(self, node_id: str, command: pb2.SessionCommand) -> status_pb2.Status:
        """Have a node do something, and return what it answers. Raises
        VoxplaneError NODE_UNREACHABLE, LIMIT_REACHED."""
        seat = self._seats.get(node_id)
        if seat is None or seat.link is None:
            raise unreachable(node_id, "is not connected")
        return await seat.link.command(command, self._command_seconds)

    async def greet(self, link: NodeLink, node_id: str, running: frozenset[SessionId]) -> None:
        """See Keeper."""
        seat = self._take_seat(node_id)
        if seat.link is not None:
            seat.link.end(replaced(node_id))
        seat.link = link
        self._absent.came(node_id)
        await self._in_turn(seat, link, partial(self._reconcile, node_id, running))

    async def keep(self, link: NodeLink, reports: Sequence[pb2.SessionReport]) -> None:
        """See Keeper."""
        await self._in_turn(self._take_seat(link.node_id), link, partial(self._put, reports))

    async def watch_absent(self) -> None:
        """Have the sessions of nodes that stay away lost, until cancelled."""
        await self._find_absent()
        while True:
            now = self._clock.monotonic()
            due = self._absent.next_due()
            if due is None:
                self._left.clear()
                await self._left.wait()
            elif due > now:
                await self._clock.sleep(due - now)
            elif not await self._lose(self._absent.due(now) or ""):
                await self._clock.sleep(RETRY_SECONDS)

    async def close(self) -> None:
        """End all streams with SHUTTING_DOWN, and take no more."""
        self._closed = True
        for link in list(self._links):
            link.end(shutting_down())
        if self._writing:
            await asyncio.wait(self._writing)

    def _take_seat(self, node_id: str) -> _Seat:
        seat = self._seats.get(node_id)
        if seat is None:
            if len(self._seats) >= self._nodes_max:
                raise limit_reached(f"{self._nodes_max} nodes report sessions, or did not long ago")
            seat = self._seats[node_id] = _Seat(node_id)
        return seat

    def _leave(self, link: NodeLink) -> None:
        seat = self._seats.get(link.node_id)
        if seat is not None and seat.link is link:
            seat.link = None
            self._absent.left(seat.node_id, self._clock.monotonic())
            self._left.set()

    async def _in_turn(self, seat: _Seat, link: NodeLink, write: Callable[[], Awaitable[None]]) -> None:
        """Write for a link, to the end also if it goes meanwhile: only then is
        it another one's turn, and watchers are told in any case."""

        async def run() -> None:
            async with seat.writing:
                if seat.link is not link:
                    raise replaced(seat.node_id)
                with STORE_ERRORS:
                    await write()

        task = asyncio.get_running_loop().create_task(run())
        self._writing.add(task)
        task.add_done_callback(self._written)
        await asyncio.shield(task)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()

    async def _put(self, reports: Sequence[pb2.SessionReport]) -> None:
        self._watchers.changed(await self._table.put(reports, self._clock.time()))

    async def _reconcile(self, node_id: str, running: frozenset[SessionId]) -> None:
        try:
            changed = await self._table.reconcile(node_id, running, self._clock.time())
        except StoreError:
            self._watchers.end(store_unavailable())
            raise
        self._watchers.changed_state(changed)
        if changed:
            _log.info("sessions were lost or found again", node_id=node_id, sessions=len(changed))

    async def _find_absent(self) -> None:
        """Take note of the nodes whose sessions ran when this process began."""
        while True:
            with suppress(StoreError):
                for node_id in await self._table.active_nodes():
                    if node_id not in self._seats:
                        self._seats[node_id] = _Seat(node_id)
                        self._absent.left(node_id, self._clock.monotonic())
                return
            await self._clock.sleep(RETRY_SECONDS)

    async def _lose(self, node_id: str) -> bool:
        """The sessions of a node that stays away are lost; False if the store
        failed."""
        seat = self._seats[node_id]
        async with seat.writing:
            if seat.link is not None:
                self._absent.came(node_id)
                return True
            try:
                await self._reconcile(node_id, frozenset())
            except StoreError as error:
                _log.error("the store failed", error=str(error))
                return False
        if seat.link is None:
            self._absent.came(node_id)
            del self._seats[node_id]
            _log.warning("a node that reports sessions stays away", node_id=node_id)
        return True
