"""The sessions of this process' nodes: the table, the nodes' streams, and those
who watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import structlog

from control_plane.sessions.links import Links
from control_plane.sessions.outlet import Write
from control_plane.sessions.refusals import STORE_ERRORS, ended, not_found, refused
from control_plane.sessions.retention import Retention, trim_again_and_again
from control_plane.sessions.watchers import Watchers
from control_plane.store import SessionQuery, SessionTable, StoreError
from control_plane.store.session_table import ENDED
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as pb2

NODE_AWAY_SECONDS = 60.0
COMMAND_SECONDS = 5.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """A node that has no stream for `node_away_seconds` has lost its sessions;
    it has `command_seconds` to answer a command."""

    node_away_seconds: float = NODE_AWAY_SECONDS
    command_seconds: float = COMMAND_SECONDS
    retention: Retention = field(default_factory=Retention)


class Sessions:
    """`start`, then `close`, once each. Errors are VoxplaneError; a store that
    fails is STORE_UNAVAILABLE."""

    def __init__(self, table: SessionTable, clock: Clock, settings: SessionSettings | None = None) -> None:
        self._table = table
        self._clock = clock
        self._settings = settings = settings or SessionSettings()
        self.watchers = Watchers(table)
        self.links = Links(table, self.watchers, clock, settings.node_away_seconds, settings.command_seconds)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Look after nodes that stay away, and forget what is old."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self.links.watch_absent()),
            loop.create_task(trim_again_and_again(self._table, self._clock, self._settings.retention)),
        ]
        for task in self._tasks:
            task.add_done_callback(_tell_of_fault)

    async def close(self) -> None:
        """End all streams with SHUTTING_DOWN, and take no more."""
        self.watchers.close()
        await self.links.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def report(
        self, requests: AsyncIterator[pb2.ReportSessionsRequest], write: Write[pb2.ReportSessionsResponse]
    ) -> None:
        """Serve a node's stream; see Links.serve."""
        await self.links.serve(requests, write)

    async def watch(self, request: pb2.WatchSessionsRequest, write: Write[pb2.WatchSessionsResponse]) -> None:
        """Serve a watcher; see Watchers.serve."""
        await self.watchers.serve(request, write)

    async def get(self, tenant_id: str, session_id: str) -> session_pb2.Session:
        """One session. Raises SESSION_NOT_FOUND."""
        with STORE_ERRORS:
            session = await self._table.get(tenant_id, session_id)
        if session is None:
            raise not_found(session_id)
        return session

    async def turns(self, tenant_id: str, session_id: str) -> Sequence[session_pb2.SessionTurn]:
        """The turns of a session, in order."""
        with STORE_ERRORS:
            return await self._table.turns(tenant_id, session_id)

    async def page(self, query: SessionQuery) -> Sequence[session_pb2.Session]:
        """Sessions of a tenant, the newest first."""
        with STORE_ERRORS:
            return await self._table.page(query)

    async def command(
        self, tenant_id: str, session_id: str, command: pb2.SessionCommand, principal: str
    ) -> session_pb2.Session:
        """Have a session's node do something, of which `command` says what. The
        session as it is when the node has done it. Raises SESSION_NOT_FOUND,
        SESSION_ENDED, NODE_UNREACHABLE, LIMIT_REACHED, and what the node has
        against it."""
        session = await self.get(tenant_id, session_id)
        if session.state == ENDED:
            raise ended(session_id)
        command.session.tenant_id, command.session.session_id = tenant_id, session_id
        log = _log.bind(
            tenant_id=tenant_id,
            session_id=session_id,
            node_id=session.node_id,
            action=command.WhichOneof("action"),
            principal=principal,
        )
        try:
            status = await self.links.command(session.node_id, command)
            if status.code:
                raise refused(status, session.node_id)
        except VoxplaneError as error:
            log.warning("a session was not commanded", reason=error.reason_name)
            raise
        log.info("a session was commanded")
        try:
            return await self._table.get(tenant_id, session_id) or session
        except StoreError:
            return session


def _tell_of_fault(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (fault := task.exception()) is not None:
        _log.error("sessions are not looked after any more", exc_info=fault)
