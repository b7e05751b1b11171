"""What every log store promises (control_plane/store/log.py)."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from hashlib import sha256
from itertools import chain
from pathlib import Path

import pytest

from control_plane.store import (
    Compacted,
    DuplicateRequest,
    LogStore,
    RevisionConflict,
    StoreError,
)
from control_plane.store.chain import BrokenChain, verify_chain
from control_plane.store.log import CHANGES_LIMIT_MAX, NO_HASH, REQUEST_ID_SECONDS
from tests.contract.backends import BACKENDS, Backend
from tests.contract.log_samples import ACME, NOW, OTHER, commit, fill, meta, put, revisions, snapshot
from voxplane.names import TenantId

WAIT_SECONDS_MAX = 20


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """A place for a store of each kind."""
    return BACKENDS[request.param](tmp_path)


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[LogStore]:
    """An empty store."""
    opened = await backend.open()
    yield opened
    await opened.close()


@pytest.fixture(params=sorted(name for name, kind in BACKENDS.items() if kind.durable))
def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """A place for a store of each kind that outlives its process."""
    return BACKENDS[request.param](tmp_path)


async def reopened(backend: Backend, store: LogStore) -> LogStore:
    """The store after an end and a new start of its process."""
    await store.close()
    return await backend.open()


class TestCommit:
    async def test_revisions_have_no_gap(self, store: LogStore) -> None:
        """The revisions of a tenant are 1, 2, 3, …"""
        made = [(await commit(store, ACME, at)).revision for at in range(5)]
        assert made == [1, 2, 3, 4, 5]
        assert await revisions(store, ACME) == [1, 2, 3, 4, 5]
        assert await store.head(ACME) == 5

    async def test_tenants_are_apart(self, store: LogStore) -> None:
        """Each tenant has revisions and entries of its own."""
        await fill(store, ACME, 3)
        assert (await commit(store, OTHER, 0)).revision == 1
        assert await store.head(ACME) == 3
        (entry,) = await store.changes(OTHER, 0, 10)
        assert entry.decode().tenant_id == OTHER

    async def test_nothing_is_known_of_a_tenant_at_first(self, store: LogStore) -> None:
        """A tenant without an entry is at revision 0 and has nothing."""
        assert await store.head(ACME) == 0
        assert await store.changes(ACME, 0, 10) == []
        assert await store.snapshot(ACME) is None
        assert await store.answer(ACME, "r", NOW) is None
        assert await store.tenants() == []

    async def test_what_is_committed_is_read_back(self, store: LogStore) -> None:
        """An entry holds the mutations, who, what, when and by which request."""
        await store.commit(ACME, 0, [put("a"), put("b")], meta("r1", NOW + 0.25))
        (entry,) = await store.changes(ACME, 0, 10)
        decoded = entry.decode()
        assert list(decoded.mutations) == [put("a"), put("b")]
        assert (decoded.principal, decoded.method) == ("ann", "/voxplane.v1.AgentService/CreateAgent")
        assert (decoded.request_id, decoded.revision) == ("r1", 1)
        assert decoded.time.ToNanoseconds() == int((NOW + 0.25) * 1e9)

    async def test_the_acknowledged_entry_is_the_kept_one(self, store: LogStore) -> None:
        """commit returns the very bytes and hash that changes returns."""
        made = await fill(store, ACME, 3)
        assert [one.entry for one in made] == await store.changes(ACME, 0, 10)

    @pytest.mark.parametrize("expected", [0, 1, 3, -1])
    async def test_a_conflict_leaves_no_trace(self, store: LogStore, expected: int) -> None:
        """A commit that was decided on another revision is refused whole."""
        before = await fill(store, ACME, 2)
        with pytest.raises(RevisionConflict) as raised:
            await store.commit(ACME, expected, [put("x"), put("y")], meta("lost"))
        assert (raised.value.expected, raised.value.actual) == (expected, 2)
        assert await store.changes(ACME, 0, 10) == [one.entry for one in before]
        assert await store.answer(ACME, "lost", NOW) is None
        assert (await store.commit(ACME, 2, [put("x")], meta("lost"))).revision == 3

    async def test_a_conflict_makes_no_tenant(self, store: LogStore) -> None:
        """A tenant comes to be by a commit, not by a refusal."""
        with pytest.raises(RevisionConflict):
            await commit(store, ACME, 7)
        assert await store.tenants() == []

    async def test_the_hash_that_was_decided_on_is_compared(self, store: LogStore) -> None:
        """A commit that names the head's hash lands; one that names another is
        refused, though its revision fits."""
        first = await store.commit(ACME, 0, [put("a")], meta(previous_hash=NO_HASH))
        with pytest.raises(RevisionConflict):
            await store.commit(ACME, 1, [put("b")], meta(previous_hash=b"x" * 32))
        with pytest.raises(RevisionConflict):
            await store.commit(ACME, 1, [put("b")], meta(previous_hash=NO_HASH))
        second = await store.commit(ACME, 1, [put("b")], meta(previous_hash=first.entry.hash))
        assert second.revision == 2

    async def test_a_commit_that_cannot_be_written_fails_alone(self, store: LogStore) -> None:
        """One bad commit harms none of those that were submitted around it."""
        good = store.commit(ACME, 0, [put("a")], meta())
        bad = store.commit(OTHER, 0, [put("b")], meta(time=float("nan")))
        later = store.commit(ACME, 1, [put("c")], meta())
        with pytest.raises(StoreError):
            await bad
        assert [(await good).revision, (await later).revision] == [1, 2]
        assert await store.tenants() == [ACME]


class TestOrder:
    async def test_a_pipeline_lands_in_order(self, store: LogStore) -> None:
        """Commits that name the revisions of pending ones all land, in the
        order of the calls, whatever the order of the awaits."""
        pending = [store.commit(ACME, at, [put(f"a{at}")], meta()) for at in range(300)]
        assert [(await one).revision for one in reversed(pending)] == list(range(300, 0, -1))
        assert await revisions(store, ACME) == list(range(1, 301))

    async def test_behind_a_refused_commit_the_rest_is_refused(self, store: LogStore) -> None:
        """What was decided on a commit that is refused is refused as well."""
        await commit(store, ACME, 0)
        pending = [store.commit(ACME, at, [put("x")], meta()) for at in (5, 6, 7)]
        assert [type(one) for one in await asyncio.gather(*pending, return_exceptions=True)] == [
            RevisionConflict
        ] * 3
        assert await store.head(ACME) == 1

    async def test_sixty_four_writers_lose_nothing(self, store: LogStore) -> None:
        """Writers that retry on conflict all get their turn: no revision is
        given twice, and every acknowledged entry is there."""

        async def writer(number: int) -> list[tuple[int, str]]:
            mine: list[tuple[int, str]] = []
            while len(mine) < 3:
                agent = f"w{number}-{len(mine)}"
                try:
                    made = await store.commit(ACME, await store.head(ACME), [put(agent)], meta())
                except RevisionConflict:
                    continue
                mine.append((made.revision, agent))
            return mine

        acknowledged = sorted(chain.from_iterable(await asyncio.gather(*(writer(n) for n in range(64)))))
        kept = [
            (entry.revision, entry.decode().mutations[0].put.agent.agent_id)
            for entry in await store.changes(ACME, 0, 1000)
        ]
        assert kept == acknowledged
        assert [revision for revision, _ in kept] == list(range(1, 64 * 3 + 1))

    async def test_a_caller_that_goes_leaves_its_commit(self, store: LogStore) -> None:
        """Cancelling the wait for a commit does not stop those behind it."""
        first = asyncio.ensure_future(store.commit(ACME, 0, [put("a")], meta()))
        second = store.commit(ACME, 1, [put("b")], meta())
        first.cancel()
        assert (await second).revision == 2
        assert await revisions(store, ACME) == [1, 2]


class TestRequestIds:
    async def test_a_repeat_is_given_the_first_answer(self, store: LogStore) -> None:
        """A request_id that was used is refused with the first answer, before
        the expected revision is looked at."""
        await commit(store, ACME, 0, meta("r1"))
        with pytest.raises(DuplicateRequest) as raised:
            await commit(store, ACME, 0, meta("r1", NOW + 5))
        answer = raised.value.answer
        assert (answer.revision, answer.fingerprint) == (1, b"fingerprint r1")
        assert answer.response == meta("r1").response
        assert await store.answer(ACME, "r1", NOW + 5) == answer
        assert await store.head(ACME) == 1

    async def test_repeats_in_flight_land_once(self, store: LogStore) -> None:
        """Of requests that are submitted together with one id the first lands."""
        pending = [store.commit(ACME, at, [put("a")], meta("r1")) for at in (0, 1, 1)]
        outcomes = await asyncio.gather(*pending, return_exceptions=True)
        assert [type(one).__name__ for one in outcomes] == ["Commit", "DuplicateRequest", "DuplicateRequest"]
        assert await store.head(ACME) == 1

    async def test_ids_are_of_one_tenant(self, store: LogStore) -> None:
        """Another tenant may use the same id."""
        await commit(store, ACME, 0, meta("r1"))
        assert (await commit(store, OTHER, 0, meta("r1"))).revision == 1

    async def test_no_id_is_no_repeat(self, store: LogStore) -> None:
        """Commits without an id are never taken for one another."""
        await fill(store, ACME, 2)
        assert await store.answer(ACME, "", NOW) is None

    async def test_an_id_expires(self, store: LogStore) -> None:
        """After REQUEST_ID_SECONDS an id is free again, and not before."""
        await commit(store, ACME, 0, meta("r1"))
        with pytest.raises(DuplicateRequest):
            await commit(store, ACME, 1, meta("r1", NOW + REQUEST_ID_SECONDS - 1))
        assert await store.answer(ACME, "r1", NOW + REQUEST_ID_SECONDS - 1) is not None
        assert await store.answer(ACME, "r1", NOW + REQUEST_ID_SECONDS) is None
        again = meta("r1", NOW + REQUEST_ID_SECONDS)
        assert (await commit(store, ACME, 1, again)).revision == 2
        answer = await store.answer(ACME, "r1", NOW + REQUEST_ID_SECONDS)
        assert answer is not None
        assert (answer.revision, answer.response) == (2, again.response)

    async def test_an_answer_survives_a_restart(self, lasting: Backend) -> None:
        """A repeat after a restart is still given the first answer."""
        store = await lasting.open()
        await commit(store, ACME, 0, meta("r1"))
        again = await reopened(lasting, store)
        with pytest.raises(DuplicateRequest) as raised:
            await commit(again, ACME, 1, meta("r1", NOW + 60))
        assert raised.value.answer.response == meta("r1").response
        await again.close()


class TestChain:
    async def test_entries_are_chained(self, store: LogStore) -> None:
        """Each entry names the sha256 of the one before, from 32 zero bytes on."""
        await fill(store, ACME, 20)
        entries = await store.changes(ACME, 0, 100)
        assert entries[0].decode().previous_hash == NO_HASH
        assert verify_chain(entries, 0, NO_HASH) == entries[-1].hash
        assert verify_chain(entries[7:], 7, entries[6].hash) == entries[-1].hash
        assert verify_chain([], 20, entries[-1].hash) == entries[-1].hash

    async def test_tampering_is_found_where_it_begins(self, store: LogStore) -> None:
        """An entry that was changed, dropped, moved or forged breaks the chain."""
        await fill(store, ACME, 6)
        entries = await store.changes(ACME, 0, 100)
        forged = entries[2].decode()
        forged.principal = "mallory"
        changed = dataclasses.replace(entries[2], encoded=forged.SerializeToString(deterministic=True))
        rehashed = dataclasses.replace(changed, hash=sha256(changed.encoded).digest())
        garbled = dataclasses.replace(entries[2], encoded=b"\xff", hash=sha256(b"\xff").digest())
        for tampered, at in (
            ([*entries[:2], rehashed, *entries[3:]], 4),
            ([*entries[:2], garbled, *entries[3:]], 3),
            ([*entries[:2], changed, *entries[3:]], 3),
            ([*entries[:2], *entries[3:]], 3),
            ([entries[1], entries[0], *entries[2:]], 1),
            ([*entries[:4], dataclasses.replace(entries[4], hash=bytes(32)), entries[5]], 5),
            ([*entries[:4], dataclasses.replace(entries[4], revision=9), entries[5]], 5),
        ):
            with pytest.raises(BrokenChain) as raised:
                verify_chain(tampered, 0, NO_HASH)
            assert raised.value.revision == at

    async def test_the_chain_goes_on_after_a_restart(self, lasting: Backend) -> None:
        """A store that is opened again goes on where it ended, in its epoch."""
        store = await lasting.open()
        await fill(store, ACME, 3)
        epoch = store.epoch
        again = await reopened(lasting, store)
        assert again.epoch == epoch
        assert (await commit(again, ACME, 3)).revision == 4
        verify_chain(await again.changes(ACME, 0, 10), 0, NO_HASH)
        await again.close()

    async def test_each_new_store_has_its_epoch(self, store: LogStore, tmp_path: Path) -> None:
        """An epoch is 16 hexadecimal digits that no other store has."""
        assert len(bytes.fromhex(store.epoch)) == 8
        for number, kind in enumerate(BACKENDS.values()):
            another = await kind(tmp_path / f"another{number}").open()
            assert another.epoch != store.epoch
            await another.close()


class TestHistory:
    async def test_changes_are_read_in_pages(self, store: LogStore) -> None:
        """changes gives the entries after a revision, at most the limit."""
        await fill(store, ACME, 10)
        assert await revisions(store, ACME, 0, 4) == [1, 2, 3, 4]
        assert await revisions(store, ACME, 4, 4) == [5, 6, 7, 8]
        assert await revisions(store, ACME, 8, 4) == [9, 10]
        assert await revisions(store, ACME, 10, 4) == []
        assert await revisions(store, ACME, 99, 4) == []
        assert await revisions(store, ACME, -3, 2) == [1, 2]

    @pytest.mark.parametrize(("limit", "given"), [(0, 0), (-1, 0), (3, 3), (CHANGES_LIMIT_MAX + 1, 10)])
    async def test_the_limit_is_clamped(self, store: LogStore, limit: int, given: int) -> None:
        """A limit below nought is nought, and one above the maximum the maximum."""
        await fill(store, ACME, 10)
        assert len(await store.changes(ACME, 0, limit)) == given

    async def test_the_newest_snapshot_is_kept(self, store: LogStore) -> None:
        """A snapshot takes the place of the older one."""
        await fill(store, ACME, 5)
        await store.save_snapshot(snapshot(ACME, 2, ["a"]))
        await store.save_snapshot(snapshot(ACME, 4, ["a", "b"]))
        assert await store.snapshot(ACME) == snapshot(ACME, 4, ["a", "b"])
        assert await store.snapshot(OTHER) is None
        await store.save_snapshot(snapshot(ACME, 4, ["c"]))
        assert await store.snapshot(ACME) == snapshot(ACME, 4, ["c"])

    @pytest.mark.parametrize("revision", [0, 1, 6])
    async def test_a_snapshot_that_does_not_fit_is_refused(self, store: LogStore, revision: int) -> None:
        """One that is older than the saved one, or ahead of the log, is refused."""
        await fill(store, ACME, 5)
        await store.save_snapshot(snapshot(ACME, 2))
        with pytest.raises(StoreError):
            await store.save_snapshot(snapshot(ACME, revision))
        with pytest.raises(StoreError):
            await store.save_snapshot(snapshot(OTHER, 0))
        assert await store.snapshot(ACME) == snapshot(ACME, 2)

    async def test_a_saved_snapshot_is_not_the_callers(self, store: LogStore) -> None:
        """What the caller does to a message that it gave or got changes nothing."""
        await fill(store, ACME, 2)
        given = snapshot(ACME, 2, ["a"])
        await store.save_snapshot(given)
        given.resources.clear()
        got = await store.snapshot(ACME)
        assert got == snapshot(ACME, 2, ["a"])
        got.resources.clear()
        assert await store.snapshot(ACME) == snapshot(ACME, 2, ["a"])

    async def test_trim_goes_to_the_snapshot_at_most(self, store: LogStore) -> None:
        """Entries are forgotten up to a revision, but none that a load needs."""
        await fill(store, ACME, 8)
        assert await store.trim(ACME, 5) == 0
        await store.save_snapshot(snapshot(ACME, 5))
        assert await store.trim(ACME, 3) == 3
        assert await store.trim(ACME, 2) == 3
        assert await store.trim(ACME, 8) == 5
        assert await revisions(store, ACME, 5) == [6, 7, 8]
        assert await store.trim(OTHER, 5) == 0
        assert (await store.floor(ACME), await store.floor(OTHER)) == (5, 0)

    async def test_what_is_trimmed_is_said_to_be(self, store: LogStore) -> None:
        """History from before the floor is refused with Compacted, never
        given with a hole."""
        await fill(store, ACME, 8)
        await store.save_snapshot(snapshot(ACME, 5))
        await store.trim(ACME, 5)
        for after in (0, 4):
            with pytest.raises(Compacted) as raised:
                await store.changes(ACME, after, 10)
            assert raised.value.floor == 5

    async def test_the_log_goes_on_over_a_trim(self, store: LogStore) -> None:
        """Revisions, the chain and request ids are the same after all entries
        are trimmed."""
        await fill(store, ACME, 3)
        await commit(store, ACME, 3, meta("r1"))
        last = (await store.changes(ACME, 3, 1))[0]
        await store.save_snapshot(snapshot(ACME, 4))
        assert await store.trim(ACME, 4) == 4
        assert (await store.head(ACME), await store.tenants()) == (4, [ACME])
        assert await store.answer(ACME, "r1", NOW) is not None
        await commit(store, ACME, 4)
        verify_chain(await store.changes(ACME, 4, 10), 4, last.hash)

    async def test_a_large_snapshot_comes_back_whole(self, store: LogStore) -> None:
        """Each resource is there, once, in order, with the time and the hash."""
        await fill(store, ACME, 2)
        saved = snapshot(ACME, 2, [f"agent-{number}" for number in range(333)])
        saved.time.FromNanoseconds(round(NOW * 1e9))
        await store.save_snapshot(saved)
        assert await store.snapshot(ACME) == saved

    async def test_a_trim_survives_a_restart(self, lasting: Backend) -> None:
        """Snapshot and floor are durable."""
        store = await lasting.open()
        await fill(store, ACME, 4)
        await store.save_snapshot(snapshot(ACME, 3))
        await store.trim(ACME, 3)
        again = await reopened(lasting, store)
        assert await again.snapshot(ACME) == snapshot(ACME, 3)
        assert await revisions(again, ACME, 3) == [4]
        assert await again.floor(ACME) == 3
        with pytest.raises(Compacted):
            await again.changes(ACME, 2, 1)
        await again.close()

    async def test_tenants_are_listed_in_order(self, store: LogStore) -> None:
        """All tenants that have an entry, ascending."""
        for name in ("zeta", "alpha", "beta-2", "beta-10"):
            await commit(store, TenantId(name), 0)
        assert await store.tenants() == ["alpha", "beta-10", "beta-2", "zeta"]


class TestWait:
    async def test_waiters_wake_when_another_task_commits(self, store: LogStore) -> None:
        """Everyone who waits is woken by the next commit of any tenant."""
        seen = await asyncio.wait_for(store.wait(-1), WAIT_SECONDS_MAX)
        waiters = [asyncio.create_task(store.wait(seen)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(waiter.done() for waiter in waiters)
        await commit(store, ACME, 0)
        counts = await asyncio.wait_for(asyncio.gather(*waiters), WAIT_SECONDS_MAX)
        await commit(store, OTHER, 0)
        assert await asyncio.wait_for(store.wait(counts[0]), WAIT_SECONDS_MAX) > counts[0] > seen

    async def test_who_comes_late_waits_for_nothing(self, store: LogStore) -> None:
        """A commit between two waits is not missed."""
        seen = await store.wait(-1)
        await commit(store, ACME, 0)
        assert await asyncio.wait_for(store.wait(seen), WAIT_SECONDS_MAX) > seen

    async def test_a_refusal_wakes_nobody(self, store: LogStore) -> None:
        """The counter counts commits, not attempts."""
        seen = await store.wait(-1)
        with pytest.raises(RevisionConflict):
            await commit(store, ACME, 9)
        waiter = asyncio.create_task(store.wait(seen))
        await asyncio.sleep(0)
        assert not waiter.done()
        await commit(store, ACME, 0)
        assert await asyncio.wait_for(waiter, WAIT_SECONDS_MAX) == seen + 1

    async def test_what_is_seen_is_durable(self, store: LogStore) -> None:
        """Who is woken finds the entry."""
        seen = await store.wait(-1)
        waiter = asyncio.create_task(store.wait(seen))
        pending = store.commit(ACME, 0, [put("a")], meta())
        await asyncio.wait_for(waiter, WAIT_SECONDS_MAX)
        assert await revisions(store, ACME) == [1]
        await pending


class TestClose:
    async def test_what_is_enqueued_is_finished(self, lasting: Backend) -> None:
        """Commits that were submitted before close land, and are durable."""
        store = await lasting.open()
        pending = [store.commit(ACME, at, [put("a")], meta()) for at in range(600)]
        await store.close()
        assert [(await one).revision for one in pending] == list(range(1, 601))
        again = await reopened(lasting, store)
        assert await again.head(ACME) == 600
        await again.close()

    async def test_a_closed_store_takes_nothing(self, store: LogStore) -> None:
        """A commit after close fails, waiters are let go, and a second close
        does nothing."""
        waiter = asyncio.create_task(store.wait(await store.wait(-1)))
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(StoreError):
            await commit(store, ACME, 0)
        with pytest.raises(StoreError):
            await asyncio.wait_for(waiter, WAIT_SECONDS_MAX)
        await store.close()
