"""What every table of sessions promises (control_plane/store/session_table.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.store import Place, SessionQuery, SessionTable, Store, StoreError
from control_plane.store.session_table import PAGE_LIMIT_MAX, TURNS_KEPT
from tests.contract.backends import BACKENDS, Backend
from tests.contract.log_samples import ACME, fill
from tests.contract.session_samples import (
    ACTIVE,
    ENDED,
    LOST,
    MINUTE,
    NOW,
    ids,
    key,
    put,
    report,
    session,
    turn,
)


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """A place for a store of each kind."""
    return BACKENDS[request.param](tmp_path)


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[Store]:
    """An empty store."""
    opened = await backend.open()
    yield opened
    await opened.close()


@pytest.fixture
def table(store: Store) -> SessionTable:
    """Its table of sessions."""
    return store.sessions


@pytest.fixture(params=sorted(name for name, kind in BACKENDS.items() if kind.durable))
def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """A place for a store of each kind that outlives its process."""
    return BACKENDS[request.param](tmp_path)


class TestPut:
    async def test_what_is_put_is_read_back(self, table: SessionTable) -> None:
        """A session is read as it was reported, with its turns in order."""
        whole = session(user_id="ann", room="r", version=3, alias="live", scores={"csat": 4.5})
        whole.figures.turns = 2
        await table.put([report(whole, turn(2, tools=["find"]), turn(1))], NOW)
        assert await table.get("acme", "s1") == whole
        assert await table.turns("acme", "s1") == [turn(1), turn(2, tools=["find"])]

    async def test_nothing_is_known_at_first(self, table: SessionTable) -> None:
        """A session that nobody reported is not there."""
        assert await table.get("acme", "s1") is None
        assert await table.turns("acme", "s1") == []
        assert await ids(table) == []
        assert await table.active_nodes() == []

    async def test_tenants_are_apart(self, table: SessionTable) -> None:
        """The same id in two tenants is two sessions."""
        await put(table, session(user_id="ann"), session(tenant_id="other", user_id="bob"))
        await table.put([report(session(sequence=2), turn(1))], NOW)
        found = await table.get("other", "s1")
        assert found is not None
        assert found.user_id == "bob"
        assert await table.turns("other", "s1") == []
        assert await ids(table, "other") == ["s1"]

    async def test_the_newest_word_counts(self, table: SessionTable) -> None:
        """A report with a higher sequence replaces the record, whole."""
        await put(table, session(user_id="ann", room="r"))
        (change,) = await table.put([report(session(sequence=2, state=ENDED, agent_id="care"))], NOW)
        now = session(sequence=2, state=ENDED, agent_id="care")
        assert (change.session, change.agent_before) == (now, "sales")
        assert await table.get("acme", "s1") == now

    @pytest.mark.parametrize("sequence", [-1, 0, 1])
    async def test_an_older_word_changes_nothing(self, table: SessionTable, sequence: int) -> None:
        """A report whose sequence is below the record's leaves it as it is, and
        is no change."""
        await put(table, session(sequence=2, user_id="ann"))
        assert await table.put([report(session(sequence=sequence, user_id="bob"))], NOW) == []
        assert await table.get("acme", "s1") == session(sequence=2, user_id="ann")

    async def test_a_batch_may_come_again(self, table: SessionTable) -> None:
        """The same reports twice are the same as once. Of those that are still
        the newest word it is told again, for whoever missed it."""
        batch = [
            report(session(), turn(1)),
            report(session("s2", state=ENDED)),
            report(session(sequence=2), turn(2)),
        ]
        assert len(await table.put(batch, NOW)) == 3
        before = [await table.get("acme", "s1"), await table.turns("acme", "s1"), await ids(table)]
        again = await table.put(batch, NOW + 1)
        assert [(change.session, change.turns) for change in again] == [
            (session("s2", state=ENDED), ()),
            (session(sequence=2), (turn(2),)),
        ]
        assert [await table.get("acme", "s1"), await table.turns("acme", "s1"), await ids(table)] == before

    async def test_the_same_word_with_other_content_changes_nothing(self, table: SessionTable) -> None:
        """A report with the record's sequence leaves the record as it is."""
        await put(table, session(sequence=2, user_id="ann"))
        (change,) = await table.put([report(session(sequence=2, user_id="bob"))], NOW)
        assert change.session == await table.get("acme", "s1") == session(sequence=2, user_id="ann")

    async def test_reports_of_a_batch_count_in_their_order(self, table: SessionTable) -> None:
        """Of two reports of one session in a batch the later one is left."""
        batch = [report(session(sequence=3)), report(session(sequence=5, state=ENDED))]
        changes = await table.put(batch, NOW)
        assert [change.session.sequence for change in changes] == [3, 5]
        assert await table.get("acme", "s1") == session(sequence=5, state=ENDED)

    async def test_a_turn_that_is_missing_is_added_by_a_late_report(self, table: SessionTable) -> None:
        """An old report that brings a turn which is not there adds it, and
        changes nothing else."""
        await table.put([report(session(sequence=5), turn(2, version=9))], NOW)
        (change,) = await table.put([report(session(sequence=4), turn(1), turn(2))], NOW)
        assert (change.session, change.turns) == (session(sequence=5), (turn(1),))
        assert await table.turns("acme", "s1") == [turn(1), turn(2, version=9)]

    async def test_the_newest_word_on_a_turn_counts(self, table: SessionTable) -> None:
        """A newer report replaces a turn of the same number."""
        await table.put([report(session(), turn(1, version=1))], NOW)
        await table.put([report(session(sequence=2), turn(1, version=2))], NOW)
        assert await table.turns("acme", "s1") == [turn(1, version=2)]

    async def test_the_last_turns_are_kept(self, table: SessionTable) -> None:
        """Of a session without end the newest turns are kept."""
        for at in range(1, TURNS_KEPT + 4):
            table.put([report(session(sequence=at), turn(at))], NOW)
        await table.put([report(session(sequence=TURNS_KEPT + 4), turn(TURNS_KEPT + 4))], NOW)
        kept = [each.turn for each in await table.turns("acme", "s1")]
        assert kept == list(range(5, TURNS_KEPT + 5))

    async def test_a_session_without_a_start_began_when_it_was_put(self, table: SessionTable) -> None:
        """A start time that is not reported is the time of the first report."""
        (change,) = await table.put([report(session(started=None))], NOW)
        await put(table, session(sequence=2, started=None), now=NOW + MINUTE)
        found = await table.get("acme", "s1")
        assert found is not None
        assert change.session.start_time == found.start_time == session().start_time

    async def test_many_reports_at_once(self, table: SessionTable) -> None:
        """A large batch is one put, and its changes are in order."""
        batch = [report(session(f"s{at:03}"), turn(1), turn(2)) for at in range(500)]
        changes = await table.put(batch, NOW)
        assert [change.session.session_id for change in changes] == [f"s{at:03}" for at in range(500)]

    async def test_puts_are_written_in_the_order_of_the_calls(self, table: SessionTable) -> None:
        """Puts that are not awaited take effect in order."""
        pending = [table.put([report(session(sequence=at), turn(at))], NOW) for at in range(1, 60)]
        changes = [await one for one in reversed(pending)]
        assert all(len(each) == 1 for each in changes)
        assert (await table.get("acme", "s1")) == session(sequence=59)

    async def test_a_put_whose_caller_goes_is_made(self, table: SessionTable) -> None:
        """A caller that is cancelled takes nothing back, and harms nobody."""
        task = asyncio.ensure_future(table.put([report(session())], NOW))
        await asyncio.sleep(0)
        task.cancel()
        await put(table, session("s2"))
        assert await ids(table) == ["s2", "s1"]

    async def test_a_report_that_cannot_be_written_fails_alone(self, store: Store) -> None:
        """A put that is refused harms none of those beside it, nor the log."""
        table = store.sessions
        bad = session("s2")
        bad.start_time.seconds = 2**62
        good = table.put([report(session())], NOW)
        refused = table.put([report(bad)], NOW)
        later = table.put([report(session("s3"))], NOW)
        with pytest.raises(StoreError):
            await refused
        await asyncio.gather(good, later)
        assert await ids(table) == ["s3", "s1"]
        await fill(store, ACME, 3)

    async def test_sessions_and_commits_are_made_side_by_side(self, store: Store) -> None:
        """The log and the table do not hold each other up."""
        puts = [store.sessions.put([report(session(f"s{at}"), turn(1))], NOW) for at in range(50)]
        made = await fill(store, ACME, 50)
        await asyncio.gather(*puts)
        assert made[-1].revision == 50
        assert len(await ids(store.sessions)) == 50


