"""Rights, labels, refusals, floors and epochs together, against a model of a
node that believes what the contract says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from control_plane.fleet import Fleet
from control_plane.state import BundleRecord, TenantState
from control_plane.watch import EVERY_AGENT, NOTHING, Permit
from control_plane.watch.encoder import Encoder
from control_plane.watch.planner import Planner
from control_plane.watch.rights import EVERY_AGENT as ALL
from control_plane.watch.stream import (
    NOT_REFUSED,
    Close,
    Dropped,
    HeartbeatDue,
    Moved,
    Opened,
    Send,
    SendHeartbeat,
    StateChanged,
    StreamRules,
    StreamState,
)
from control_plane.watch.subscription import read_subscription
from tests.unit.watch.tenant_log import TenantLog
from tests.virtual_clock import VirtualClock
from voxplane.digest import bundles_digest
from voxplane.errors import VoxplaneError
from voxplane.names import TenantId, agent_name
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1 import revision_pb2

TENANTS = ("acme", "globex")
AGENTS = ("a", "b", "c")
TEXTS = ("one", "two", "three")
GOLD = {"tier": "gold"}
SPARE = 300
"""Contents of no bundle that a node declares: more than a stream remembers."""

tenants = st.sampled_from(TENANTS)
agents = st.sampled_from(AGENTS)
nodes = st.integers(0, 2)


@dataclass
class Holding:
    """What a node has of a tenant: by name, the etag and the contents of each
    bundle, and those that are withheld."""

    revision: revision_pb2.Revision = field(default_factory=revision_pb2.Revision)
    bundles: dict[str, tuple[str, frozenset[str]]] = field(
        default_factory=dict[str, tuple[str, frozenset[str]]]
    )
    withheld: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def etags(self) -> dict[str, str]:
        """What the digest counts."""
        return {name: etag for name, (etag, _) in self.bundles.items()} | self.withheld


class Node:
    """Keeps holdings across streams; refuses bundles by keeping what it had."""

    def __init__(self, node_id: str, tenant_id: str, labels: dict[str, str], *, spare: bool) -> None:
        self.node_id, self.tenant_id, self.labels = node_id, tenant_id, labels
        self.spare = [f"{number:064}" for number in range(SPARE)] if spare else []
        self.holdings: dict[str, Holding] = {}
        self.contents: set[str] = set()
        self.acked = 0
        self.parts: list[sync_pb2.ConfigTransfer] = []
        self.last: dict[str, dict[str, tuple[str, frozenset[str]]]] = {}

    def request(self) -> sync_pb2.WatchConfigRequest:
        """What it has is declared; contents of no bundle are dropped."""
        self.parts, self.acked = [], 0
        self.contents = {
            content
            for holding in self.holdings.values()
            for _, contents in holding.bundles.values()
            for content in contents
        }
        request = sync_pb2.WatchConfigRequest(tenant_id=self.tenant_id, agent_labels=self.labels)
        request.node.node_id = self.node_id
        request.known_contents.extend([*sorted(self.contents), *self.spare])
        for tenant, holding in self.holdings.items():
            holding.withheld = {}
            request.start_revisions[tenant].CopyFrom(holding.revision)
            request.known.update({name: etag for name, (etag, _) in holding.bundles.items()})
        return request

    def receive(self, message: sync_pb2.WatchConfigResponse) -> None:
        """Take one message; AssertionError if it breaks the contract."""
        for tenant, revision in message.heartbeat.revisions.items():
            assert revision.number > self.holdings[tenant].revision.number
            self.holdings[tenant].revision = revision
            self.acked = int(message.nonce)
        if not message.HasField("transfer"):
            return
        self.parts.append(message.transfer)
        if not message.transfer.HasField("synced"):
            return
        whole = sync_pb2.ConfigTransfer()
        for part in self.parts:
            whole.MergeFrom(part)
        self.parts = []
        self.acked = int(message.nonce)
        self._apply(whole)

    def _apply(self, whole: sync_pb2.ConfigTransfer) -> None:
        tenant = whole.tenant_id
        if whole.tenant_removed:
            assert set(whole.removed) >= set(self.holdings.get(tenant, Holding()).bundles)
            self.holdings.pop(tenant, None)
            return
        holding = self.holdings.setdefault(tenant, Holding())
        self.last[tenant] = dict(holding.bundles)
        if whole.start.intent == sync_pb2.TRANSFER_INTENT_FULL:
            holding.bundles, holding.withheld = {}, {}
        else:
            assert whole.start.from_revision == holding.revision.number
        holding.withheld.update(whole.withheld)
        self.contents.update(content.content_hash for content in whole.contents)
        for name in whole.removed:
            holding.bundles.pop(name, None)
            holding.withheld.pop(name, None)
        for bundle in whole.bundles:
            needs = frozenset(version.content_hash for version in bundle.versions)
            assert needs <= self.contents, "the contents of a bundle are there with it"
            assert self.labels.items() <= dict(bundle.labels).items()
            holding.bundles[bundle.name] = (bundle.etag, needs)
            holding.withheld.pop(bundle.name, None)
        holding.revision = whole.revision
        assert whole.synced.digest == bundles_digest(holding.etags), "the digest proves the transfer"
        assert whole.synced.bundle_count == len(holding.etags)


class Server:
    """A node's stream on a server, wired to a fleet as `serving` does it."""

    def __init__(self, machine: Machine, node: Node) -> None:
        self._machine, self.node = machine, node
        machine.serial += 1
        self.stream_id = f"s{machine.serial}"
        request = node.request()
        machine.fleet.open(self.stream_id, request)
        rules = StreamRules(machine.planner, lambda: 0.5, machine.admit)
        self.state = StreamState(rules, read_subscription(request, node.node_id))
        self.state.receive(Opened(0.0))
        self.error: VoxplaneError | None = None
        self.sent: list[bytes] = []
        self.dirty: set[str] = set(TENANTS) if node.tenant_id == "-" else {node.tenant_id}

    def look(self, tenant: str) -> None:
        """See a tenant's newest state."""
        self.dirty.discard(tenant)
        machine, tenant_id = self._machine, TenantId(tenant)
        refused = NOT_REFUSED
        if tenant_id in self.state.declared:
            refused = machine.fleet.refused(self.node.node_id, tenant_id)
        permit = machine.permits.get((self.node.node_id, tenant), ALL)
        self._do(StateChanged(machine.logs[tenant].state, permit, refused))

    def beat(self) -> None:
        """A heartbeat is due."""
        self._do(HeartbeatDue(0.0))

    def _do(self, event: StateChanged | HeartbeatDue) -> None:
        fleet, encoder = self._machine.fleet, self._machine.encoder
        for action in self.state.receive(event):
            match action:
                case Moved(tenant_id, level, removed, nonce):
                    fleet.sent(self.stream_id, tenant_id, level, removed, nonce)
                case Dropped(tenant_id):
                    fleet.removed(self.stream_id, tenant_id)
                case Send(part, nonce):
                    self._send(encoder.part(part), nonce)
                case SendHeartbeat(seconds, revisions, nonce):
                    self._send(encoder.heartbeat(seconds, revisions), nonce)
                case Close(error):
                    self.error = error
                case _:
                    pass

    def _send(self, data: bytes, nonce: int) -> None:
        tail = sync_pb2.WatchConfigResponse(stream_id=self.stream_id, nonce=str(nonce))
        self.sent.append(data + tail.SerializeToString())

    def deliver(self, count: int) -> None:
        """So many messages arrive."""
        for data in self.sent[:count]:
            self.node.receive(sync_pb2.WatchConfigResponse.FromString(data))
        del self.sent[:count]


