"""How the writer of a SQLite log uses its disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.store import Commit, CommitMeta, StoreError
from control_plane.store.log import REQUEST_ID_SECONDS
from control_plane.store.sqlite_file import prepare
from control_plane.store.sqlite_group import TRIMMED_ENTRIES, Pending, delete_some, put_snapshot, raise_floor
from control_plane.store.sqlite_writer import GROUP_COMMITS_MAX, SqliteWriter
from tests.contract.log_samples import ACME, NOW, meta, put
from voxplane.names import TenantId


class World:
    """A writer on a new file, and what it does."""

    def __init__(self, writer: SqliteWriter, counted: list[int]) -> None:
        self.writer = writer
        self.counted = counted
        self.statements: list[str] = []

    async def trace(self) -> None:
        """Note the statements from now on."""
        await self.writer.run(lambda connection: connection.set_trace_callback(self.statements.append))

    def transactions(self) -> int:
        """How many transactions were committed since `trace`."""
        return self.statements.count("COMMIT")

    def submit(
        self, at: int, metadata: CommitMeta | None = None, tenant_id: TenantId = ACME
    ) -> asyncio.Future[Commit]:
        """Enqueue a commit on revision `at`."""
        done: asyncio.Future[Commit] = asyncio.get_running_loop().create_future()
        self.writer.submit(Pending(tenant_id, at, [put("x" * 2000)], metadata or meta(), done))
        return done

    async def number(self, statement: str) -> int:
        """The number that a query gives."""
        return await self.writer.run(lambda connection: connection.execute(statement).fetchone()[0])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A writer on a new file."""
    file = prepare(tmp_path / "log.db")
    counted: list[int] = []
    writer = await SqliteWriter.open(file, counted.append)
    yield World(writer, counted)
    await writer.close()
    file.unlock()


async def test_commits_are_on_the_disk(world: World) -> None:
    """The journal is a WAL that is synced with every transaction."""

    def modes(connection: sqlite3.Connection) -> tuple[str, int]:
        (journal,) = connection.execute("PRAGMA journal_mode").fetchone()
        (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
        return journal, synchronous

    full = 2
    assert await world.writer.run(modes) == ("wal", full)


async def test_commits_share_a_transaction(world: World) -> None:
    """Commits that are submitted together are one transaction."""
    await world.trace()
    await asyncio.gather(*(world.submit(at) for at in range(GROUP_COMMITS_MAX)))
    assert world.transactions() == 1
    assert world.counted == [GROUP_COMMITS_MAX]


async def test_a_lone_commit_does_not_wait_for_company(world: World) -> None:
    """Commits that are awaited one by one are a transaction each."""
    await world.trace()
    for at in range(5):
        await world.submit(at)
    assert world.transactions() == 5


async def test_what_comes_during_a_transaction_shares_the_next(world: World) -> None:
    """While one transaction runs the others gather for one more."""
    await world.trace()
    first = world.submit(0)
    await asyncio.sleep(0)
    later = [world.submit(at) for at in range(1, 100)]
    await asyncio.gather(first, *later)
    assert world.transactions() == 2
    assert world.counted == [1, 99]


async def test_a_group_is_bounded(world: World) -> None:
    """More than GROUP_COMMITS_MAX are several transactions, so that the first
    callers are not kept waiting for the last."""
    await world.trace()
    await asyncio.gather(*(world.submit(at) for at in range(2 * GROUP_COMMITS_MAX + 1)))
    assert world.transactions() == 3


async def test_a_full_disk_acknowledges_nothing(world: World) -> None:
    """When the file can grow no more each commit of the group fails, small
    ones before and after it as well; with room again the writer works on."""
    await world.submit(0)
    pages = await world.number("PRAGMA page_count")
    await world.number(f"PRAGMA max_page_count = {pages + 5}")
    pending = [world.submit(at) for at in range(1, 101)]
    outcomes = await asyncio.gather(*pending, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreError] * 100
    assert "full" in str(outcomes[0])
    assert await world.number("SELECT count(*) FROM entries") == 1
    assert sum(world.counted) == 1
    await world.number("PRAGMA max_page_count = 1000000")
    assert (await world.submit(1)).revision == 2


async def test_a_commit_that_cannot_be_written_fails_alone(world: World) -> None:
    """A commit whose values no column takes fails late, and takes none of its
    group with it."""
    unfit = CommitMeta("ann", "m", NOW, "r", response=object())  # type: ignore[arg-type]
    pending = [world.submit(0), world.submit(1, unfit), world.submit(1), world.submit(2)]
    outcomes = await asyncio.gather(*pending, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["Commit", "StoreError", "Commit", "Commit"]
    assert await world.number("SELECT count(*) FROM entries") == 3


async def test_expired_requests_are_deleted(world: World) -> None:
    """The writer clears away what has expired, with the commits that come."""
    await asyncio.gather(*(world.submit(at, meta(f"r{at}", NOW + at)) for at in range(20)))
    await world.submit(20, meta(time=NOW + REQUEST_ID_SECONDS + 9.5))
    assert await world.number("SELECT count(*) FROM requests") == 10


async def test_a_long_trim_lets_commits_through(world: World) -> None:
    """Entries are deleted a part at a time; the floor hides all of them at once."""
    count = TRIMMED_ENTRIES + 10
    await asyncio.gather(*(world.submit(at) for at in range(count)))
    await world.writer.run(lambda connection: put_snapshot(connection, ACME, count, b""))
    assert await world.writer.run(lambda connection: raise_floor(connection, ACME, count)) == count
    assert await world.writer.run(lambda connection: delete_some(connection, ACME, count))
    assert await world.number("SELECT count(*) FROM entries") == 10
    assert (await world.submit(count)).revision == count + 1
    assert not await world.writer.run(lambda connection: delete_some(connection, ACME, count))
    assert await world.number("SELECT min(revision) FROM entries") == count + 1


async def test_a_loop_that_ends_gives_the_commits_up(tmp_path: Path) -> None:
    """When the tasks of the loop are cancelled nobody waits for ever."""
    file = prepare(tmp_path / "log.db")
    writer = await SqliteWriter.open(file, lambda commits: None)
    world = World(writer, [])
    before = asyncio.all_tasks()
    pending = [world.submit(at) for at in range(3)]
    await asyncio.sleep(0)
    pending.append(world.submit(3))
    (drain,) = asyncio.all_tasks() - before
    drain.cancel()
    outcomes = await asyncio.gather(*pending, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    await writer.close()
    file.unlock()
