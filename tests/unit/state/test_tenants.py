"""Changing tenants: order, durability, repeats, conflicts and failures."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from control_plane.services import decisions
from control_plane.state import Act, Decision, Postponed, Tenants, TenantState
from control_plane.state.load import load
from control_plane.state.pipeline import Pipeline
from control_plane.state.residents import IDLE_SECONDS_MAX
from control_plane.state.tenants import SNAPSHOT_COMMITS
from control_plane.store import Commit, CommitMeta, OutcomeUnknown, StoreError
from control_plane.store.memory import MemoryStore
from tests.unit.services.agent_requests import AGENT, TENANT, act, create, update
from tests.unit.state.gated_store import GatedStore
from tests.virtual_clock import VirtualClock
from voxplane.errors import VoxplaneError
from voxplane.names import AgentId, TenantId
from voxplane.v1 import agent_service_pb2 as service_pb2

Created = service_pb2.CreateAgentResponse
Updated = service_pb2.UpdateAgentConfigResponse
THREAD_SECONDS_MAX = 30.0


class World:
    """A store and the tenants of one process."""

    def __init__(self, inner: MemoryStore | None = None, history: int = 0) -> None:
        self.clock = VirtualClock()
        self.inner = inner or MemoryStore()
        self.store = GatedStore(self.inner)
        self.tenants = Tenants(self.store, self.clock, history)
        self.heard: list[TenantState] = []
        self.tenants.subscribe(lambda change: self.heard.append(change.after))

    async def create(self, request: service_pb2.CreateAgentRequest) -> Created:
        """CreateAgent."""
        return await self.tenants.commit(
            TenantId(request.tenant_id),
            lambda state, act: decisions.create_agent(state, request, act),
            request,
            method="/create",
            principal="tester",
            answer=Created,
        )

    async def update(self, request: service_pb2.UpdateAgentConfigRequest) -> Updated:
        """UpdateAgentConfig."""
        return await self.tenants.commit(
            TenantId(request.tenant_id),
            lambda state, act: decisions.update_agent_config(state, request, act),
            request,
            method="/update",
            principal="tester",
            answer=Updated,
        )


async def reason_of(awaited: asyncio.Future[Updated] | asyncio.Future[Created]) -> str:
    """The reason of a refusal."""
    with pytest.raises(VoxplaneError) as raised:
        await awaited
    return raised.value.reason_name


async def test_writers_of_one_tenant_never_conflict() -> None:
    """64 concurrent updates are all acknowledged, each with a revision and a
    version of its own, without a gap, and each was tried once."""
    world = World()
    await world.create(create())
    answers = await asyncio.gather(*(world.update(update(f"{n}.")) for n in range(64)))
    assert sorted(a.revision.number for a in answers) == list(range(2, 66))
    assert sorted(a.version.number for a in answers) == list(range(2, 66))
    assert world.store.commits == 65
    assert [state.revision for state in world.heard] == list(range(1, 66))


async def test_nothing_is_served_before_it_is_durable() -> None:
    """While a commit is on its way, readers and listeners have the state before."""
    world = World()
    await world.create(create())
    world.store.gate.clear()
    writing = asyncio.ensure_future(world.update(update("New.")))
    await world.clock.settle()
    assert (await world.tenants.get(TENANT)).revision == 1
    assert len(world.heard) == 1
    world.store.gate.set()
    await writing
    assert (await world.tenants.get(TENANT)).revision == 2


async def test_the_state_is_what_the_log_says() -> None:
    """The state in memory equals the one that another process loads, hash
    included."""
    world = World()
    await world.create(create())
    await asyncio.gather(*(world.update(update(f"{n}.")) for n in range(5)))
    here = await world.tenants.get(TENANT)
    there = await World(world.inner).tenants.get(TENANT)
    assert here == there


async def test_a_repeat_gets_the_first_answer() -> None:
    """A request_id is answered once, also by another process, and not for
    another request."""
    world = World()
    first = await world.create(create(request_id="r1"))
    assert await world.create(create(request_id="r1")) == first
    assert await World(world.inner).create(create(request_id="r1")) == first
    other = world.create(create(request_id="r1", display_name="Other"))
    assert await reason_of(asyncio.ensure_future(other)) == "REQUEST_ID_REUSED"
    assert (await world.tenants.get(TENANT)).revision == 1


async def test_concurrent_repeats_are_decided_once() -> None:
    """Repeats that come while the first is on its way wait for its answer; a
    different request with that id does not."""
    world = World()
    await world.create(create())
    world.store.gate.clear()
    same = [asyncio.ensure_future(world.update(update("New.", request_id="r1"))) for _ in range(5)]
    await world.clock.settle()
    other = asyncio.ensure_future(world.update(update("Other.", request_id="r1")))
    assert await reason_of(other) == "REQUEST_ID_REUSED"
    world.store.gate.set()
    answers = await asyncio.gather(*same)
    assert all(answer == answers[0] for answer in answers)
    assert world.store.commits == 2


async def test_a_repeat_of_a_no_op_gets_the_first_answer() -> None:
    """A request that changed nothing changes nothing when it is repeated, even
    if it would now."""
    world = World()
    await world.create(create())
    first = await world.update(update("Be kind.", request_id="r1"))
    await world.update(update("Other."))
    assert await world.update(update("Be kind.", request_id="r1")) == first
    assert (await world.tenants.get(TENANT)).revision == 2


async def test_validate_only_changes_nothing() -> None:
    """A validated request is answered as if it were made, and is not."""
    world = World()
    request = create(request_id="r1")
    request.validate_only = True
    assert (await world.create(request)).revision.number == 1
    assert (await world.tenants.get(TENANT)).revision == 0
    assert (await world.create(create(request_id="r1"))).revision.number == 1


@pytest.mark.parametrize("validate_only", [False, True])
async def test_a_decision_that_has_to_find_something_out_does_not_hold_the_loop(validate_only: bool) -> None:
    """What takes long runs on a thread; other calls are answered meanwhile, and
    then the decision is made on what is the state by then."""
    world = World()
    await world.create(create())
    started, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    known: list[int] = []

    def find_out() -> None:
        loop.call_soon_threadsafe(started.set)
        go_on.wait(THREAD_SECONDS_MAX)
        known.append(threading.get_ident())

    def decide(state: TenantState, act: Act) -> Decision[Updated]:
        if not known:
            raise Postponed(find_out)
        return decisions.update_agent_config(state, update("Long."), act)

    request = update("Long.")
    request.validate_only = validate_only
    slow = asyncio.create_task(
        world.tenants.commit(TENANT, decide, request, method="/u", principal="tester", answer=Updated)
    )
    await started.wait()
    assert (await world.update(update("Short."))).version.number == 2
    go_on.set()
    assert (await slow).version.number == 3
    assert known != [threading.get_ident()]


async def test_a_decision_that_never_gets_to_know_ends() -> None:
    """A decision that is put off again and again is given up."""
    world = World()

    def decide(_state: TenantState, _act: Act) -> Decision[Updated]:
        raise Postponed(lambda: None)

    with pytest.raises(VoxplaneError) as raised:
        await world.tenants.commit(
            TENANT, decide, update("x"), method="/u", principal="tester", answer=Updated
        )
    assert raised.value.reason_name == "REVISION_CONFLICT"


async def test_a_failed_commit_takes_back_what_was_built_on_it() -> None:
    """When a commit fails, those decided on it are decided again; the caller of
    the failed one is told to retry."""
    world = World()
    await world.create(create())
    world.store.gate.clear()
    world.store.failures.append(StoreError("disk full"))
    failing = asyncio.ensure_future(world.update(update("Fails.")))
    await world.clock.settle()
    behind = asyncio.ensure_future(world.update(update("Stays.")))
    no_op = asyncio.ensure_future(world.update(update("Stays.")))
    await world.clock.settle()
    world.store.gate.set()
    assert await reason_of(failing) == "STORE_UNAVAILABLE"
    assert {(await behind).version.number, (await no_op).version.number} == {2}
    state = await world.tenants.get(TENANT)
    assert state.revision == 2
    (bundle,) = state.bundles.values()
    assert [version.number for version in bundle.bundle.versions] == [2]


async def test_an_outcome_that_is_not_known_is_told_as_such() -> None:
    """When the store cannot say whether a commit was made, the caller is told
    to repeat it with its request_id, and the repeat is made once."""
    world = World()
    await world.create(create())
    world.store.failures.append(OutcomeUnknown("the disk failed"))
    with pytest.raises(VoxplaneError, match="not known; repeat it with the same request_id") as raised:
        await world.update(update("New.", request_id="r1"))
    assert (raised.value.reason_name, raised.value.retry_after) == ("STORE_UNAVAILABLE", 1.0)
    first = await world.update(update("New.", request_id="r1"))
    assert await world.update(update("New.", request_id="r1")) == first
    assert (await world.tenants.get(TENANT)).revision == 2


async def test_a_commit_that_turns_up_later_is_answered_by_its_repeat() -> None:
    """A commit whose outcome was not known, and which was made, is the first
    answer to its request_id, and is served before that is given."""
    world = World()
    await world.create(create())
    made = world.inner.commit

    def lost(*what: Any) -> Any:
        made(*what)
        done: asyncio.Future[Commit] = asyncio.get_running_loop().create_future()
        done.set_exception(OutcomeUnknown("the disk failed"))
        return done

    world.inner.commit = lost  # type: ignore[method-assign]
    with pytest.raises(VoxplaneError, match="not known"):
        await world.update(update("New.", request_id="r1"))
    world.inner.commit = made  # type: ignore[method-assign]
    repeated = await world.update(update("New.", request_id="r1"))
    assert (repeated.revision.number, world.heard[-1].revision) == (2, 2)
    await world.update(update("Next."))
    assert (await world.tenants.get(TENANT)).revision == 3


async def test_an_error_counts_only_when_its_ground_is_durable() -> None:
    """A refusal that rests on a commit which then fails is decided again."""
    world = World()
    world.store.gate.clear()
    world.store.failures.append(StoreError("disk full"))
    first = asyncio.ensure_future(world.create(create()))
    await world.clock.settle()
    second = asyncio.ensure_future(world.create(create()))
    await world.clock.settle()
    world.store.gate.set()
    assert await reason_of(first) == "STORE_UNAVAILABLE"
    assert (await second).revision.number == 1


async def test_another_writer_is_caught_up_with() -> None:
    """After a conflict with another process the state is brought level, and the
    request decided again: nobody's change is lost."""
    one = World()
    await one.create(create())
    two = World(one.inner)
    await two.tenants.get(TENANT)
    for turn in range(3):
        await one.update(update(f"One {turn}."))
        assert (await two.update(update(f"Two {turn}."))).version.number == 2 * turn + 3
    assert [s.revision for s in one.heard] == [1, 2, 3, 4, 5, 6]
    assert (await two.tenants.get(TENANT)).revision == 7


