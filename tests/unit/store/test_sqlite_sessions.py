"""How the table of sessions uses the log's file and its disk."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from control_plane.store import Commit, SqliteStore, StoreError
from control_plane.store.backup import back_up
from control_plane.store.session_table import SessionQuery
from control_plane.store.sqlite_file import connect_to_read, prepare
from control_plane.store.sqlite_group import Pending
from control_plane.store.sqlite_session_rows import TRIMMED_SESSIONS, get_page
from control_plane.store.sqlite_sessions import PIECE_ROWS, SqliteSessions
from control_plane.store.sqlite_thread import connect
from control_plane.store.sqlite_work import TRANSACTION_WEIGHT_MAX, WORKS_MAX
from control_plane.store.sqlite_writer import SqliteWriter
from tests.contract.log_samples import ACME, meta
from tests.contract.log_samples import put as mutation
from tests.contract.session_samples import ENDED, NOW, ids, put, report, session, turn
from tests.unit.store.faulty import Faults, connect_faulty

ROOT = Path(__file__).parents[3]
KILLED_AFTER = (1, 100, 400)
SECONDS_MAX = 30


class World:
    """A table on a disk with faults, and the log beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.faults = Faults()
        self.statements: list[str] = []
        self.writer: SqliteWriter
        self.table: SqliteSessions

    async def start(self, stall_seconds_max: float = 100.0) -> None:
        """Open the table."""
        self._file = prepare(self.path)
        connector = partial(connect_faulty, self._file.path, self.faults)
        self.writer = await SqliteWriter.open(self._file, lambda _: None, connector, stall_seconds_max)
        reader = await connect(partial(connect_to_read, self._file.path))
        self.table = SqliteSessions(self.writer, reader)

    async def stop(self) -> None:
        """Close the table."""
        self.faults.go.set()
        await self.table.close()
        await self.writer.close()
        self._file.unlock()

    async def trace(self) -> None:
        """Note the statements from now on."""
        self.statements.clear()
        await self.writer.run(lambda connection: connection.set_trace_callback(self.statements.append))

    def transactions(self) -> int:
        """How many transactions were committed since `trace`."""
        return self.statements.count("COMMIT")

    def commit(self, at: int) -> asyncio.Future[Commit]:
        """Enqueue a commit of the log on revision `at`."""
        done: asyncio.Future[Commit] = asyncio.get_running_loop().create_future()
        self.writer.submit(Pending(ACME, at, [mutation("a")], meta(), done))
        return done


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A table in a new file."""
    made = World(tmp_path / "log.db")
    await made.start()
    yield made
    await made.stop()


async def test_puts_share_a_transaction(world: World) -> None:
    """What many nodes report at once goes to the disk together."""
    await world.trace()
    await asyncio.gather(*(put(world.table, session(f"s{at}")) for at in range(TRANSACTION_WEIGHT_MAX)))
    assert world.transactions() == 1


async def test_a_large_batch_lets_commits_through(world: World) -> None:
    """A large put is several transactions, and the log's commits come between
    them."""
    await world.trace()
    batch = [report(session(f"s{at}"), turn(1)) for at in range(8 * PIECE_ROWS)]
    putting = world.table.put(batch, NOW)
    assert (await world.commit(0)).revision == 1
    assert not putting.done()
    await putting
    assert world.transactions() == 1 + 16 * PIECE_ROWS // TRANSACTION_WEIGHT_MAX


async def test_a_trim_is_done_in_steps(world: World) -> None:
    """However much there is to forget, each transaction is short."""
    count = 2 * TRIMMED_SESSIONS + 1
    await put(world.table, *(session(f"s{at}", state=ENDED) for at in range(count)))
    await world.trace()
    assert await world.table.trim(NOW + 1, 10) == count
    assert world.transactions() == 3


async def test_a_session_with_many_turns_is_forgotten_in_steps(world: World) -> None:
    """Turns count too: a session may take several steps."""
    for start in range(0, 1000, 100):
        turns = [turn(start + at) for at in range(1, 101)]
        await world.table.put([report(session(sequence=start + 1, state=ENDED), *turns)], NOW)
        await world.table.put([report(session("s2", start + 1, state=ENDED), *turns)], NOW)
    await world.trace()
    assert await world.table.trim(NOW + 1, 10) == 2
    assert world.transactions() == 3
    assert await ids(world.table) == []


async def test_too_much_is_refused(world: World) -> None:
    """Beyond WORKS_MAX nothing more is enqueued; what is, is made."""
    pending = [world.table.put([report(session(f"s{at}"))], NOW) for at in range(WORKS_MAX + 5)]
    outcomes = await asyncio.gather(*pending, return_exceptions=True)
    assert [isinstance(one, StoreError) for one in outcomes] == [False] * WORKS_MAX + [True] * 5


async def test_a_put_that_the_disk_refuses_is_not_acknowledged(world: World) -> None:
    """While the disk fails puts fail; what was acknowledged before stays, and
    putting again makes it whole."""
    await put(world.table, session("s1"))
    world.faults.before |= {"COMMIT", "INSERT OR REPLACE INTO meta"}
    for _ in range(2):
        with pytest.raises(StoreError):
            await put(world.table, session("s2"))
    assert await ids(world.table) == ["s1"]
    world.faults.before.clear()
    await put(world.table, session("s2"))
    assert await ids(world.table) == ["s2", "s1"]
    assert world.faults.connections > 1
    assert (await world.commit(0)).revision == 1


async def test_a_put_whose_answer_was_lost_may_be_made(world: World) -> None:
    """A sync that failed may have written: the put fails, and doing it again
    changes nothing."""
    world.faults.after |= {"COMMIT"}
    with pytest.raises(StoreError):
        await put(world.table, session("s1"))
    world.faults.after.clear()
    await put(world.table, session("s1"))
    assert await ids(world.table) == ["s1"]
    await world.stop()
    await world.start()
    assert await ids(world.table) == ["s1"]


async def test_nothing_is_written_on_a_disk_in_doubt(world: World) -> None:
    """After a commit of the log has failed, the next put proves the disk
    before it is acknowledged."""
    world.faults.before |= {"COMMIT", "INSERT OR REPLACE INTO meta"}
    with pytest.raises(StoreError):
        await world.commit(0)
    world.faults.before -= {"COMMIT"}
    with pytest.raises(StoreError):
        await put(world.table, session("s1"))
    world.faults.before.clear()
    await put(world.table, session("s1"))
    assert (await world.commit(0)).revision == 1


async def test_a_disk_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    """Puts behind one that hangs fail after a while; that one is made when the
    disk answers."""
    world = World(tmp_path / "log.db")
    await world.start(stall_seconds_max=0.05)
    world.faults.hold = "COMMIT"
    first = world.table.put([report(session("s1"))], NOW)
    await asyncio.to_thread(world.faults.held.wait, SECONDS_MAX)
    with pytest.raises(StoreError, match="has not answered"):
        await put(world.table, *(session(f"x{at}") for at in range(2 * TRANSACTION_WEIGHT_MAX)))
    with pytest.raises(StoreError, match="has not answered"):
        await put(world.table, session("s2"))
    world.faults.hold = ""
    world.faults.go.set()
    assert len(await first) == 1
    await put(world.table, session("s3"))
    assert await ids(world.table) == ["s3", "s1"]
    await world.stop()


async def test_a_file_that_is_locked_by_another_program(world: World) -> None:
    """While somebody else writes, puts fail; nothing is wrong with the disk."""
    await world.writer.run(lambda connection: connection.execute("PRAGMA busy_timeout=0"))
    with closing(sqlite3.connect(world.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            await put(world.table, session("s1"))
    await put(world.table, session("s1"))
    assert world.faults.connections == 1


async def test_a_file_that_another_program_has_changed(world: World) -> None:
    """Nothing is written into a file that is another one by now."""
    await put(world.table, session("s1"))
    with closing(sqlite3.connect(world.path)) as other:
        other.execute("UPDATE meta SET value = 'another' WHERE name = 'epoch'")
        other.commit()
    with pytest.raises(StoreError, match="another program"):
        await put(world.table, session("s2"))
    assert await ids(world.table) == ["s1"]


async def test_a_file_that_has_lost_its_name(world: World) -> None:
    """Nothing is acknowledged that was written to a file without a name."""
    await put(world.table, session("s1"))
    world.path.rename(world.path.with_name("elsewhere.db"))
    with pytest.raises(StoreError, match="removed or replaced"):
        await put(world.table, session("s2"))


async def test_a_kill_loses_no_acknowledged_session(tmp_path: Path) -> None:
    """After kill -9, again and again, each acknowledged session and turn is
    there."""
    path = tmp_path / "log.db"
    acknowledged: list[str] = []
    for number, lines in enumerate(KILLED_AFTER):
        async with asyncio.timeout(SECONDS_MAX):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.unit.store.put_until_killed", str(path), f"k{number}"),
                cwd=ROOT,
                stdout=asyncio.subprocess.PIPE,
            )
            assert process.stdout is not None
            got = [await process.stdout.readline() for _ in range(lines)]
            process.kill()
            got += (await process.stdout.read()).splitlines(keepends=True)
            await process.wait()
        acknowledged += [line.decode().strip() for line in got if line.endswith(b"\n")]
        store = await SqliteStore.open(path)
        for session_id in acknowledged:
            assert await store.sessions.get("acme", session_id) == session(session_id)
            assert await store.sessions.turns("acme", session_id) == [turn(1)]
        await store.close()
    assert len(acknowledged) >= sum(KILLED_AFTER)


async def test_a_backup_holds_the_sessions(tmp_path: Path) -> None:
    """A backup that is made while the store is open has its sessions."""
    store = await SqliteStore.open(tmp_path / "log.db")
    await store.sessions.put([report(session("s1"), turn(1))], NOW)
    back_up(tmp_path / "log.db", tmp_path / "copy.db")
    await store.close()
    copy = await SqliteStore.open(tmp_path / "copy.db")
    assert await copy.sessions.get("acme", "s1") == session("s1")
    assert await copy.sessions.turns("acme", "s1") == [turn(1)]
    await copy.close()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (SessionQuery("acme"), "sessions_started"),
        (SessionQuery("acme", agent_id="sales"), "sessions_agent"),
        (SessionQuery("acme", user_id="ann"), "sessions_user"),
        (SessionQuery("acme", state=ENDED), "sessions_state"),
    ],
)
async def test_a_list_is_read_along_an_index(world: World, query: SessionQuery, index: str) -> None:
    """A page of a long list is not sorted, and what is not on it is not read."""

    def plan(connection: sqlite3.Connection) -> str:
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
        get_page(connection, query, 10)
        connection.set_trace_callback(None)
        rows = connection.execute(f"EXPLAIN QUERY PLAN {statements[0]}").fetchall()
        return "; ".join(row[3] for row in rows)

    found = await world.writer.run(plan)
    assert f"USING INDEX {index}" in found
    assert "TEMP B-TREE" not in found
