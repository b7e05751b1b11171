"""Two tenants, a server and a node through everything that may happen to them:
what the node has is always one whole state of the server, never an older one
within an epoch, and what is on its disk is so too."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent_node.upstream import Snapshot, WatchProtocol
from agent_node.upstream.events import (
    Action,
    BackOff,
    Begin,
    Close,
    Ended,
    Forget,
    Persist,
    Received,
    Subscribe,
    Tick,
)
from tests.unit.node.samples import bundle, content
from tests.unit.node.test_upstream_protocol import NODE, texts_of
from voxplane.digest import bundles_digest
from voxplane.names import TenantId, agent_name
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

TENANTS = ("acme", "beta")
AGENTS = "ab"
Message = sync_pb2.WatchConfigResponse
State = dict[str, tuple[str, int]]
"""Text and the revision that wrote it, by agent id."""


@dataclass
class Tenant:
    """A tenant on the server: all states since its epoch began."""

    epoch: str
    history: list[State] = field(default_factory=lambda: [{}])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    """Etags that the node has refused, by bundle name."""

    @property
    def head(self) -> int:
        """The newest revision."""
        return len(self.history) - 1

    def write(self, agent: str, text: str | None) -> None:
        """Commit an agent's new text, or its removal."""
        state = {a: t for a, t in self.history[-1].items() if a != agent}
        if text is not None:
            state[agent] = (text, len(self.history))
        self.history.append(state)


class Connection:
    """What the server knows of one stream."""

    def __init__(self, number: int, request: sync_pb2.WatchConfigRequest) -> None:
        self.stream_id = f"s{number}"
        self.request = request
        self.nonce = 0
        self.known: dict[str, dict[str, str]] = {}
        self.contents = set(request.known_contents)
        self.wire: list[Message] = []
        self.drained = False
        self.lossy = False

    def put(self, message: Message) -> None:
        """One more message is on its way."""
        self.nonce += 1
        message.stream_id, message.nonce = self.stream_id, str(self.nonce)
        self.wire.append(message)

    def look(self, tenant_id: str, tenant: Tenant, parts: int) -> None:
        """Bring the client level with a tenant's newest state."""
        state = tenant.history[-1]
        made = {agent_name(tenant_id, a): bundle(tenant_id, a, text, at) for a, (text, at) in state.items()}
        etags = {name: b.etag for name, b in made.items()}
        first = tenant_id not in self.known
        start = self.request.start_revisions.get(tenant_id) if first else None
        prefix = f"tenants/{tenant_id}/"
        declared = {n: e for n, e in self.request.known.items() if n.startswith(prefix)}
        full = first and (start is None or start.epoch != tenant.epoch or not declared)
        declared = {} if full else declared
        known = declared if first else self.known[tenant_id]
        transfers = [sync_pb2.ConfigTransfer(tenant_id=tenant_id) for _ in range(parts)]
        for transfer in transfers:
            transfer.revision.number, transfer.revision.epoch = tenant.head, tenant.epoch
        transfers[0].start.intent = sync_pb2.TRANSFER_INTENT_FULL if full else sync_pb2.TRANSFER_INTENT_DELTA
        for index, (name, b) in enumerate(made.items()):
            text = state[name.rsplit("/", 1)[1]][0]
            if tenant.refused.get(name) == b.etag and first and not full and known.get(name) != b.etag:
                transfers[0].withheld[name] = b.etag
            elif known.get(name) != b.etag:
                transfers[index % parts].bundles.append(b)
                if f"hash of {text}" not in self.contents:
                    transfers[(index + 1) % parts].contents.append(content(text))
                    self.contents.add(f"hash of {text}")
        transfers[-1].removed.extend(name for name in known if name not in made)
        transfers[-1].synced.digest = bundles_digest(etags)
        transfers[-1].synced.bundle_count = len(etags)
        self.known[tenant_id] = etags
        for transfer in transfers:
            self.put(Message(transfer=transfer))

    def remove(self, tenant_id: str) -> None:
        """Take a tenant off the stream."""
        transfer = sync_pb2.ConfigTransfer(tenant_id=tenant_id, tenant_removed=True)
        transfer.start.intent = sync_pb2.TRANSFER_INTENT_DELTA
        transfer.synced.digest = bundles_digest({})
        self.known.pop(tenant_id, None)
        self.put(Message(transfer=transfer))