async def test_a_commit_behind_a_lost_one_is_lost_too() -> None:
    """What was decided on a commit that lost to another process does not land on
    that process' commit, though the revision is the one that it expects."""
    one = World()
    await one.create(create())
    two = World(one.inner)
    await two.tenants.get(TENANT)
    model = service_pb2.UpdateAgentConfigRequest(tenant_id=TENANT, agent_id=AGENT)
    model.config.llm_config.model = "large"
    model.update_mask.paths.append("llm_config.model")
    theirs, *ours = await asyncio.gather(
        two.update(model), one.update(update("First.")), one.update(update("Second."))
    )
    assert theirs.version.number == 2
    assert {answer.version.number for answer in ours} == {3, 4}
    assert {answer.version.config.llm_config.model for answer in ours} == {"large"}


@pytest.mark.parametrize("writers", [2, 20])
async def test_two_processes_that_write_at_once_lose_nothing(writers: int) -> None:
    """However two processes' pipelined commits interleave, each acknowledged
    update has a version of its own that holds it."""
    worlds = [World()]
    await worlds[0].create(create())
    worlds.append(World(worlds[0].inner))
    for world in worlds:
        await world.tenants.get(TENANT)
    writes = [world.update(update(f"{n} {i}.")) for n in range(writers) for i, world in enumerate(worlds)]
    answers = await asyncio.gather(*writes, return_exceptions=True)
    made = [answer for answer in answers if isinstance(answer, Updated)]
    state = await World(worlds[0].inner).tenants.get(TENANT)
    versions = state.agents[AgentId(AGENT)].versions
    assert len({answer.version.number for answer in made}) == len(made) == state.revision - 1
    for answer in made:
        assert versions[answer.version.number] == answer.version
    for refused in answers:
        if isinstance(refused, VoxplaneError):
            assert refused.reason_name == "REVISION_CONFLICT"


