"""Every log store against a model of plain dicts, over random histories."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from control_plane.store import Compacted, DuplicateRequest, LogStore, RevisionConflict, StoreError
from control_plane.store.chain import verify_chain
from control_plane.store.log import NO_HASH, REQUEST_ID_SECONDS, CommitMeta
from tests.contract.backends import BACKENDS, Backend
from tests.contract.log_samples import NOW, meta, put, snapshot
from voxplane.names import TenantId

TENANTS = st.sampled_from([TenantId("t1"), TenantId("t2")])
REQUEST_IDS = st.sampled_from(["", "", "r1", "r2", "r3"])
OFFSETS = st.sampled_from([0, 0, 0, 0, -1, 1])


@dataclass
class Model:
    """A tenant's log as it ought to be."""

    agents: list[str] = field(default_factory=list)
    """What each revision has put, from the first on."""
    answers: dict[str, tuple[float, int, bytes]] = field(default_factory=dict)
    """When each request_id expires, the revision that it made, its response."""
    floor: int = 0
    snapshot: int = 0

    def answer(self, request_id: str, now: float) -> tuple[int, bytes] | None:
        """What a request_id was answered."""
        expires, *answer = self.answers.get(request_id, (0.0, 0, b""))
        return (answer[0], answer[1]) if expires > now else None

    def commit(self, expected: int, agent: str, metadata: CommitMeta) -> object:
        """The revision made, or what refuses."""
        if metadata.request_id and (answer := self.answer(metadata.request_id, metadata.time)):
            return ("duplicate", *answer)
        if expected != len(self.agents):
            return ("conflict", len(self.agents))
        self.agents.append(agent)
        if metadata.request_id:
            expires = metadata.time + REQUEST_ID_SECONDS
            self.answers[metadata.request_id] = (expires, len(self.agents), metadata.response)
        return len(self.agents)


class LogMachine(RuleBasedStateMachine):
    """Does the same to a store and to its models, and compares."""

    kind: type[Backend]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.backend = self.kind(Path(self.folder.name))
        self.runner = asyncio.Runner()
        self.store: LogStore = self.runner.run(self.backend.open())
        self.models: dict[TenantId, Model] = {}
        self.now = NOW
        self.count = 0

    def teardown(self) -> None:
        """Check the chains, and let go."""
        for tenant_id, model in self.models.items():
            if not model.floor:
                verify_chain(self.run(self.store.changes(tenant_id, 0, 1000)), 0, NO_HASH)
        self.run(self.store.close())
        self.runner.close()
        self.folder.cleanup()

    def run(self, awaitable: Any) -> Any:
        """What a call to the store gives."""

        async def wait() -> Any:
            return await awaitable

        return self.runner.run(wait())

    def model(self, tenant_id: TenantId) -> Model:
        """The tenant's model, or an empty one."""
        return self.models.get(tenant_id) or Model()

    @rule(batch=st.lists(st.tuples(TENANTS, OFFSETS, REQUEST_IDS), min_size=1, max_size=8))
    def commits(self, batch: list[tuple[TenantId, int, str]]) -> None:
        """Submit commits together; each names the revision before it, give or take."""
        todo: list[tuple[TenantId, int, str, CommitMeta]] = []
        expected: list[object] = []
        for tenant_id, offset, request_id in batch:
            self.count += 1
            model = self.model(tenant_id)
            at, agent = len(model.agents) + offset, f"a{self.count}"
            metadata = meta(request_id, self.now)
            expected.append(model.commit(at, agent, metadata))
            if model.agents:
                self.models[tenant_id] = model
            todo.append((tenant_id, at, agent, metadata))

        async def submit() -> list[object]:
            pending = [self.store.commit(t, at, [put(agent)], m) for t, at, agent, m in todo]
            return [_outcome(one) for one in await asyncio.gather(*pending, return_exceptions=True)]

        assert self.runner.run(submit()) == expected

    @rule(tenant_id=TENANTS, after=st.integers(-1, 12), limit=st.integers(0, 12))
    def changes(self, tenant_id: TenantId, after: int, limit: int) -> None:
        """Read a page of history."""
        model, after_clamped = self.model(tenant_id), max(0, after)
        if after_clamped < model.floor:
            with pytest.raises(Compacted) as raised:
                self.run(self.store.changes(tenant_id, after, limit))
            assert raised.value.floor == model.floor
            return
        entries = self.run(self.store.changes(tenant_id, after, limit))
        given = [(entry.revision, entry.decode().mutations[0].put.agent.agent_id) for entry in entries]
        whole = list(enumerate(model.agents, 1))
        assert given == whole[after_clamped : after_clamped + limit]

    @rule(tenant_id=TENANTS, revision=st.integers(0, 12))
    def save_snapshot(self, tenant_id: TenantId, revision: int) -> None:
        """Save a snapshot that fits or does not."""
        model = self.model(tenant_id)
        if max(model.snapshot, 1) <= revision <= len(model.agents):
            self.run(self.store.save_snapshot(snapshot(tenant_id, revision)))
            model.snapshot = revision
        else:
            with pytest.raises(StoreError):
                self.run(self.store.save_snapshot(snapshot(tenant_id, revision)))

    @rule(tenant_id=TENANTS, through=st.integers(0, 12))
    def trim(self, tenant_id: TenantId, through: int) -> None:
        """Forget old entries."""
        model = self.model(tenant_id)
        model.floor = max(model.floor, min(through, model.snapshot))
        assert self.run(self.store.trim(tenant_id, through)) == model.floor

    @rule(seconds=st.sampled_from([1.0, REQUEST_ID_SECONDS / 2, REQUEST_ID_SECONDS - 1.0]))
    def time_passes(self, seconds: float) -> None:
        """Let request_ids expire."""
        self.now += seconds

    @precondition(lambda self: self.backend.durable)
    @rule()
    def restarts(self) -> None:
        """Close the store and open it again."""
        epoch = self.store.epoch
        self.run(self.store.close())
        self.store = self.run(self.backend.open())
        assert self.store.epoch == epoch

    @invariant()
    def heads_and_answers_agree(self) -> None:
        """What the store knows of each tenant is what its model knows."""
        assert self.run(self.store.tenants()) == sorted(self.models)
        for tenant_id in ("t1", "t2"):
            model = self.model(TenantId(tenant_id))
            assert self.run(self.store.head(TenantId(tenant_id))) == len(model.agents)
            assert self.run(self.store.floor(TenantId(tenant_id))) == model.floor
            saved = self.run(self.store.snapshot(TenantId(tenant_id)))
            assert (saved.revision if saved else 0) == model.snapshot
            for request_id in ("r1", "r2", "r3"):
                answer = self.run(self.store.answer(TenantId(tenant_id), request_id, self.now))
                given = (answer.revision, answer.response) if answer else None
                assert given == model.answer(request_id, self.now)


def _outcome(outcome: object) -> object:
    match outcome:
        case DuplicateRequest():
            return ("duplicate", outcome.answer.revision, outcome.answer.response)
        case RevisionConflict():
            return ("conflict", outcome.actual)
        case BaseException():
            raise outcome
        case _:
            return outcome.revision  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_a_store_is_what_its_model_is(name: str) -> None:
    """Over any history of commits, repeats, reads, snapshots, trims, expiries
    and restarts a store gives what a plain list and dict would give."""
    machine = type("Machine", (LogMachine,), {"kind": BACKENDS[name]})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=25, stateful_step_count=25, deadline=None)
    )