class TestReconcile:
    async def test_sessions_that_do_not_run_are_lost(self, table: SessionTable) -> None:
        """Of a node's active sessions those that it does not name are lost;
        those that are over, and those of other nodes, are left."""
        over, away = session("s3", state=ENDED), session("s4", node_id="n2")
        await put(table, session("s1"), session("s2"), over, away)
        (lost,) = await table.reconcile("n1", [key("s1")], NOW)
        assert lost == session("s2", state=LOST)
        assert await ids(table, state=LOST) == ["s2"]
        assert await ids(table, state=ACTIVE) == ["s4", "s1"]

    async def test_a_lost_session_that_runs_is_active_again(self, table: SessionTable) -> None:
        """A node that names a lost session of its own has it back."""
        await put(table, session("s1"), session("s2"), session("s3", node_id="n2"))
        assert len(await table.reconcile("n1", [], NOW)) == 2
        await table.reconcile("n2", [], NOW)
        running = [key("s1"), key("s3"), key("s9"), key("s1", "other")]
        assert await table.reconcile("n1", running, NOW) == [session("s1")]
        assert await ids(table, state=ACTIVE) == ["s1"]

    async def test_reconciling_twice_changes_nothing(self, table: SessionTable) -> None:
        """What is as the node says is no change."""
        await put(table, session("s1"), session("s2"))
        await table.reconcile("n1", [key("s1")], NOW)
        assert await table.reconcile("n1", [key("s1")], NOW) == []

    @pytest.mark.parametrize("sequence", [4, 5])
    async def test_a_lost_session_that_reports_is_active_again(
        self, table: SessionTable, sequence: int
    ) -> None:
        """The last report, or a newer one, of a lost session brings it back; an
        older one does not."""
        await put(table, session(sequence=4))
        await table.reconcile("n1", [], NOW)
        assert await table.put([report(session(sequence=3))], NOW) == []
        (change,) = await table.put([report(session(sequence=sequence))], NOW)
        assert change.session == session(sequence=sequence)
        assert await ids(table, state=ACTIVE) == ["s1"]

    async def test_a_late_turn_of_a_lost_session_leaves_it_lost(self, table: SessionTable) -> None:
        """An old report adds its turn, and the session stays lost."""
        await put(table, session(sequence=4))
        await table.reconcile("n1", [], NOW)
        (change,) = await table.put([report(session(sequence=3), turn(1))], NOW)
        assert change.session == session(sequence=4, state=LOST)

    async def test_all_tenants_of_a_node_are_looked_at(self, table: SessionTable) -> None:
        """A node's sessions are lost in each of its tenants, however many."""
        many = [session(f"s{at}", tenant_id=f"t{at % 3}") for at in range(300)]
        await put(table, *many)
        lost = await table.reconcile("n1", [key("s0", "t0")], NOW)
        assert len(lost) == 299
        assert len(await ids(table, "t0", state=ACTIVE)) == 1
        assert len(await ids(table, "t2", state=LOST)) == 100

    async def test_nodes_with_active_sessions_are_known(self, table: SessionTable) -> None:
        """A node is named as long as one of its sessions is active."""
        await put(table, session("s1", node_id="n2"), session("s2"), session("s3"))
        assert await table.active_nodes() == ["n1", "n2"]
        await table.reconcile("n2", [], NOW)
        await put(table, session("s2", 2, state=ENDED))
        assert await table.active_nodes() == ["n1"]