class Machine(RuleBasedStateMachine):
    """Writers, rights and nodes in any interleaving."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = {tenant: TenantLog(tenant) for tenant in TENANTS}
        self.history: dict[str, list[TenantState]] = {tenant: [] for tenant in TENANTS}
        self.permits: dict[tuple[str, str], Permit] = {}
        self.fleet = Fleet(VirtualClock())
        self.encoder = Encoder(0)
        self.serial = self.epoch = 0
        self.admitting = True
        self.servers: list[Server] = []

    def admit(self, size: int) -> float:
        """Whether a full transfer is let in."""
        return 0.0 if self.admitting else 1.0

    @initialize(
        part=st.sampled_from((60, 500, 10**9)),
        spare=st.booleans(),
        asked=st.tuples(*[st.tuples(st.sampled_from(("acme", "-")), st.booleans())] * 3),
    )
    def begin(self, part: int, spare: bool, asked: tuple[tuple[str, bool], ...]) -> None:
        """Three nodes, of one tenant or all, some by label."""
        self.part, self.planner = part, Planner(part)
        for number, (tenant, labelled) in enumerate(asked):
            node = Node(f"n{number}", tenant, GOLD if labelled else {}, spare=spare)
            self.servers.append(Server(self, node))

    @rule(tenant=tenants, agent=agents, text=st.sampled_from(TEXTS))
    def publish(self, tenant: str, agent: str, text: str) -> None:
        """A new version goes live."""
        self.logs[tenant].publish(agent, text)
        self._changed(tenant)

    @rule(tenant=tenants, which=st.integers(0, 2), number=st.integers(1, 3))
    def point(self, tenant: str, which: int, number: int) -> None:
        """An alias moves."""
        log = self.logs[tenant]
        if which < len(log.live) and log.has(log.live[which], number):
            log.point(log.live[which], number)
            self._changed(tenant)

    @rule(tenant=tenants, which=st.integers(0, 2), gold=st.booleans(), mark=st.sampled_from(("", "x")))
    def label(self, tenant: str, which: int, gold: bool, mark: str) -> None:
        """An agent gets or loses the label."""
        log = self.logs[tenant]
        if which < len(log.live):
            log.label(log.live[which], tier="gold" if gold else "iron", mark=mark)
            self._changed(tenant)

    @rule(tenant=tenants, which=st.integers(0, 2))
    def delete(self, tenant: str, which: int) -> None:
        """An agent goes."""
        log = self.logs[tenant]
        if which < len(log.live):
            log.delete(log.live[which])
            self._changed(tenant)

    @rule(tenant=tenants)
    def compact(self, tenant: str) -> None:
        """History is trimmed."""
        log = self.logs[tenant]
        if log.state.revision:
            log.compact(log.state.revision)

    @rule(node=nodes, tenant=tenants, may=st.none() | st.frozensets(agents))
    def permit(self, node: int, tenant: str, may: frozenset[str] | None) -> None:
        """A right changes."""
        names = None if may is None else frozenset(agent_name(tenant, agent) for agent in may)
        made = EVERY_AGENT if names is None else Permit(agents=names) if names else NOTHING
        self.permits[f"n{node}", tenant] = made
        server = self.servers[node]
        server.dirty |= set(TENANTS) if server.node.tenant_id == "-" else {server.node.tenant_id}

    @rule(node=nodes)
    def all_of_one(self, node: int) -> None:
        """A node gets all that there is for it."""
        self._drain(self.servers[node])

    @rule(node=nodes, first=st.booleans())
    def look(self, node: int, first: bool) -> None:
        """A stream can send."""
        server = self.servers[node]
        if server.dirty:
            server.look(min(server.dirty) if first else max(server.dirty))

    @rule(node=nodes, count=st.integers(1, 6))
    def deliver(self, node: int, count: int) -> None:
        """Messages arrive."""
        self.servers[node].deliver(count)

    @rule(node=nodes)
    def beat(self, node: int) -> None:
        """A heartbeat is due."""
        self.servers[node].beat()

    @rule(node=nodes, tenant=tenants, agent=agents, text=st.sampled_from(TEXTS), keep=st.booleans())
    def refuse(self, node: int, tenant: str, agent: str, text: str, keep: bool) -> None:
        """A node refuses what a commit brings it; it may keep what it had
        before in its store, and come back with that."""
        server = self.servers[node]
        self._drain(server)
        self.publish(tenant, agent, text)
        self._drain(server)
        holding = server.node.holdings.get(tenant)
        name = agent_name(tenant, agent)
        if holding is None or name not in holding.bundles or server.error is not None:
            return
        report = sync_pb2.ReportConfigStatusRequest(stream_id=server.stream_id, nonce=str(server.node.acked))
        report.statuses.add(
            name=name,
            etag=holding.bundles[name][0],
            revision=holding.revision.number,
            phase=sync_pb2.CONFIG_PHASE_FAILED,
        )
        self.fleet.report(report)
        if keep:
            self._back(holding, name, server.node.last.get(tenant, {}))
            self._reconnect(node)

    @rule(node=nodes, lose=st.none() | agents)
    def reconnect(self, node: int, lose: str | None) -> None:
        """A stream breaks; the node may have lost a bundle."""
        for tenant, holding in self.servers[node].node.holdings.items():
            if lose is not None:
                holding.bundles.pop(agent_name(tenant, lose), None)
        self._reconnect(node)

    @rule(tenant=tenants, back=st.integers(0, 5), really=st.integers(0, 4))
    def restore(self, tenant: str, back: int, really: int) -> None:
        """A backup is restored: another epoch, and every stream is new."""
        if really:
            return
        self.epoch += 1
        for name, log in self.logs.items():
            state = (
                self.history[name][-1 - back]
                if name == tenant and back < len(self.history[name])
                else log.state
            )
            log.state = replace(state, epoch=f"restored-{self.epoch}")
            log._numbers = {  # pyright: ignore[reportPrivateUsage]
                agent: max(record.versions) for agent, record in log.state.agents.items()
            }
        self.planner, self.fleet = Planner(self.part), Fleet(VirtualClock())
        for node in range(len(self.servers)):
            self._reconnect(node)

    @rule(on=st.integers(0, 3))
    def admission(self, on: int) -> None:
        """Full transfers are let in, or not."""
        self.admitting = on > 0

    @rule()
    def catch_up(self) -> None:
        """When all has arrived, each node has what it may see, as the digest
        says, and the fleet knows it."""
        self.admitting = True
        for number, server in enumerate(self.servers):
            if server.error is not None:
                self._drain(server)
                server = self._reconnect(number)
            self._drain(server)
            self._check(server)

    def _check(self, server: Server) -> None:
        node = server.node
        for tenant in TENANTS if node.tenant_id == "-" else (node.tenant_id,):
            permit = self.permits.get((node.node_id, tenant), ALL)
            state = self.logs[tenant].state
            if not permit.tenant:
                assert tenant not in node.holdings
                if node.tenant_id != "-":
                    assert server.error is not None
                    assert server.error.reason == reason_pb2.ERROR_REASON_PERMISSION_LOST
                continue
            assert server.error is None
            wanted = {n: r.etag for n, r in state.bundles.items() if self._shows(node, permit, r)}
            holding = node.holdings[tenant]
            assert holding.etags == wanted
            assert (holding.revision.number, holding.revision.epoch) == (state.revision, state.epoch)
            assert all(contents <= node.contents for _, contents in holding.bundles.values())
            self.fleet.report(
                sync_pb2.ReportConfigStatusRequest(stream_id=server.stream_id, nonce=str(node.acked))
            )
            record = self.fleet.node(node.node_id).tenant(TenantId(tenant))
            assert record is not None
            assert record.acked is not None
            assert record.acked.number == state.revision

    def _shows(self, node: Node, permit: Permit, record: BundleRecord) -> bool:
        if permit.agents is not None and record.name not in permit.agents:
            return False
        return node.labels.items() <= dict(record.bundle.labels).items()

    def _drain(self, server: Server) -> None:
        for tenant in sorted(server.dirty):
            server.look(tenant)
        if server.error is None:
            server.beat()
        server.deliver(len(server.sent))

    def _reconnect(self, number: int) -> Server:
        server = self.servers[number]
        self.fleet.close(server.stream_id)
        self.servers[number] = Server(self, server.node)
        return self.servers[number]

    def _back(self, holding: Holding, name: str, before: dict[str, tuple[str, frozenset[str]]]) -> None:
        del holding.bundles[name]
        if name in before:
            holding.bundles[name] = before[name]

    def _changed(self, tenant: str) -> None:
        self.history[tenant].append(self.logs[tenant].state)
        for server in self.servers:
            if server.node.tenant_id in ("-", tenant):
                server.dirty.add(tenant)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