class World(RuleBasedStateMachine):
    """One server, one node."""

    @initialize()
    def start(self) -> None:
        """Nothing is there yet."""
        self.tenants: dict[str, Tenant] = {}
        self.ever: dict[str, list[Tenant]] = {tenant: [] for tenant in TENANTS}
        self.streams = self.epochs = 0
        self.now = 0.0
        self.disk: dict[str, Snapshot] = {}
        self.floor: dict[str, tuple[str, int]] = {}
        self.protocol = self.boot()
        self.connection: Connection | None = None

    def boot(self) -> WatchProtocol:
        """A node from its disk."""
        return WatchProtocol(node=NODE, jitter=lambda: 0.5, now=self.now, snapshots=self.disk.values())

    @rule(
        tenant=st.sampled_from(TENANTS), agent=st.sampled_from(AGENTS), text=st.sampled_from(["x", "y", None])
    )
    def write(self, tenant: str, agent: str, text: str | None) -> None:
        """A commit."""
        if tenant not in self.tenants:
            self.tenants[tenant] = self.epoch()
            self.ever[tenant].append(self.tenants[tenant])
        self.tenants[tenant].write(agent, text)

    @rule(
        tenant=st.sampled_from(TENANTS),
        agent=st.sampled_from(AGENTS),
        text=st.sampled_from(["x", "y", "z"]),
        parts=st.integers(1, 3),
        spoil=st.sampled_from([None, None, "lose", "twice"]),
    )
    def change(self, tenant: str, agent: str, text: str, parts: int, spoil: str | None) -> None:
        """A commit that is sent and arrives, perhaps not as it was sent."""
        self.write(tenant, agent, text)
        self.look(tenant, parts)
        if self.connection is not None and self.connection.wire:
            self.deliver(parts, spoil)

    def epoch(self) -> Tenant:
        """A history of its own."""
        self.epochs += 1
        return Tenant(f"e{self.epochs}")

    @rule(tenant=st.sampled_from(TENANTS), agent=st.sampled_from(AGENTS))
    def refuse(self, tenant: str, agent: str) -> None:
        """The node has refused the present bundle of an agent, and the server knows it."""
        if tenant in self.tenants and agent in self.tenants[tenant].history[-1]:
            text, at = self.tenants[tenant].history[-1][agent]
            made = bundle(tenant, agent, text, at)
            self.tenants[tenant].refused[made.name] = made.etag

    @rule(tenant=st.sampled_from(TENANTS))
    def restore_a_backup(self, tenant: str) -> None:
        """The tenant begins anew from an older state, in a new epoch; streams end."""
        if tenant in self.tenants:
            old = self.tenants[tenant]
            self.tenants[tenant] = self.epoch()
            self.tenants[tenant].history = old.history[: max(len(old.history) // 2, 1)]
            self.ever[tenant].append(self.tenants[tenant])
            self.cut()

    @rule(tenant=st.sampled_from(TENANTS))
    def delete_tenant(self, tenant: str) -> None:
        """A tenant goes, and leaves the stream."""
        if self.tenants.pop(tenant, None) is not None and self.connection is not None:
            self.connection.remove(tenant)

    @precondition(lambda self: self.connection is None)
    @rule()
    def connect(self) -> None:
        """The node opens a stream; the server names what it has not of what was declared."""
        (subscribe,) = self.protocol.receive(Begin(self.now))
        assert isinstance(subscribe, Subscribe)
        self.streams += 1
        self.connection = Connection(self.streams, subscribe.request)
        for tenant in subscribe.request.start_revisions:
            if tenant not in self.tenants:
                self.connection.remove(tenant)

    @rule(tenant=st.sampled_from(TENANTS), parts=st.integers(1, 3))
    def look(self, tenant: str, parts: int) -> None:
        """The server sends what is new of a tenant."""
        if tenant in self.tenants and self.connection is not None:
            self.connection.look(tenant, self.tenants[tenant], parts)

    @precondition(lambda self: self.connection is not None)
    @rule()
    def beat(self) -> None:
        """A heartbeat, with bookmarks of tenants that are level."""
        assert self.connection is not None
        beat = Message()
        beat.heartbeat.interval.seconds = 10
        self.connection.put(beat)

    @precondition(lambda self: self.connection is not None)
    @rule(seconds=st.sampled_from([0, 1, 5]))
    def drain(self, seconds: int) -> None:
        """The server asks to move."""
        assert self.connection is not None
        asked = Message()
        asked.drain.reconnect_after.seconds = seconds
        self.connection.put(asked)
        self.connection.drained = True

    @precondition(lambda self: self.connection is not None and self.connection.wire)
    @rule(count=st.integers(1, 4), spoil=st.sampled_from([None, None, None, "lose", "twice"]))
    def deliver(self, count: int, spoil: str | None) -> None:
        """Some messages arrive; perhaps one is lost, or comes twice, which only a broken server does."""
        for _ in range(count):
            if self.connection is None or not self.connection.wire:
                return
            message = self.connection.wire.pop(0)
            if spoil == "lose":
                spoil = None
                self.connection.lossy = True
                continue
            for _ in range(2 if spoil == "twice" else 1):
                self.carry_out(self.protocol.receive(Received(message, self.now)))

    @rule(seconds=st.sampled_from([0.5, 3.0, 30.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.carry_out(self.protocol.receive(Tick(self.now)))

    @rule(really=st.sampled_from([True, False, False]))
    def cut_now(self, really: bool) -> None:
        """The stream breaks, with what is on the wire."""
        if really:
            self.cut()

    def cut(self) -> None:
        """The stream breaks."""
        if self.connection is not None:
            self.end("cut")

    @rule(really=st.sampled_from([True, False, False]))
    def restart(self, really: bool) -> None:
        """The node dies, and starts from its disk."""
        if not really:
            return
        self.protocol = self.boot()
        self.connection = None
        self.floor = {t: (s.revision.epoch, s.revision.number) for t, s in self.disk.items()}

    def end(self, reason: str) -> None:
        """The stream is over."""
        actions = self.protocol.receive(Ended(reason, self.now))
        assert all(isinstance(action, BackOff) and action.seconds <= 60 for action in actions)
        self.connection = None

    def carry_out(self, actions: list[Action]) -> None:
        """What the shell does."""
        for action in actions:
            match action:
                case Persist(snapshot):
                    self.disk[snapshot.tenant_id] = snapshot
                case Forget(tenant_id):
                    self.disk.pop(tenant_id, None)
                    self.floor.pop(tenant_id, None)
                case Close(reason):
                    self.end(reason)
                case _:
                    pass

    @invariant()
    def whole_and_not_older(self) -> None:
        """What is held, and what is on disk, is one state of one epoch, but for what is withheld."""
        if not hasattr(self, "protocol"):
            return
        for tenant_id, snapshot in (*self.protocol.snapshots.items(), *self.disk.items()):
            self.check(TenantId(tenant_id), snapshot)
        for tenant_id, snapshot in self.protocol.snapshots.items():
            epoch, number = self.floor.get(tenant_id, ("", 0))
            if epoch == snapshot.revision.epoch:
                assert snapshot.revision.number >= number
            self.floor[tenant_id] = (snapshot.revision.epoch, snapshot.revision.number)

    def check(self, tenant_id: TenantId, snapshot: Snapshot) -> None:
        """One snapshot against all that the server ever had."""
        (history,) = [t for t in self.ever[tenant_id] if t.epoch == snapshot.revision.epoch]
        state = history.history[snapshot.revision.number]
        names = {agent_name(tenant_id, agent): text for agent, (text, _) in state.items()}
        held = {agent_name(tenant_id, agent): text for agent, text in texts_of(snapshot).items()}
        withheld = {name for tenant in self.ever[tenant_id] for name in tenant.refused}
        assert {n: t for n, t in held.items() if n not in withheld} == {
            n: t for n, t in names.items() if n not in withheld
        }
        assert set(held) <= set(names)

    def settle(self) -> None:
        """Server and node alone, as long as it takes. A stream that lost a message ends at its greatest
        age at the latest: no digest of the other tenants tells of a removal that was lost."""
        for _ in range(6):
            if self.connection is not None and (self.connection.drained or self.connection.lossy):
                self.end("moved")
            if self.connection is None:
                self.now += 60
                self.connect()
            for tenant in self.tenants:
                self.look(tenant, 1)
            while self.connection is not None and self.connection.wire:
                self.deliver(1, None)

    def teardown(self) -> None:
        """Left alone with the server, the node gets what the server has, and is not stale."""
        if not hasattr(self, "protocol"):
            return
        self.settle()
        self.whole_and_not_older()
        assert set(self.protocol.snapshots) == set(self.tenants) == set(self.disk)
        for tenant_id, tenant in self.tenants.items():
            revision = self.protocol.snapshots[TenantId(tenant_id)].revision
            assert (revision.epoch, revision.number) == (tenant.epoch, tenant.head)
        if self.tenants:
            assert self.protocol.stale(self.now) is None


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
