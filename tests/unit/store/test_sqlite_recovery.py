"""What the writer of a SQLite log does when its disk or its file fails."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from control_plane.store import Commit, OutcomeUnknown, RevisionConflict, StoreError, sqlite_journal
from control_plane.store.sqlite_file import LockedFile, prepare
from control_plane.store.sqlite_group import Pending, put_snapshot
from control_plane.store.sqlite_writer import GROUP_COMMITS_MAX, SqliteWriter
from tests.contract.log_samples import ACME, meta, put
from tests.unit.store.faulty import Faults, connect_faulty, failure

WAIT_SECONDS_MAX = 20


class World:
    """A writer on a disk with faults."""

    def __init__(self, file: LockedFile, faults: Faults) -> None:
        self.file = file
        self.faults = faults
        self.counted = 0
        self.writer: SqliteWriter

    async def start(self, stall_seconds_max: float = 100.0) -> None:
        """Open the writer."""
        connector = partial(connect_faulty, self.file.path, self.faults)
        self.writer = await SqliteWriter.open(self.file, self._count, connector, stall_seconds_max)

    def _count(self, commits: int) -> None:
        self.counted += commits

    def submit(self, at: int, text: str = "a", request_id: str = "") -> asyncio.Future[Commit]:
        """Enqueue a commit on revision `at`."""
        done: asyncio.Future[Commit] = asyncio.get_running_loop().create_future()
        self.writer.submit(Pending(ACME, at, [put(text)], meta(request_id), done))
        return done

    async def outcomes(self, first: int, count: int) -> set[type]:
        """The kinds of outcome of commits that are submitted together."""
        pending = [self.submit(at) for at in range(first, first + count)]
        return {type(one) for one in await asyncio.gather(*pending, return_exceptions=True)}

    async def entries(self) -> int:
        """How many entries the log has."""
        count = "SELECT count(*) FROM entries"
        return await self.writer.run(lambda connection: connection.execute(count).fetchone()[0])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A writer on a new file, and a second connection, as a store has."""
    file = prepare(tmp_path / "log.db")
    made = World(file, Faults())
    await made.start()
    with closing(sqlite3.connect(file.path)) as reader:
        reader.execute("SELECT * FROM heads").fetchall()
        yield made
        made.faults.go.set()
        await made.writer.close()
    file.unlock()


async def test_a_group_that_failed_is_not_made(world: World) -> None:
    """When the disk works again at once, each of the group is known not to be
    made; the connection is another one."""
    await world.submit(0)
    world.faults.before |= {"COMMIT"}
    assert await world.outcomes(1, 3) == {StoreError}
    assert world.faults.connections == 2
    world.faults.before.clear()
    assert [(await world.submit(1)).revision, await world.entries(), world.counted] == [2, 2, 2]
    assert world.faults.connections == 2


async def test_a_commit_whose_answer_was_lost_is_found(world: World) -> None:
    """A group that the disk has after all is acknowledged."""
    await world.submit(0)
    world.faults.after |= {"COMMIT"}
    pending = [world.submit(1, "b"), world.submit(2, "c"), world.submit(7, "d")]
    first, second, refused = await asyncio.gather(*pending, return_exceptions=True)
    assert isinstance(first, Commit)
    assert isinstance(second, Commit)
    assert (first.revision, second.revision, await world.entries(), world.counted) == (2, 3, 3, 3)
    assert isinstance(refused, StoreError)
    assert second.entry.decode().mutations[0] == put("c")


async def test_another_commit_of_that_revision_is_not_taken_for_it(world: World) -> None:
    """What is found in the log counts only if it is the very entry."""
    await world.submit(0, "theirs")
    world.faults.before |= {"COMMIT"}
    assert isinstance(*await asyncio.gather(world.submit(0, "ours"), return_exceptions=True), StoreError)


async def test_commits_in_doubt_may_turn_up(world: World) -> None:
    """Commits whose outcome was left open are in the log after all when the
    disk works again: it is still our log, and goes on from there."""
    await world.submit(0)
    world.faults.after |= {"COMMIT"}
    world.faults.before |= {"INSERT OR REPLACE INTO meta"}
    assert await world.outcomes(1, 2) == {OutcomeUnknown}
    assert await world.outcomes(1, 1) == {StoreError}
    world.faults.after.clear()
    world.faults.before.clear()
    with pytest.raises(RevisionConflict):
        await world.submit(1)
    assert (await world.submit(3)).revision == 4


async def test_a_disk_that_stays_broken_leaves_the_outcome_open(world: World) -> None:
    """As long as nothing can be written the group's outcome is unknown, and is
    said to be; what comes later is refused untried; then all goes on."""
    await world.submit(0)
    world.faults.before |= {"COMMIT", "INSERT OR REPLACE INTO meta"}
    pending = [world.submit(at) for at in range(1, GROUP_COMMITS_MAX + 11)]
    outcomes = await asyncio.gather(*pending, return_exceptions=True)
    assert {type(one) for one in outcomes[:GROUP_COMMITS_MAX]} == {OutcomeUnknown}
    assert {type(one) for one in outcomes[GROUP_COMMITS_MAX:]} == {StoreError}
    assert await world.outcomes(1, 5) == {StoreError}
    assert world.counted == 1
    world.faults.before.clear()
    assert (await world.submit(1)).revision == 2
    assert await world.entries() == 2


