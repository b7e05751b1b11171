"""Nodes and watchers of sessions, in memory and in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection, Coroutine, Sequence
from typing import Any

from google.rpc import status_pb2

from control_plane.sessions import Sessions, SessionSettings
from control_plane.store import MemoryStore, SessionChange, SessionId, SessionQuery, SessionTable, StoreError
from control_plane.store.session_table import ACTIVE, id_of
from tests.virtual_clock import VirtualClock
from voxplane.errors import VoxplaneError, to_status
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as pb2

SECONDS_MAX = 20.0


class FaultyTable:
    """Passes everything to a table in memory. Writes wait while `gate` is
    closed, and their answers while `answers` is; while `broken` all calls fail,
    and `writes_fail` those that write. To reconcile is to read and then to
    write, as on a disk."""

    def __init__(self, inner: SessionTable) -> None:
        self.inner = inner
        self.gate = asyncio.Event()
        self.gate.set()
        self.answers = asyncio.Event()
        self.answers.set()
        self.broken = False
        self.writes_fail = False
        self.trims: list[tuple[float, int]] = []

    def put(self, reports: Sequence[pb2.SessionReport], now: float) -> Awaitable[list[SessionChange]]:
        """See SessionTable."""
        kept = [pb2.SessionReport.FromString(report.SerializeToString()) for report in reports]
        return asyncio.ensure_future(self._write(self.inner.put, kept, now))

    async def reconcile(
        self, node_id: str, running: Collection[SessionId], now: float
    ) -> list[session_pb2.Session]:
        """See SessionTable."""
        before = await self._active(node_id)

        async def write() -> list[session_pb2.Session]:
            lost = before - frozenset(running)
            back = frozenset(running) - before
            return await self.inner.reconcile(node_id, (await self._active(node_id) - lost) | back, now)

        return await self._write(write)

    async def get(self, tenant_id: str, session_id: str) -> session_pb2.Session | None:
        """See SessionTable."""
        self._check(self.broken)
        return await self.inner.get(tenant_id, session_id)

    async def turns(self, tenant_id: str, session_id: str) -> list[session_pb2.SessionTurn]:
        """See SessionTable."""
        self._check(self.broken)
        return await self.inner.turns(tenant_id, session_id)

    async def page(self, query: SessionQuery) -> list[session_pb2.Session]:
        """See SessionTable."""
        self._check(self.broken)
        return await self.inner.page(query)

    async def active_nodes(self) -> list[str]:
        """See SessionTable."""
        self._check(self.broken)
        return await self.inner.active_nodes()

    async def trim(self, changed_before: float, sessions_max: int) -> int:
        """See SessionTable."""
        self.trims.append((changed_before, sessions_max))
        self._check(self.broken)
        return await self.inner.trim(changed_before, sessions_max)

    async def _write(self, do: Any, *arguments: Any) -> Any:
        await self.gate.wait()
        self._check(self.broken or self.writes_fail)
        done = await do(*arguments)
        await self.answers.wait()
        return done

    async def _active(self, node_id: str) -> frozenset[SessionId]:
        """A node's active sessions of acme."""
        page = await self.inner.page(SessionQuery("acme", state=ACTIVE, node_id=node_id))
        return frozenset(id_of(each) for each in page)

    def _check(self, fails: bool) -> None:
        if fails:
            raise StoreError("the disk is gone")


