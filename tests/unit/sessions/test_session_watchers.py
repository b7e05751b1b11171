"""What watchers of sessions are sent, in virtual time."""

from __future__ import annotations

import pytest

from control_plane.sessions.unsent import SESSIONS_MAX
from control_plane.sessions.watchers import LISTED_AT_ONCE, Watchers
from control_plane.store import SqliteStore
from tests.contract.session_samples import ENDED, put, report, session, turn
from tests.unit.sessions.session_world import Watch, World


@pytest.fixture
def world() -> World:
    """Sessions that nobody has reported yet."""
    return World()


async def test_first_come_those_that_run(world: World) -> None:
    """A watcher is sent the tenant's active sessions, then synced, and no
    others."""
    await put(
        world.table,
        session("s1"),
        session("s2"),
        session("s3", state=ENDED),
        session("s4", tenant_id="other"),
    )
    watch = await world.watch()
    assert watch.seen() == [("s2", "ACTIVE", 1, []), ("s1", "ACTIVE", 1, []), 2]


async def test_then_comes_what_changes(world: World) -> None:
    """Each change is sent with what the session has become and its new turns;
    other tenants' are not."""
    node, watch = await world.node(), await world.watch()
    node.batch(report(session("s1")), report(session("s9", tenant_id="other")))
    await world.settle()
    node.batch(report(session("s1", 2), turn(1)))
    await world.settle()
    node.batch(report(session("s1", 3, state=ENDED), turn(2)))
    await world.settle()
    assert watch.seen() == [0, ("s1", "ACTIVE", 1, []), ("s1", "ACTIVE", 2, [1]), ("s1", "ENDED", 3, [2])]


async def test_a_report_that_comes_again_is_shown_again(world: World) -> None:
    """A node repeats what was not acknowledged; a watcher that missed it for
    that reason sees it then. An old report is no news."""
    node, watch = await world.node(), await world.watch()
    again = [report(session("s1"), turn(1)), report(session("s1", 2), turn(2))]
    node.batch(*again)
    await world.settle()
    assert watch.seen() == [0, ("s1", "ACTIVE", 2, [1, 2])]
    node.batch(*again)
    await world.settle()
    assert watch.seen() == [("s1", "ACTIVE", 2, [2])]


async def test_a_watch_of_one_agent(world: World) -> None:
    """Only sessions of the agent come; one that goes to another agent is shown
    once more, then no longer."""
    await put(world.table, session("s1"), session("s2", agent_id="care"))
    node, watch = await world.node("n1", "s1", "s2"), await world.watch("sales")
    for at, agent in enumerate(("sales", "care", "care", "sales"), 2):
        node.batch(report(session("s1", at, agent_id=agent)), report(session("s2", at, agent_id="care")))
        await world.settle()
    shown = [("s1", "ACTIVE", at, list[int]()) for at in (1, 2, 3, 5)]
    assert watch.seen() == [shown[0], 1, *shown[1:]]


async def test_a_slow_reader_is_sent_the_newest(world: World) -> None:
    """While a watcher does not read, its node is not held up, and it goes on
    with the newest of each session."""
    node, watch = await world.node(), await world.watch()
    watch.out.gate.clear()
    node.batch(report(session("s0")))
    await world.settle()
    for at in range(1, 6):
        node.batch(report(session("s1", at), turn(at)), report(session("s2", at)))
    await world.settle()
    assert node.stored() != []
    watch.out.gate.set()
    await world.settle()
    assert watch.seen() == [
        0,
        ("s0", "ACTIVE", 1, []),
        ("s1", "ACTIVE", 5, [1, 2, 3, 4, 5]),
        ("s2", "ACTIVE", 5, []),
    ]


async def test_a_reader_that_never_reads_is_given_up(world: World) -> None:
    """Past the bound the stream of a watcher ends, also in the middle of a
    message that it does not take."""
    node, watch, other = await world.node(), await world.watch(), await world.watch()
    watch.out.gate.clear()
    for at in range(0, SESSIONS_MAX + 2, 1_000):
        node.batch(*(report(session(f"s{at + n}", state=ENDED)) for n in range(1_000)))
        await world.settle()
    node.batch(report(session("last")))
    await world.settle()
    assert watch.reason() == "READER_TOO_SLOW"
    assert other.seen()[-1] == ("last", "ACTIVE", 1, [])
    assert world.sessions.watchers.count == 1


