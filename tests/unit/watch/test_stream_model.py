"""The stream's state against a model of its client, in any interleaving."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from control_plane.state import TenantState
from control_plane.watch.encoder import Encoder
from control_plane.watch.planner import Planner
from tests.unit.watch.reference_client import ReferenceClient
from tests.unit.watch.streams import DrivenStream
from tests.unit.watch.tenant_log import TenantLog
from voxplane.digest import bundles_digest
from voxplane.names import split_agent_name

TENANTS = ("acme", "globex")
AGENTS = ("a", "b", "c", "d")
TEXTS = ("one", "two", "three", "x" * 400)

tenants = st.sampled_from(TENANTS)
agents = st.sampled_from(AGENTS)


class Watched(RuleBasedStateMachine):
    """Writers, one stream whose messages are on their way, and its client,
    which may be cut off at any message and come back with less than it had."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = {tenant: TenantLog(tenant) for tenant in TENANTS}
        self.history: dict[tuple[str, int], TenantState] = {}
        self.dirty: set[str] = set()
        self.encoder = Encoder()
        self.streams = 0

    @initialize(
        tenant=st.sampled_from(("-", *TENANTS)),
        scope=st.sets(agents, max_size=3),
        part_bytes_max=st.sampled_from((100, 600, 1_000_000)),
    )
    def connect_first(self, tenant: str, scope: set[str], part_bytes_max: int) -> None:
        """The first stream: of one tenant, of some agents, or of all tenants."""
        self.client = ReferenceClient(tenant, sorted(scope) if tenant != "-" else ())
        self.planner = Planner(part_bytes_max)
        self._connect(lose=frozenset(), spoil=frozenset(), forget_revision=False)

    @rule(tenant=tenants, agent=agents, text=st.sampled_from(TEXTS))
    def publish(self, tenant: str, agent: str, text: str) -> None:
        """A new version goes live; a deleted agent comes back."""
        self._committed(self.logs[tenant].publish(agent, text))

    @rule(tenant=tenants, data=st.data())
    def point(self, tenant: str, data: st.DataObject) -> None:
        """An alias moves to any version."""
        log = self.logs[tenant]
        if log.live:
            agent = data.draw(st.sampled_from(log.live))
            versions = next(r.versions for name, r in log.state.agents.items() if name == agent)
            self._committed(log.point(agent, data.draw(st.sampled_from(sorted(versions)))))

    @rule(tenant=tenants, data=st.data())
    def rename(self, tenant: str, data: st.DataObject) -> None:
        """A commit that no bundle shows."""
        log = self.logs[tenant]
        if log.live:
            self._committed(log.rename(data.draw(st.sampled_from(log.live)), "renamed"))

    @rule(tenant=tenants, data=st.data())
    def delete(self, tenant: str, data: st.DataObject) -> None:
        """An agent goes."""
        log = self.logs[tenant]
        if log.live:
            self._committed(log.delete(data.draw(st.sampled_from(log.live))))

    @precondition(lambda self: self.dirty)
    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        """The stream can send, and looks at one tenant."""
        tenant = data.draw(st.sampled_from(sorted(self.dirty)))
        self.dirty.discard(tenant)
        self.stream.show(self.logs[tenant].state)

    @rule()
    def beat(self) -> None:
        """A heartbeat is due."""
        self.stream.beat()

    @rule(count=st.integers(1, 4))
    def deliver(self, count: int) -> None:
        """Some messages arrive."""
        for data in self.stream.sent[self.delivered : self.delivered + count]:
            self.client.receive(data)
            self.delivered += 1

    @rule(
        lose=st.frozensets(st.integers(0, 7), max_size=2),
        spoil=st.frozensets(st.integers(0, 7), max_size=2),
        forget_revision=st.booleans(),
    )
    def reconnect(self, lose: frozenset[int], spoil: frozenset[int], forget_revision: bool) -> None:
        """The stream breaks, what is on its way is lost, and the client comes
        back, perhaps with some bundles and contents lost or spoiled."""
        self._connect(lose, spoil, forget_revision)

    @rule()
    def catch_up(self) -> None:
        """When all has arrived, the client has what the server has."""
        for tenant in sorted(self.dirty):
            self.stream.show(self.logs[tenant].state)
        self.dirty.clear()
        self.stream.beat()
        self.deliver(len(self.stream.sent))
        for tenant in TENANTS if self.client.tenant_id == "-" else (self.client.tenant_id,):
            assert self.client.number(tenant) == self.logs[tenant].state.revision
            self._same(tenant)

    @invariant()
    def every_level_is_a_state_that_was(self) -> None:
        """Whatever has arrived: what the client holds of a tenant is exactly
        one revision of it, never a mix."""
        for tenant in self.client.revisions if hasattr(self, "client") else ():
            if tenant not in self.client.torn:
                self._same(tenant)

    def _same(self, tenant: str) -> None:
        number = self.client.number(tenant)
        state = self.history.get((tenant, number))
        bundles = state.bundles if state else {}
        wanted = {
            name: record.etag
            for name, record in bundles.items()
            if not self.client.agent_ids or split_agent_name(name)[1] in self.client.agent_ids
        }
        assert self.client.digest(tenant) == bundles_digest(wanted)
        for bundle in self.client.bundles.get(tenant, {}).values():
            assert {version.content_hash for version in bundle.versions} <= set(self.client.contents)

    def _committed(self, state: TenantState) -> None:
        self.history[state.tenant_id, state.revision] = state
        if self.client.tenant_id in ("-", state.tenant_id):
            self.dirty.add(state.tenant_id)

    def _connect(self, lose: frozenset[int], spoil: frozenset[int], forget_revision: bool) -> None:
        self.client.lose(lose)
        request = self.client.request()
        for number, name in enumerate(sorted(request.known)):
            if number in spoil:
                request.known[name] = "spoiled"
        if forget_revision and self.client.revisions:
            tenant = min(self.client.revisions)
            del request.start_revisions[tenant]
        self.streams += 1
        self.delivered = 0
        self.stream = DrivenStream(request, self.planner, self.encoder, f"stream-{self.streams}")
        assert self.stream.closed is None
        one = {self.client.tenant_id} - {"-"}
        self.dirty = one or {t for t in TENANTS if self.logs[t].state.revision or t in self.client.revisions}


TestWatched = Watched.TestCase
TestWatched.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