@pytest.mark.parametrize("request_id", ["", "r1"])
async def test_a_caller_that_goes_leaves_its_commit(request_id: str) -> None:
    """A caller that is cancelled after it submitted harms nobody: its commit is
    made, and those behind it too."""
    world = World()
    await world.create(create())
    world.store.gate.clear()
    gone = asyncio.ensure_future(world.update(update("Gone.", request_id=request_id)))
    await world.clock.settle()
    stays = asyncio.ensure_future(world.update(update("Stays.")))
    await world.clock.settle()
    gone.cancel()
    await world.clock.settle()
    world.store.gate.set()
    assert (await stays).version.number == 3
    assert (await world.tenants.get(TENANT)).revision == 3
    assert await World(world.inner).tenants.get(TENANT) == await world.tenants.get(TENANT)


async def test_pinned_tenants_stay_in_memory() -> None:
    """What is pinned stays; what is not leaves a while after its last use."""
    world = World()
    await world.create(create())
    world.tenants.pin(TENANT)
    await world.clock.advance(IDLE_SECONDS_MAX * 2)
    assert world.tenants.peek(TENANT) is not None
    world.tenants.unpin(TENANT)
    await world.clock.advance(IDLE_SECONDS_MAX / 2)
    assert world.tenants.peek(TENANT) is not None
    await world.clock.advance(IDLE_SECONDS_MAX)
    assert world.tenants.peek(TENANT) is None
    assert (await world.tenants.get(TENANT)).revision == 1


