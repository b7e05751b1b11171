"""The one writer of a SQLite log, which commits in groups.

All commits that arrive while a transaction is on its way to the disk share the
next one. Other work takes turns with them, in transactions of its own.

When the disk fails, what became of the group is not known: a sync that failed
may have written some of it, and does not fail again. So the connection is
replaced, all that was acknowledged is written once more, and the group's
entries are looked for in what is then there. Until that succeeds nothing is
written; each group that comes tries again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import aiosqlite
import structlog

from control_plane.store.log import Commit, OutcomeUnknown, StoreError
from control_plane.store.sqlite_file import LockedFile, connect_to_write
from control_plane.store.sqlite_group import Pending, Written, landed, write_group
from control_plane.store.sqlite_journal import Journal
from control_plane.store.sqlite_thread import connect, run
from control_plane.store.sqlite_work import WORKS_MAX, Work, Worked, do_works, next_works

QUEUED_COMMITS_MAX = 10_000
GROUP_COMMITS_MAX = 256
STALL_SECONDS_MAX = 10.0
"""A group that takes longer has a disk that does not answer: no more is
enqueued behind it."""

T = TypeVar("T")
_FAULTS = (sqlite3.Error, StoreError, OSError, ValueError)
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_PRIMARY = 0xFF
"""Of an extended error code, the bits that say what kind it is."""
_log = structlog.get_logger(__name__)


class SqliteWriter:
    """Owns the connection that writes. `on_commits` hears how many commits a
    group has made durable."""

    def __init__(
        self,
        connection: aiosqlite.Connection,
        journal: Journal,
        reconnect: Callable[[], sqlite3.Connection],
        on_commits: Callable[[int], None],
        stall_seconds_max: float,
    ) -> None:
        self._connection = connection
        self._journal = journal
        self._reconnect = reconnect
        self._on_commits = on_commits
        self._stall_seconds_max = stall_seconds_max
        self._queue: deque[Pending] = deque()
        self._works: deque[Work] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._fault: str | None = None
        self._stalled = False
        self._closed = False

    @classmethod
    async def open(
        cls,
        file: LockedFile,
        on_commits: Callable[[int], None],
        connector: Callable[[], sqlite3.Connection] | None = None,
        stall_seconds_max: float = STALL_SECONDS_MAX,
    ) -> SqliteWriter:
        """Connect to a file that is prepared. Raises sqlite3.Error, StoreError,
        OSError."""
        connector = connector or partial(connect_to_write, file.path)
        connection = await connect(connector)
        journal = Journal(file)
        try:
            await run(connection, journal.begin)
        except BaseException:
            await connection.close()
            raise
        return cls(connection, journal, connector, on_commits, stall_seconds_max)

    def submit(self, pending: Pending) -> None:
        """Put a commit into the next group."""
        if len(self._queue) >= QUEUED_COMMITS_MAX:
            pending.done.set_exception(StoreError(f"{QUEUED_COMMITS_MAX} commits wait already"))
        elif self._takes(pending):
            self._queue.append(pending)

    def submit_work(self, work: Work) -> None:
        """Have work done, durably, in the order of the calls."""
        if len(self._works) >= WORKS_MAX:
            work.done.set_exception(StoreError(f"{WORKS_MAX} writes wait already"))
        elif self._takes(work):
            self._works.append(work)

    async def run(self, work: Callable[[sqlite3.Connection], T], size: int = 0) -> T:
        """Do other work between two groups, which writes about so many bytes.
        Raises StoreError."""
        if self._closed:
            raise StoreError("the store is closed")
        try:
            return await run(self._connection, partial(self._work, work, size))
        except (sqlite3.Error, ValueError) as error:
            if isinstance(error, sqlite3.Error) and not _is_locked(error):
                self._fault = str(error)
            raise StoreError(f"the log cannot be written: {error}") from error

    async def close(self) -> None:
        """Finish what is queued, then close the connection."""
        self._closed = True
        if self._writing is not None:
            await asyncio.wait([self._writing])
        try:
            await run(self._connection, self._journal.end)
        except _FAULTS as error:
            _log.warning("the log was not closed well; the next start looks at it", error=str(error))
        await self._connection.close()

    def _takes(self, one: Pending | Work) -> bool:
        if self._closed:
            one.done.set_exception(StoreError("the store is closed"))
        elif self._stalled:
            one.done.set_exception(self._no_answer())
        else:
            if self._writing is None:
                self._writing = asyncio.get_running_loop().create_task(self._drain())
            return True
        return False

    async def _drain(self) -> None:
        group: Sequence[Pending | Work] = ()
        try:
            while self._queue or self._works:
                if self._queue:
                    count = min(len(self._queue), GROUP_COMMITS_MAX)
                    group = commits = [self._queue.popleft() for _ in range(count)]
                    await self._turn(commits, self._write(commits))
                if self._works:
                    group = works = next_works(self._works)
                    await self._turn(works, self._do(works))
        except BaseException:
            # The loop is being torn down: what becomes of the group is not known.
            for one in (*group, *self._queue, *self._works):
                one.done.cancel()
            self._queue.clear()
            self._works.clear()
            raise
        finally:
            self._writing = None

    async def _turn(
        self, group: Sequence[Pending | Work], writing: Coroutine[Any, Any, Sequence[Any]]
    ) -> None:
        stall = asyncio.get_running_loop().call_later(self._stall_seconds_max, self._stall)
        try:
            outcomes = await writing
        finally:
            stall.cancel()
            self._stalled = False
        self._on_commits(sum(isinstance(outcome, Commit) for outcome in outcomes))
        for one, outcome in zip(group, outcomes, strict=True):
            _answer(one, outcome)
        if self._journal.is_due and self._fault is None:
            try:
                await run(self._connection, self._journal.rotate)
            except _FAULTS as error:
                self._broken(error)

    async def _write(self, group: list[Pending]) -> Sequence[Commit | StoreError]:
        if self._fault is not None:
            try:
                await self._recover()
            except _FAULTS as error:
                self._fault = str(error)
                return [_not_written(error)] * len(group)
        written = await run(self._connection, partial(self._write_here, group))
        if written.fault is None:
            return written.outcomes
        rest = group[len(written.outcomes) :]
        return [*written.outcomes, *await self._faulted(rest, written.fault)]

    async def _do(self, works: list[Work]) -> Sequence[Any]:
        if self._fault is not None:
            try:
                await self._recover()
            except _FAULTS as error:
                self._fault = str(error)
                return [_not_written(error)] * len(works)
        worked = await run(self._connection, partial(self._do_here, works))
        if worked.fault is None:
            return worked.outcomes
        if not _is_locked(worked.fault):
            self._broken(worked.fault)
        return worked.outcomes + [_not_written(worked.fault)] * (len(works) - len(worked.outcomes))

    async def _faulted(
        self, group: list[Pending], fault: sqlite3.Error | StoreError
    ) -> Sequence[Commit | StoreError]:
        if _is_locked(fault):
            return [_not_written(fault)] * len(group)
        self._broken(fault)
        if isinstance(fault, StoreError):
            # It is the place or the content that is wrong, and stays so.
            self._give_up_queue(_not_written(fault))
            known = not isinstance(fault, OutcomeUnknown)
            return [_not_written(fault) if known else fault] * len(group)
        self._journal.in_doubt(len(group))
        try:
            await self._recover()
            found = await run(self._connection, lambda connection: [landed(connection, one) for one in group])
        except _FAULTS as error:
            self._fault = str(error)
            self._give_up_queue(_not_written(error))
            return [OutcomeUnknown(f"the disk failed while the commit was written: {fault}")] * len(group)
        return [one or _not_written(fault) for one in found]

    async def _recover(self) -> None:
        """Replace the connection, and prove that the disk keeps what it is given."""
        self._journal.check_place()
        fresh = await connect(self._reconnect)
        # The fresh one is there first: with the last one SQLite would do away
        # with the journal.
        old, self._connection = self._connection, fresh
        try:
            await old.close()
        except (sqlite3.Error, ValueError) as error:
            _log.warning("a connection to the log was not closed well", error=str(error))
        await run(fresh, self._journal.prove)
        _log.warning("the log can be written again", fault=self._fault)
        self._fault = None

    def _write_here(self, group: list[Pending], connection: sqlite3.Connection) -> Written:
        written = write_group(connection, group, self._journal.guard)
        commits = [one for one in written.outcomes if isinstance(one, Commit)]
        self._journal.written(len(commits), sum(len(one.entry.encoded) for one in commits))
        if commits:
            try:
                self._journal.check_place()
            except StoreError as lost:
                return Written([], OutcomeUnknown(str(lost)))
        return written

    def _do_here(self, works: list[Work], connection: sqlite3.Connection) -> Worked:
        worked = do_works(connection, works, self._journal.guard)
        self._journal.written(0, sum(work.size for work in works))
        try:
            self._journal.check_place()
        except StoreError as lost:
            return Worked([], lost)
        return worked

    def _work(self, work: Callable[[sqlite3.Connection], T], size: int, connection: sqlite3.Connection) -> T:
        done = work(connection)
        self._journal.written(0, size)
        return done

    def _broken(self, fault: Exception) -> None:
        if self._fault is None:
            _log.error("the log cannot be written", error=str(fault))
        self._fault = str(fault)

    def _stall(self) -> None:
        self._stalled = True
        _log.error("the disk does not answer", seconds=self._stall_seconds_max)
        self._give_up_queue(self._no_answer())

    def _no_answer(self) -> StoreError:
        return StoreError(f"the disk has not answered for {self._stall_seconds_max:g} s")

    def _give_up_queue(self, error: StoreError) -> None:
        for one in (*self._queue, *self._works):
            _answer(one, error)
        self._queue.clear()
        self._works.clear()


def _answer(one: Pending | Work, outcome: Any) -> None:
    if one.done.done():
        return
    if isinstance(outcome, StoreError):
        one.done.set_exception(outcome)
    else:
        one.done.set_result(outcome)


def _not_written(error: Exception) -> StoreError:
    return StoreError(f"the log cannot be written: {error}")


def _is_locked(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & _PRIMARY in _LOCKED
