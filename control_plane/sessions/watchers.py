"""Those who watch sessions.

- A watcher is first sent the sessions that run, out of the table, while what
  changes meanwhile waits; so nothing falls in between.
- What waits for a watcher is the newest of each session (unsent.py), so one that
  does not read costs a bounded amount, and holds up nobody.
- After a failure of the store nobody knows what became of what was being
  written: whoever watches it is ended, and lists anew.
"""

from __future__ import annotations

from collections.abc import Iterable

from control_plane.sessions.outlet import Outlet, Write
from control_plane.sessions.refusals import STORE_ERRORS, limit_reached, shutting_down, too_slow
from control_plane.sessions.unsent import SESSIONS_MAX, Unsent
from control_plane.store import SessionChange, SessionQuery, SessionTable
from control_plane.store.session_table import ACTIVE, place_of
from voxplane.errors import VoxplaneError
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as pb2

WATCHERS_MAX = 1_000
LISTED_AT_ONCE = 200
"""Sessions that are read and held while they are sent."""


class Watcher:
    """One who watches a tenant's sessions, or those of one agent."""

    def __init__(
        self,
        tenant_id: str,
        agent_id: str,
        write: Write[pb2.WatchSessionsResponse],
        unsent: Unsent | None = None,
    ) -> None:
        self.tenant_id = tenant_id
        self._agent_id = agent_id
        self._outlet = Outlet(write)
        self._unsent = unsent or Unsent()

    def changed(self, change: SessionChange) -> None:
        """Take a change. A session that goes to another agent is shown once
        more."""
        if self._agent_id and self._agent_id not in (change.session.agent_id, change.agent_before):
            return
        if self._unsent.add(change.session, change.turns):
            self._outlet.wake()
        else:
            self.end(too_slow(SESSIONS_MAX))

    def end(self, error: VoxplaneError) -> None:
        """End the stream, at once."""
        self._outlet.end(error)

    async def serve(self, table: SessionTable) -> None:
        """Send what there is, for ever. Raises the VoxplaneError that the stream
        is ended with."""
        listed = await self._list(table)
        await self._outlet.send(pb2.WatchSessionsResponse(synced=pb2.SessionsSynced(sessions=listed)))
        while True:
            report = self._unsent.next()
            if report is None:
                await self._outlet.wait()
            else:
                await self._outlet.send(pb2.WatchSessionsResponse(changed=report))

    async def _list(self, table: SessionTable) -> int:
        place, count = None, 0
        while True:
            with STORE_ERRORS:
                page = await table.page(
                    SessionQuery(self.tenant_id, self._agent_id, ACTIVE, before=place, limit=LISTED_AT_ONCE)
                )
            for session in page:
                self._unsent.seen(session)
                await self._outlet.send(pb2.WatchSessionsResponse(changed=pb2.SessionReport(session=session)))
            count += len(page)
            if len(page) < LISTED_AT_ONCE:
                return count
            place = place_of(page[-1])


class Watchers:
    """All watchers of the process."""

    def __init__(self, table: SessionTable, watchers_max: int = WATCHERS_MAX) -> None:
        self._table = table
        self._watchers_max = watchers_max
        self._watchers: dict[str, dict[Watcher, None]] = {}
        self._count = 0
        self._closed = False

    @property
    def count(self) -> int:
        """Watchers that are there."""
        return self._count

    async def serve(self, request: pb2.WatchSessionsRequest, write: Write[pb2.WatchSessionsResponse]) -> None:
        """Serve one watcher until it goes. Raises VoxplaneError
        STORE_UNAVAILABLE, READER_TOO_SLOW, LIMIT_REACHED, SHUTTING_DOWN."""
        if self._closed:
            raise shutting_down()
        if self._count >= self._watchers_max:
            raise limit_reached(f"{self._watchers_max} watchers are there")
        watcher = Watcher(request.tenant_id, request.agent_id, write)
        self._watchers.setdefault(watcher.tenant_id, {})[watcher] = None
        self._count += 1
        try:
            await watcher.serve(self._table)
        finally:
            self._count -= 1
            others = self._watchers[watcher.tenant_id]
            del others[watcher]
            if not others:
                del self._watchers[watcher.tenant_id]

    def changed(self, changes: Iterable[SessionChange]) -> None:
        """Sessions have changed, durably."""
        if not self._watchers:
            return
        for change in changes:
            for watcher in self._watchers.get(change.session.tenant_id, ()):
                watcher.changed(change)

    def changed_state(self, sessions: Iterable[session_pb2.Session]) -> None:
        """Sessions were lost, or are there again."""
        self.changed(SessionChange(session, (), session.agent_id) for session in sessions)

    def end(self, error: VoxplaneError) -> None:
        """End all streams, at once."""
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.end(error)

    def close(self) -> None:
        """End all streams with SHUTTING_DOWN, and take no more."""
        self._closed = True
        self.end(shutting_down())
