"""The stream's state against a model of its clients, in any interleaving."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from control_plane.state import TenantState
from control_plane.watch.encoder import Encoder
from control_plane.watch.planner import Planner
from tests.unit.watch.reference_client import ReferenceClient
from tests.unit.watch.streams import DrivenStream
from tests.unit.watch.tenant_log import TenantLog
from voxplane.digest import bundles_digest
from voxplane.names import split_agent_name

TENANTS = ("acme", "globex")
AGENTS = ("a", "b", "c")
TEXTS = ("one", "two", "x" * 400)
CLIENTS = 2

tenants = st.sampled_from(TENANTS)
agents = st.sampled_from(AGENTS)
clients = st.integers(0, CLIENTS - 1)
few = st.frozensets(st.integers(0, 7), max_size=2)


class Watch:
    """A client, its stream, and the messages on their way between the two."""

    def __init__(self, client: ReferenceClient, open_stream: Callable[..., DrivenStream]) -> None:
        self.client = client
        self._open_stream = open_stream
        self.dirty: set[str] = set()

    def connect(
        self, known_tenants: set[str], spoil: frozenset[int] = frozenset(), *, forget: bool = False
    ) -> None:
        """Begin a stream; what was on its way on the last one is lost."""
        request = self.client.request()
        for number, name in enumerate(sorted(request.known)):
            if number in spoil:
                request.known[name] = "spoiled"
        if forget and self.client.revisions:
            del request.start_revisions[min(self.client.revisions)]
        self.stream = self._open_stream(request)
        assert self.stream.closed is None
        self._delivered = 0
        everything = self.client.tenant_id == "-"
        self.dirty = known_tenants | set(self.client.revisions) if everything else {self.client.tenant_id}

    def deliver(self, count: int) -> None:
        """So many messages arrive."""
        for data in self.stream.sent[self._delivered : self._delivered + count]:
            self.client.receive(data)
            self._delivered += 1


class Watched(RuleBasedStateMachine):
    """Writers and clients, which may be cut off at any message and come back
    with less than they had."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = {tenant: TenantLog(tenant) for tenant in TENANTS}
        self.history: dict[tuple[str, int], TenantState] = {}
        self.watches: list[Watch] = []

    @initialize(
        asked=st.lists(
            st.tuples(st.sampled_from(("acme", "-")), st.just(set[str]()) | st.sets(agents, max_size=3)),
            min_size=CLIENTS,
            max_size=CLIENTS,
        ),
        part_bytes_max=st.sampled_from((100, 600, 1_000_000)),
    )
    def begin(self, asked: list[tuple[str, set[str]]], part_bytes_max: int) -> None:
        """Streams of one tenant, of some agents, or of all tenants."""
        planner, encoder = Planner(part_bytes_max), Encoder()
        for tenant, scope in asked:
            client = ReferenceClient(tenant, sorted(scope) if tenant != "-" else ())
            watch = Watch(client, lambda request: DrivenStream(request, planner, encoder))
            watch.connect(set())
            self.watches.append(watch)

    @rule(tenant=tenants, agent=agents, text=st.sampled_from(TEXTS))
    def publish(self, tenant: str, agent: str, text: str) -> None:
        """A new version goes live; a deleted agent comes back."""
        self._committed(self.logs[tenant].publish(agent, text))

    @rule(tenant=tenants, which=st.integers(0, 2), number=st.integers(1, 3))
    def point(self, tenant: str, which: int, number: int) -> None:
        """An alias moves to any version."""
        log = self.logs[tenant]
        if which < len(log.live) and log.has(log.live[which], number):
            self._committed(log.point(log.live[which], number))

    @rule(tenant=tenants, which=st.integers(0, 2))
    def rename(self, tenant: str, which: int) -> None:
        """A commit that no bundle shows."""
        log = self.logs[tenant]
        if which < len(log.live):
            self._committed(log.rename(log.live[which], "renamed"))

    @rule(tenant=tenants, which=st.integers(0, 2))
    def delete(self, tenant: str, which: int) -> None:
        """An agent goes."""
        log = self.logs[tenant]
        if which < len(log.live):
            self._committed(log.delete(log.live[which]))

    @rule(client=clients, first=st.booleans())
    def look(self, client: int, first: bool) -> None:
        """A stream can send, and looks at a tenant that has changed."""
        watch = self.watches[client]
        if watch.dirty:
            tenant = min(watch.dirty) if first else max(watch.dirty)
            watch.dirty.discard(tenant)
            watch.stream.show(self.logs[tenant].state)

    @rule(client=clients)
    def beat(self, client: int) -> None:
        """A heartbeat is due."""
        self.watches[client].stream.beat()

    @rule(client=clients, count=st.integers(1, 9))
    def deliver(self, client: int, count: int) -> None:
        """Some messages arrive."""
        self.watches[client].deliver(count)

    @rule(client=clients, lose=few, spoil=few, forget=st.booleans())
    def reconnect(self, client: int, lose: frozenset[int], spoil: frozenset[int], forget: bool) -> None:
        """A stream breaks, and the client comes back, perhaps with some
        bundles and contents lost or spoiled."""
        watch = self.watches[client]
        watch.client.lose(lose)
        watch.connect(
            {tenant for tenant, log in self.logs.items() if log.state.revision}, spoil, forget=forget
        )

    @rule()
    def catch_up(self) -> None:
        """When all has arrived, each client has what the server has."""
        for watch in self.watches:
            for tenant in sorted(watch.dirty):
                watch.stream.show(self.logs[tenant].state)
            watch.dirty.clear()
            watch.stream.beat()
            watch.deliver(len(watch.stream.sent))
            client = watch.client
            for tenant in TENANTS if client.tenant_id == "-" else (client.tenant_id,):
                assert client.number(tenant) == self.logs[tenant].state.revision
                self._same(client, tenant)

    @invariant()
    def every_level_is_a_state_that_was(self) -> None:
        """Whatever has arrived: what a client holds of a tenant is exactly one
        revision of it, never a mix."""
        for watch in self.watches:
            for tenant in watch.client.revisions.keys() - watch.client.torn:
                self._same(watch.client, tenant)

    def _same(self, client: ReferenceClient, tenant: str) -> None:
        state = self.history.get((tenant, client.number(tenant)))
        wanted = {
            name: record.etag
            for name, record in (state.bundles if state else {}).items()
            if not client.agent_ids or split_agent_name(name)[1] in client.agent_ids
        }
        assert client.digest(tenant) == bundles_digest(wanted)
        for bundle in client.bundles.get(tenant, {}).values():
            assert {version.content_hash for version in bundle.versions} <= set(client.contents)

    def _committed(self, state: TenantState) -> None:
        self.history[state.tenant_id, state.revision] = state
        for watch in self.watches:
            if watch.client.tenant_id in ("-", state.tenant_id):
                watch.dirty.add(state.tenant_id)


TestWatched = Watched.TestCase
TestWatched.settings = settings(max_examples=400, stateful_step_count=60, deadline=None)