async def test_a_file_that_is_locked_by_another_program(world: World) -> None:
    """While somebody else writes, commits fail and are known not to be made;
    nothing is wrong with the disk."""
    await world.submit(0)
    await world.writer.run(lambda connection: connection.execute("PRAGMA busy_timeout=0"))
    with closing(sqlite3.connect(world.file.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert await world.outcomes(1, 3) == {StoreError}
        other.execute("ROLLBACK")
    assert (await world.submit(1)).revision == 2
    assert world.faults.connections == 1


@pytest.mark.parametrize("name", ["log.db", "log.db-wal"])
async def test_a_file_that_is_taken_away_acknowledges_nothing(world: World, name: str) -> None:
    """Once the file or its journal has lost its name, no commit is made in it,
    and it is not taken for the file again when it comes back empty."""
    await world.submit(0)
    gone = world.file.path.with_name(name)
    gone.rename(gone.with_name("gone"))
    assert await world.outcomes(1, 3) == {StoreError}
    gone.touch()
    assert await world.outcomes(1, 3) == {StoreError}
    assert (await world.entries(), world.counted) == (1, 1)
    gone.unlink()
    gone.with_name("gone").rename(gone)


async def test_a_file_that_goes_during_the_commit_leaves_the_outcome_open(world: World) -> None:
    """A commit into a file that loses its name meanwhile is not acknowledged."""
    await world.submit(0)
    world.faults.hold = "COMMIT"
    pending = world.submit(1)
    assert await asyncio.to_thread(world.faults.held.wait, WAIT_SECONDS_MAX)
    path = world.file.path
    path.rename(path.with_name("gone"))
    world.faults.go.set()
    with pytest.raises(OutcomeUnknown):
        await pending
    path.with_name("gone").rename(path)


async def test_a_log_that_another_program_changes_is_left_alone(world: World) -> None:
    """A log whose commits are no longer those that were made is not written to."""
    await world.submit(0)
    await world.submit(1)
    with closing(sqlite3.connect(world.file.path)) as other:
        other.execute("DELETE FROM entries WHERE revision = 2")
        other.execute("UPDATE heads SET revision = 1")
        other.commit()
    assert await world.outcomes(1, 2) == {StoreError}
    assert await world.outcomes(2, 2) == {StoreError}


async def test_tables_of_others_disturb_nobody(world: World) -> None:
    """Another program may keep a table of its own beside the log."""
    await world.submit(0)
    with closing(sqlite3.connect(world.file.path)) as other:
        other.execute("CREATE TABLE theirs (a)")
        other.commit()
    assert (await world.submit(1)).revision == 2
    assert world.faults.connections == 1


async def test_a_disk_that_does_not_answer_holds_nobody_for_ever(tmp_path: Path) -> None:
    """Behind a group that takes too long nothing waits: what is queued and what
    comes is refused. When the disk answers after all the group is made."""
    file = prepare(tmp_path / "log.db")
    world = World(file, Faults())
    await world.start(stall_seconds_max=0.0)
    world.faults.hold = "COMMIT"
    first = world.submit(0)
    assert await asyncio.to_thread(world.faults.held.wait, WAIT_SECONDS_MAX)
    with pytest.raises(StoreError, match="has not answered"):
        await asyncio.wait_for(asyncio.shield(world.submit(1)), WAIT_SECONDS_MAX)
    assert not first.done()
    world.faults.go.set()
    assert (await first).revision == 1
    world.faults.hold = ""
    assert (await world.submit(1)).revision == 2
    await world.writer.close()
    file.unlock()


async def test_a_journal_that_cannot_be_emptied_is_a_fault(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit before it stands; the next one is made when the disk is proved."""
    monkeypatch.setattr(sqlite_journal, "GENERATION_BYTES", 1)
    world.faults.before |= {"PRAGMA wal_checkpoint"}
    assert (await world.submit(0)).revision == 1
    assert await world.outcomes(1, 1) == {StoreError}
    world.faults.before.clear()
    assert (await world.submit(1)).revision == 2
    assert world.faults.connections == 3


async def test_other_work_that_fails_makes_the_next_commit_look(world: World) -> None:
    """After a snapshot that could not be written the disk is proved first."""
    await world.submit(0)
    world.faults.before |= {"COMMIT"}
    with pytest.raises(StoreError):
        await world.writer.run(lambda connection: put_snapshot(connection, ACME, 1, b"x"))
    world.faults.before.clear()
    assert (await world.submit(1)).revision == 2
    assert world.faults.connections == 2


async def test_the_journal_is_bounded_under_readers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that stays lets the journal grow; when it has gone the journal
    is emptied, and begins again. Readers that come and go do not matter."""
    size = 200_000
    monkeypatch.setattr(sqlite_journal, "GENERATION_BYTES", size)
    journal = world.file.path.with_name("log.db-wal")

    async def write(first: int, count: int) -> None:
        for at in range(first, first + count):
            await world.submit(at, "x" * 2000)
            with closing(sqlite3.connect(world.file.path)) as reader:
                reader.execute("SELECT count(*) FROM entries").fetchone()

    await write(0, 100)
    usual = journal.stat().st_size
    assert usual < 4 * size
    with closing(sqlite3.connect(world.file.path, isolation_level=None)) as stays:
        stays.execute("BEGIN")
        stays.execute("SELECT count(*) FROM entries").fetchone()
        await write(100, 100)
    grown = journal.stat().st_size
    assert grown > usual
    await write(200, 100)
    assert journal.stat().st_size < grown + size


def test_the_faults_are_what_sqlite_raises() -> None:
    """The fake's error has the code by which faults are told apart."""
    assert failure().sqlite_errorcode == sqlite3.SQLITE_IOERR_FSYNC