class FaultyStore:
    """Passes everything to a store in memory; its table can fail."""

    def __init__(self) -> None:
        self._inner = MemoryStore()
        self.sessions = FaultyTable(self._inner.sessions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Out:
    """What a stream has written. Writes wait while `gate` is closed."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def write(self, message: Any) -> None:
        """Take a message."""
        await self.gate.wait()
        self.messages.append(message)

    def take(self) -> list[Any]:
        """What has come since the last time."""
        taken, self.messages = self.messages, []
        return taken


class Node:
    """One stream of a node."""

    def __init__(self, sessions: Sessions) -> None:
        self.out = Out()
        self._told: asyncio.Queue[pb2.ReportSessionsRequest | None] = asyncio.Queue()
        self._sequence = 0
        self.stream = _begin(sessions.report(self._requests(), self.out.write))

    def hello(self, node_id: str = "n1", *running: str) -> None:
        """Say which sessions of acme run."""
        hello = pb2.SessionReporter(node_id=node_id)
        for session_id in running:
            hello.running.add(tenant_id="acme", session_id=session_id)
        self.tell(pb2.ReportSessionsRequest(hello=hello))

    def batch(self, *reports: pb2.SessionReport) -> int:
        """Report; returns the number of the batch."""
        self._sequence += 1
        batch = pb2.SessionBatch(sequence=self._sequence, reports=reports)
        self.tell(pb2.ReportSessionsRequest(batch=batch))
        return self._sequence

    def answer(self, command: pb2.SessionCommand, error: VoxplaneError | None = None) -> None:
        """Answer a command: it is done, or refused."""
        status = to_status(error) if error else status_pb2.Status()
        result = pb2.SessionCommandResult(command_id=command.command_id, status=status)
        self.tell(pb2.ReportSessionsRequest(result=result))

    def tell(self, message: pb2.ReportSessionsRequest) -> None:
        """Send a message."""
        self._told.put_nowait(message)

    def done(self) -> None:
        """End this side of the stream."""
        self._told.put_nowait(None)

    def stored(self) -> list[int]:
        """What has been acknowledged since the last time."""
        return [each.stored_sequence for each in self.out.take() if each.HasField("stored_sequence")]

    def commands(self) -> list[pb2.SessionCommand]:
        """The commands that have come since the last time."""
        return [each.command for each in self.out.take() if each.HasField("command")]

    def reason(self) -> str:
        """Why the stream has ended."""
        return reason_of(self.stream)

    async def _requests(self) -> AsyncIterator[pb2.ReportSessionsRequest]:
        while (message := await self._told.get()) is not None:
            yield message


class Watch:
    """One watcher."""

    def __init__(self, sessions: Sessions, agent_id: str = "", tenant_id: str = "acme") -> None:
        self.out = Out()
        request = pb2.WatchSessionsRequest(tenant_id=tenant_id, agent_id=agent_id)
        self.stream = _begin(sessions.watch(request, self.out.write))

    def seen(self) -> list[Any]:
        """What has come since the last time: of a session its id, state and
        sequence, and the numbers of its turns; of synced its count."""
        return [_brief(message) for message in self.out.take()]

    def reason(self) -> str:
        """Why the stream has ended."""
        return reason_of(self.stream)


class World:
    """Sessions on a table that can fail."""

    def __init__(self, settings: SessionSettings | None = None, table: SessionTable | None = None) -> None:
        self.clock = VirtualClock()
        self.table = FaultyTable(table or MemoryStore().sessions)
        self.sessions = Sessions(self.table, self.clock, settings)

    async def node(self, node_id: str = "n1", *running: str) -> Node:
        """A node that has said hello."""
        node = Node(self.sessions)
        node.hello(node_id, *running)
        await self.settle()
        return node

    async def watch(self, agent_id: str = "", tenant_id: str = "acme") -> Watch:
        """A watcher that has been sent all there is."""
        watch = Watch(self.sessions, agent_id, tenant_id)
        await self.settle()
        return watch

    async def settle(self) -> None:
        """Let all tasks run."""
        for _ in range(3):
            await self.clock.settle()

    def start(self, call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A call that goes on beside the test."""
        return asyncio.create_task(call)

    async def state(self, session_id: str = "s1") -> session_pb2.SessionState:
        """The state of a session of acme."""
        found = await self.table.inner.get("acme", session_id)
        assert found is not None
        return found.state


def reason_of(task: asyncio.Future[Any]) -> str:
    """The reason of the error that a call ended with; "" if it ended without."""
    error = task.exception()
    if error is None:
        return ""
    assert isinstance(error, VoxplaneError), error
    return error.reason_name


def _begin(stream: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A stream whose end need not be looked at."""
    task = asyncio.create_task(stream)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


def _brief(message: pb2.WatchSessionsResponse) -> Any:
    if message.HasField("synced"):
        return message.synced.sessions
    changed = message.changed
    state = session_pb2.SessionState.Name(changed.session.state).removeprefix("SESSION_STATE_")
    return changed.session.session_id, state, changed.session.sequence, [turn.turn for turn in changed.turns]