class TestPage:
    async def test_the_newest_come_first(self, table: SessionTable) -> None:
        """Sessions come by start time, newest first, and by id where it is the
        same."""
        await put(table, session("b"), session("c", started=NOW - 1), session("a"), session("d"))
        assert await ids(table) == ["d", "b", "a", "c"]

    async def test_a_page_goes_on_where_the_last_one_ended(self, table: SessionTable) -> None:
        """`before` leaves out all down to a place, also when sessions come in
        between."""
        await put(table, *(session(f"s{at}", started=NOW + at // 2) for at in range(6)))
        first = await table.page(SessionQuery("acme", limit=3))
        await put(table, session("new", started=NOW + 9))
        last = first[-1]
        place = Place(last.start_time.ToMicroseconds(), last.session_id)
        assert [each.session_id for each in first] == ["s5", "s4", "s3"]
        assert await ids(table, before=place) == ["s2", "s1", "s0"]

    @pytest.mark.parametrize(
        ("narrowed", "found"),
        [
            ({"agent_id": "care"}, ["s4", "s2"]),
            ({"state": ENDED}, ["s3"]),
            ({"version": 2}, ["s4", "s3"]),
            ({"node_id": "n2"}, ["s4"]),
            ({"user_id": "ann"}, ["s2", "s1"]),
            ({"user_id": "ann", "agent_id": "care", "state": ACTIVE}, ["s2"]),
            ({"user_id": "eve"}, []),
            ({"limit": 1}, ["s4"]),
            ({"limit": 0}, []),
        ],
    )
    async def test_a_list_is_narrowed(
        self, table: SessionTable, narrowed: dict[str, object], found: list[str]
    ) -> None:
        """Only sessions come that fit all that is asked for."""
        await put(
            table,
            session("s1", user_id="ann", version=1),
            session("s2", user_id="ann", version=1, agent_id="care"),
            session("s3", version=2, state=ENDED),
            session("s4", version=2, agent_id="care", node_id="n2"),
            session("s5", tenant_id="other", version=2, agent_id="care", node_id="n2"),
        )
        assert await ids(table, **narrowed) == found

    async def test_a_page_has_an_end(self, table: SessionTable) -> None:
        """No page is longer than PAGE_LIMIT_MAX."""
        await put(table, *(session(f"s{at}") for at in range(PAGE_LIMIT_MAX + 5)))
        assert len(await ids(table, limit=10**9)) == PAGE_LIMIT_MAX


class TestTrim:
    async def test_what_is_old_goes(self, table: SessionTable) -> None:
        """Sessions that are over or lost and have not changed for long are
        forgotten, with their turns; those that run stay."""
        await table.put([report(session("s1", state=ENDED), turn(1)), report(session("s2"))], NOW)
        await put(table, session("s3", state=ENDED), session("s4", node_id="n2"), now=NOW + MINUTE)
        await table.reconcile("n2", [], NOW)
        assert await table.trim(NOW + MINUTE, 100) == 2
        assert await ids(table) == ["s3", "s2"]
        assert await table.turns("acme", "s1") == []

    async def test_each_tenant_keeps_so_many(self, table: SessionTable) -> None:
        """Of each tenant the newest are kept; those that run stay, and count."""
        for tenant in ("acme", "other"):
            await put(
                table,
                *(session(f"s{at}", tenant_id=tenant, state=ENDED, started=NOW + at) for at in range(1, 7)),
                session("old", tenant_id=tenant, started=NOW),
            )
        assert await table.trim(0, 4) == 4
        for tenant in ("acme", "other"):
            assert await ids(table, tenant) == ["s6", "s5", "s4", "s3", "old"]
        assert await table.trim(0, 4) == 0

    async def test_much_is_trimmed_in_steps(self, table: SessionTable) -> None:
        """However much there is to forget, all of it goes, and writers get on
        meanwhile."""
        turns = [turn(at) for at in range(1, 21)]
        await table.put([report(session(f"s{at}", state=ENDED), *turns) for at in range(450)], NOW)
        trimming = asyncio.ensure_future(table.trim(NOW + 1, 100))
        await put(table, session("new", started=NOW + 1), now=NOW + 2)
        assert await trimming == 450
        assert await ids(table) == ["new"]
        assert await table.turns("acme", "s449") == []

    async def test_a_session_that_was_forgotten_can_come_again(self, table: SessionTable) -> None:
        """A report on a session that is not there any more makes it anew."""
        await put(table, session(sequence=9, state=LOST))
        await table.trim(NOW + 1, 100)
        await put(table, session(sequence=3))
        assert await table.get("acme", "s1") == session(sequence=3)


class TestLasting:
    async def test_what_was_put_outlives_its_process(self, lasting: Backend) -> None:
        """Sessions, their turns and who is lost are there after a restart."""
        store = await lasting.open()
        await store.sessions.put([report(session("s1"), turn(1)), report(session("s2"))], NOW)
        await store.sessions.reconcile("n1", [key("s1")], NOW)
        await store.close()
        store = await lasting.open()
        assert await store.sessions.get("acme", "s1") == session("s1")
        assert await store.sessions.turns("acme", "s1") == [turn(1)]
        assert await store.sessions.get("acme", "s2") == session("s2", state=LOST)
        await store.close()

    async def test_sessions_leave_the_log_as_it_was(self, lasting: Backend) -> None:
        """A store in which only sessions were written goes on in its epoch."""
        store = await lasting.open()
        epoch = store.epoch
        await put(store.sessions, session())
        await store.close()
        store = await lasting.open()
        assert store.epoch == epoch
        assert await store.tenants() == []
        await store.close()


async def test_a_closed_table_takes_nothing(store: Store) -> None:
    """After the store is closed a put fails."""
    await store.close()
    with pytest.raises(StoreError):
        await put(store.sessions, session())