async def test_what_changes_while_the_list_is_sent_comes_after_it(world: World) -> None:
    """A change during the list is not lost and not shown older than it is; the
    list is read a piece at a time."""
    count = 2 * LISTED_AT_ONCE + 5
    await put(world.table, *(session(f"s{at:04}", started=1e9 + at) for at in range(count)))
    node = await world.node("n1", *(f"s{at:04}" for at in range(count)))
    watch = Watch(world.sessions)
    watch.out.gate.clear()
    await world.settle()
    node.batch(
        report(session("s0000", 2, started=1e9)),
        report(session("s0001", 2, started=1e9 + 1, state=ENDED)),
        report(session("new", started=2e9)),
    )
    await world.settle()
    watch.out.gate.set()
    for _ in range(count // 10):
        await world.settle()
    seen = watch.seen()
    assert seen[count - 2] == ("s0000", "ACTIVE", 2, [])
    assert seen[count - 1 :] == [
        count - 1,
        ("s0000", "ACTIVE", 2, []),
        ("s0001", "ENDED", 2, []),
        ("new", "ACTIVE", 1, []),
    ]
    assert len({each[0] for each in seen if isinstance(each, tuple)}) == count + 1


async def test_what_is_listed_does_not_become_older(world: World) -> None:
    """A session that was read newer than the change that waits is not shown in
    its old shape afterwards."""
    node = await world.node()
    node.batch(report(session("s1")))
    await world.settle()
    await put(world.table, *(session(f"t{at:04}", started=2e9) for at in range(LISTED_AT_ONCE)))
    watch = Watch(world.sessions)
    watch.out.gate.clear()
    await world.settle()
    node.batch(report(session("s1", 2), turn(2)))
    await world.settle()
    world.table.answers.clear()
    node.batch(report(session("s1", 3), turn(3)))
    await world.settle()
    watch.out.gate.set()
    for _ in range(LISTED_AT_ONCE // 10):
        await world.settle()
    assert watch.seen()[-3:] == [("s1", "ACTIVE", 3, []), LISTED_AT_ONCE + 1, ("s1", "ACTIVE", 3, [2])]
    world.table.answers.set()
    await world.settle()
    assert watch.seen() == [("s1", "ACTIVE", 3, [3])]


async def test_a_store_that_fails_ends_the_list(world: World) -> None:
    """A watcher whose list cannot be read is told to come again."""
    world.table.broken = True
    assert (await world.watch()).reason() == "STORE_UNAVAILABLE"


async def test_who_watches_lists_anew_after_a_loss_in_doubt(world: World) -> None:
    """When the store fails while sessions are found to be lost, nobody knows
    which ones; so who watches is ended, and lists anew."""
    await put(world.table, session("s1"))
    watch = await world.watch()
    world.table.writes_fail = True
    await world.node()
    assert watch.reason() == "STORE_UNAVAILABLE"


async def test_too_many_watchers_are_refused(world: World) -> None:
    """There is a bound to them; one that goes makes room."""
    watchers = Watchers(world.table, watchers_max=1)

    class Few:
        watch = watchers.serve

    first, second = Watch(Few()), Watch(Few())  # type: ignore[arg-type]
    await world.settle()
    assert second.reason() == "LIMIT_REACHED"
    first.stream.cancel()
    await world.settle()
    third = Watch(Few())  # type: ignore[arg-type]
    await world.settle()
    assert third.seen() == [0]


async def test_a_watch_over_a_file(tmp_path: object) -> None:
    """The same over a store on a disk."""
    store = await SqliteStore.open(tmp_path / "log.db")  # type: ignore[operator]
    world = World(table=store.sessions)
    await put(store.sessions, *(session(f"s{at:04}") for at in range(LISTED_AT_ONCE + 1)))
    watch = Watch(world.sessions)
    while not watch.out.messages or not watch.out.messages[-1].HasField("synced"):
        await world.settle()
    assert watch.seen()[-1] == LISTED_AT_ONCE + 1
    watch.stream.cancel()
    await store.close()