async def test_snapshots_shorten_the_load_and_let_history_go() -> None:
    """Every so many commits a snapshot is saved and old entries are trimmed; a
    load and a replay within what is kept give the right states."""
    world = World(history=10)
    await world.create(create())
    for number in range(2, SNAPSHOT_COMMITS + 4):
        await world.update(update(f"{number}."))
    await world.tenants.close()
    saved = await world.inner.snapshot(TENANT)
    assert saved is not None
    assert saved.revision == SNAPSHOT_COMMITS
    loaded = await World(world.inner).tenants.get(TENANT)
    here = await world.tenants.get(TENANT)
    assert (loaded.agents, loaded.head_hash) == (here.agents, here.head_hash)
    earlier = await world.tenants.replay(TENANT, SNAPSHOT_COMMITS + 1)
    assert earlier.agents[AgentId(AGENT)].agent.latest_version == SNAPSHOT_COMMITS + 1
    for revision, refusal in ((5, "REVISION_COMPACTED"), (SNAPSHOT_COMMITS + 9, "REVISION_IN_FUTURE")):
        with pytest.raises(VoxplaneError) as raised:
            await world.tenants.replay(TENANT, revision)
        assert raised.value.reason_name == refusal


async def test_the_floor_is_known_when_history_is_trimmed() -> None:
    """The state says from where history is kept: by a load and, from the first
    commit after a trim on, in the process that trimmed, also for commits that
    were on their way meanwhile."""
    world = World(history=10)
    await world.create(create())
    for number in range(2, SNAPSHOT_COMMITS):
        await world.update(update(f"{number}."))
    assert world.heard[-1].floor == 0
    world.store.gate.clear()
    writes = [asyncio.ensure_future(world.update(update(f"Late {n}."))) for n in range(5)]
    await world.clock.settle()
    world.store.gate.set()
    await asyncio.gather(*writes)
    await world.tenants.close()
    floor = SNAPSHOT_COMMITS - 10
    assert (await world.tenants.get(TENANT)).floor == floor
    await world.update(update("After."))
    assert world.heard[-1].floor == floor
    assert await World(world.inner).tenants.get(TENANT) == await world.tenants.get(TENANT)
    assert (await world.tenants.replay(TENANT, SNAPSHOT_COMMITS + 2)).floor == floor


async def test_a_commit_that_fails_leaves_the_floor() -> None:
    """A tip that falls back to before a trim takes the floor back for nobody."""
    world = World()
    await world.create(create())
    pipeline = Pipeline(
        world.store, await load(world.store, TENANT), lambda change: world.heard.append(change.after)
    )

    def submit(text: str) -> asyncio.Future[None]:
        decision = decisions.update_agent_config(pipeline.tip, update(text), act())
        return pipeline.submit(decision, CommitMeta("tester", "/update", 1.0)).done

    world.store.failures += [StoreError("disk full")]
    failing = submit("Fails.")
    pipeline.raise_floor(1)
    with pytest.raises(StoreError):
        await failing
    await submit("Two.")
    await submit("Three.")
    assert [state.floor for state in world.heard] == [0, 1, 1]
    assert pipeline.tip is pipeline.durable


async def test_replay_shows_an_earlier_state() -> None:
    """The tenant as it was at a revision equals what was served then."""
    world = World()
    await world.create(create())
    await world.update(update("Two."))
    await world.update(update("Three."))
    assert await world.tenants.replay(TENANT, 2) == world.heard[1]


async def test_a_store_that_cannot_be_read_is_said_to_be_so() -> None:
    """A load that fails is UNAVAILABLE with a time to retry, and the next one
    is tried afresh."""
    world = World()
    await world.create(create())
    changes = world.inner.changes

    async def broken(*_: object) -> list[object]:
        raise StoreError("disk gone")

    fresh = World(world.inner)
    fresh.store.changes = broken  # type: ignore[attr-defined]
    with pytest.raises(VoxplaneError) as raised:
        await fresh.tenants.get(TENANT)
    assert (raised.value.reason_name, raised.value.retry_after) == ("STORE_UNAVAILABLE", 1.0)
    fresh.store.changes = changes  # type: ignore[attr-defined]
    assert (await fresh.tenants.get(TENANT)).revision == 1
    assert await fresh.tenants.tenant_ids() == [TENANT]
