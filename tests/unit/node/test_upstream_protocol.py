"""The node's end of the watch, against a small model of the server."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent_node.upstream import Snapshot, WatchProtocol
from agent_node.upstream.events import (
    Ack,
    Action,
    Apply,
    BackOff,
    Begin,
    Close,
    Ended,
    Opened,
    Persist,
    Received,
    Subscribe,
    Tick,
)
from agent_node.upstream.protocol import SPARE_CONTENTS_MAX
from agent_node.upstream.waits import BACK_OFF_SECONDS_MAX
from tests.unit.node.samples import bundle, content
from voxplane.digest import bundles_digest
from voxplane.names import TenantId
from voxplane.v1 import bundle_pb2, revision_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

NODE = sync_pb2.NodeInfo(node_id="n1")
NOW = 1000.0
FULL, DELTA = sync_pb2.TRANSFER_INTENT_FULL, sync_pb2.TRANSFER_INTENT_DELTA
NONE = sync_pb2.TRANSFER_INTENT_NONE

State = dict[str, str]
"""Content text by agent id."""


@dataclass
class Server:
    """Every revision of one tenant, as a list of whole states."""

    tenant: str = "acme"
    epoch: str = "e1"
    history: list[State] = field(default_factory=lambda: [{}])

    @property
    def head(self) -> int:
        """Number of the newest revision."""
        return len(self.history) - 1

    def bundles(self, number: int) -> dict[str, bundle_pb2.AgentBundle]:
        """The bundles at a revision, by name."""
        made = [bundle(self.tenant, a, t, number) for a, t in self.history[number].items()]
        return {b.name: b for b in made}

    def transfer(
        self,
        number: int,
        known: dict[str, str],
        contents: set[str],
        *,
        full: bool,
        parts: int = 1,
        from_revision: int = 0,
    ) -> list[sync_pb2.ConfigTransfer]:
        """A transfer to a revision, for a client that has `known` and `contents`."""
        bundles = self.bundles(number)
        changed = [b for name, b in bundles.items() if full or known.get(name) != b.etag]
        removed = [] if full else [name for name in known if name not in bundles]
        texts = {t for t in self.history[number].values() if f"hash of {t}" not in contents}
        items = [("contents", content(t)) for t in sorted(texts)]
        items += [("bundles", b) for b in changed]
        made = [
            sync_pb2.ConfigTransfer(
                tenant_id=self.tenant,
                revision=revision_pb2.Revision(number=number, epoch=self.epoch),
            )
            for _ in range(parts)
        ]
        for index, (kind, item) in enumerate(items):
            getattr(made[index % parts], kind).append(item)
        made[0].start.intent = FULL if full else DELTA
        made[0].start.from_revision = from_revision
        made[-1].removed.extend(removed)
        made[-1].synced.digest = bundles_digest({name: b.etag for name, b in bundles.items()})
        made[-1].synced.bundle_count = len(bundles)
        return made


def texts_of(snapshot: Snapshot) -> State:
    """Agent ids to the text that their version has."""

    def content_of(bundle: bundle_pb2.AgentBundle) -> bundle_pb2.VersionContent:
        return snapshot.contents[bundle.versions[0].content_hash]

    return {
        name.rsplit("/", 1)[1]: snapshot.contents[
            b.versions[0].content_hash
        ].config.prompt_config.instructions
        for name, b in snapshot.bundles.items()
    }


def message(transfer: sync_pb2.ConfigTransfer, nonce: int = 1) -> sync_pb2.WatchConfigResponse:
    """A transfer as a message of stream s1."""
    return sync_pb2.WatchConfigResponse(transfer=transfer, stream_id="s1", nonce=str(nonce))


def begun(**options: object) -> WatchProtocol:
    """A protocol that has subscribed, with the longest jitter."""
    protocol = WatchProtocol(node=NODE, jitter=lambda: 1.0, now=0.0, **options)  # type: ignore[arg-type]
    protocol.receive(Begin(0.0))
    return protocol


def kinds(actions: list[Action]) -> list[type]:
    """The types of the actions."""
    return [type(action) for action in actions]


class Interleavings(RuleBasedStateMachine):
    """Commits, transfers in parts, cuts, duplicates and late messages in any
    order: what the client has is always one of the server's states, and its
    revision never goes back."""

    @initialize(tenant=st.sampled_from(["acme", "-"]))
    def start(self, tenant: str) -> None:
        """A server and a client that has nothing."""
        self.server = Server()
        self.protocol = WatchProtocol(node=NODE, jitter=lambda: 0.5, now=0.0, tenant_id=tenant)
        self.now = 0.0
        self.wire: list[sync_pb2.ConfigTransfer] = []
        self.sent: list[sync_pb2.ConfigTransfer] = []
        self.known: dict[str, str] = {}
        self.contents: set[str] = set()
        self.level = 0
        self.nonce = 0
        self.floor = 0
        self.subscribed = False

    @rule(agent=st.sampled_from("abc"), text=st.sampled_from("xyz"))
    def put(self, agent: str, text: str) -> None:
        """A commit that writes an agent."""
        self.server.history.append({**self.server.history[-1], agent: text})

    @rule(agent=st.sampled_from("abc"))
    def delete(self, agent: str) -> None:
        """A commit that removes an agent."""
        self.server.history.append({a: t for a, t in self.server.history[-1].items() if a != agent})

    @precondition(lambda self: not self.subscribed)
    @rule()
    def connect(self) -> None:
        """The client opens a stream, and the server believes what it declares."""
        (action,) = self.protocol.receive(Begin(self.now))
        assert isinstance(action, Subscribe)
        request = action.request
        self.subscribed = True
        self.known = dict(request.known)
        self.contents = set(request.known_contents)
        self.level = request.start_revisions["acme"].number if "acme" in request.start_revisions else -1
        self.wire, self.sent, self.nonce = [], [], 0

    @precondition(lambda self: self.subscribed and not self.wire)
    @rule(parts=st.integers(1, 3))
    def send(self, parts: int) -> None:
        """The server puts a transfer on the wire, in parts."""
        full = self.level < 0 or not self.known
        self.wire = self.server.transfer(
            self.server.head,
            self.known,
            self.contents,
            full=full,
            parts=parts,
            from_revision=max(self.level, 0),
        )
        self.level = self.server.head
        self.known = {name: b.etag for name, b in self.server.bundles(self.level).items()}
        self.contents |= {f"hash of {t}" for t in self.server.history[self.level].values()}

    @precondition(lambda self: self.subscribed and self.wire)
    @rule()
    def deliver(self) -> None:
        """The next part arrives; what a server sends in order is never refused."""
        transfer = self.wire.pop(0)
        self.sent.append(transfer)
        self.take(transfer)
        assert self.subscribed

    @precondition(lambda self: self.subscribed and not self.wire)
    @rule(data=st.data())
    def duplicate(self, data: st.DataObject) -> None:
        """A whole message of before comes again."""
        whole = [t for t in self.sent if t.HasField("start") and t.HasField("synced")]
        if whole:
            self.take(data.draw(st.sampled_from(whole)))

    @precondition(lambda self: self.subscribed)
    @rule()
    def cut(self) -> None:
        """The stream breaks; what was under way is lost, and means nothing if it comes."""
        self.now += 1
        assert kinds(self.protocol.receive(Ended("cut", self.now))) == [BackOff]
        self.subscribed = False
        late = self.wire[0] if self.wire else None
        if late is not None:
            assert self.protocol.receive(Received(message(late), self.now)) == []

    def take(self, transfer: sync_pb2.ConfigTransfer) -> None:
        """The client takes a message."""
        self.nonce += 1
        actions = self.protocol.receive(Received(message(transfer, self.nonce), self.now))
        if Close in kinds(actions):
            self.protocol.receive(Ended("closed", self.now))
            self.subscribed = False
        elif transfer.HasField("synced"):
            assert isinstance(actions[-1], Ack)

    @invariant()
    def never_torn(self) -> None:
        """What the client has is exactly one state of the server, no older than before."""
        snapshot = self.protocol.snapshots.get(TenantId("acme")) if hasattr(self, "protocol") else None
        if snapshot is not None:
            assert texts_of(snapshot) == self.server.history[snapshot.revision.number]
            assert snapshot.revision.number >= self.floor
            self.floor = snapshot.revision.number

    def teardown(self) -> None:
        """Left alone with the server, the client gets what the server has."""
        if not hasattr(self, "protocol"):
            return
        for _ in range(4):
            if not self.subscribed:
                self.connect()
            while self.subscribed and self.wire:
                self.deliver()
            if self.subscribed:
                self.send(1)
        while self.subscribed and self.wire:
            self.deliver()
        self.never_torn()
        assert self.floor == self.server.head


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_first_subscription_declares_nothing() -> None:
    """A node without a cache asks for all tenants and declares nothing."""
    protocol = WatchProtocol(node=NODE, jitter=lambda: 1.0, now=0.0)
    (action,) = protocol.receive(Begin(0.0))
    assert isinstance(action, Subscribe)
    assert action.request == sync_pb2.WatchConfigRequest(tenant_id="-", node=NODE)


def test_a_transfer_is_applied_persisted_and_acknowledged() -> None:
    """A whole transfer is applied, then persisted, then acknowledged."""
    server = Server(history=[{}, {"a": "x"}])
    protocol = begun()
    (transfer,) = server.transfer(1, {}, set(), full=True)
    actions = protocol.receive(Received(message(transfer), 1.0))
    assert kinds(actions) == [Opened, Apply, Persist, Ack]
    assert actions[-1] == Ack("1", TenantId("acme"), 1)
    assert protocol.stale(NOW) is None


def test_parts_take_effect_together() -> None:
    """The parts of a transfer change nothing until the last has come; a cut drops them."""
    server = Server(history=[{}, {"a": "x", "b": "y", "c": "z"}])
    parts = server.transfer(1, {}, set(), full=True, parts=3)
    protocol = begun()
    for number, part in enumerate(parts[:2], 1):
        assert Apply not in kinds(protocol.receive(Received(message(part, number), 1.0)))
        assert not protocol.snapshots
    actions = protocol.receive(Received(message(parts[2], 3), 1.0))
    assert kinds(actions) == [Apply, Persist, Ack]
    assert actions[-1] == Ack("3", TenantId("acme"), 1)

    cut = begun()
    first, second = server.transfer(1, {}, set(), full=True, parts=2)
    second.contents.extend(first.contents)
    cut.receive(Received(message(first), 1.0))
    cut.receive(Ended("cut", 2.0))
    cut.receive(Begin(3.0))
    assert kinds(cut.receive(Received(message(second), 4.0)))[-1] is Close
    assert not cut.snapshots


def test_resume_declares_all_that_is_here() -> None:
    """After a cut the node declares revisions, etags and contents."""
    server = Server(history=[{}, {"a": "x"}])
    protocol = begun()
    (transfer,) = server.transfer(1, {}, set(), full=True)
    protocol.receive(Received(message(transfer), 1.0))
    protocol.receive(Ended("cut", 2.0))
    (action,) = protocol.receive(Begin(3.0))
    assert isinstance(action, Subscribe)
    assert action.request.start_revisions["acme"].number == 1
    assert dict(action.request.known) == {name: b.etag for name, b in server.bundles(1).items()}
    assert list(action.request.known_contents) == ["hash of x"]


@pytest.mark.parametrize("fault", ["digest", "count", "content", "foreign", "headless"])
def test_a_torn_transfer_is_refused_and_asked_for_in_full(fault: str) -> None:
    """What does not fit its marker is not applied; the next stream declares the tenant's revision alone."""
    server = Server(history=[{}, {"a": "x"}, {"a": "x", "b": "y"}])
    protocol = begun()
    (first,) = server.transfer(1, {}, set(), full=True)
    protocol.receive(Received(message(first), 1.0))
    known = {name: b.etag for name, b in server.bundles(1).items()}
    (second,) = server.transfer(2, known, {"hash of x"}, full=False, from_revision=1)
    match fault:
        case "digest":
            second.synced.digest = "0" * 64
        case "count":
            second.synced.bundle_count = 7
        case "content":
            del second.contents[:]
        case "foreign":
            second.bundles[0].name = "tenants/other/agents/b"
        case _:
            second.ClearField("start")
    actions = protocol.receive(Received(message(second, 2), 2.0))
    assert kinds(actions) == [Close]
    assert texts_of(protocol.snapshots[TenantId("acme")]) == {"a": "x"}
    assert protocol.stale(NOW) is not None
    protocol.receive(Ended("closed", 2.0))
    (action,) = protocol.receive(Begin(3.0))
    assert isinstance(action, Subscribe)
    assert list(action.request.start_revisions) == ["acme"]
    assert not action.request.known
    assert not action.request.known_contents
    (again,) = server.transfer(2, {}, set(), full=True)
    assert Apply in kinds(protocol.receive(Received(message(again), 4.0)))
    assert protocol.stale(NOW) is None


def test_an_older_full_transfer_is_not_taken() -> None:
    """A server that lags cannot bring the node back."""
    server = Server(history=[{}, {"a": "x"}, {"a": "y"}])
    protocol = begun()
    (new,) = server.transfer(2, {}, set(), full=True)
    (old,) = server.transfer(1, {}, set(), full=True)
    protocol.receive(Received(message(new), 1.0))
    assert kinds(protocol.receive(Received(message(old, 2), 2.0))) == [Close]
    assert texts_of(protocol.snapshots[TenantId("acme")]) == {"a": "y"}


def test_another_epoch_starts_over() -> None:
    """A full transfer of another epoch is taken, whatever its number."""
    protocol = begun()
    before = Server(history=[{}, {"a": "x"}, {"a": "y"}])
    after = Server(epoch="e2", history=[{}, {"b": "z"}])
    (old,) = before.transfer(2, {}, set(), full=True)
    (new,) = after.transfer(1, {}, set(), full=True)
    protocol.receive(Received(message(old), 1.0))
    protocol.receive(Received(message(new, 2), 2.0))
    assert texts_of(protocol.snapshots[TenantId("acme")]) == {"b": "z"}


def test_tenants_share_contents_that_travelled_once() -> None:
    """A content that came with one tenant serves a bundle of another."""
    protocol = begun()
    (one,) = Server(history=[{}, {"a": "x"}]).transfer(1, {}, set(), full=True)
    (two,) = Server("beta", history=[{}, {"a": "x"}]).transfer(1, {}, {"hash of x"}, full=True)
    protocol.receive(Received(message(one), 1.0))
    protocol.receive(Received(message(two, 2), 1.0))
    assert texts_of(protocol.snapshots[TenantId("beta")]) == {"a": "x"}


def test_a_rollback_needs_no_content_again() -> None:
    """Contents that no bundle names any more are kept while the stream lives, within a bound."""
    texts = [f"text {n}" for n in range(SPARE_CONTENTS_MAX // 100)]
    server = Server(history=[{}, *({"a": text} for text in texts), {"a": texts[0]}])
    protocol = begun()
    known: dict[str, str] = {}
    contents: set[str] = set()
    for number in range(1, server.head + 1):
        (part,) = server.transfer(number, known, contents, full=number == 1)
        assert Ack in kinds(protocol.receive(Received(message(part, number), 1.0)))
        known = {name: b.etag for name, b in server.bundles(number).items()}
        contents |= {f"hash of {t}" for t in server.history[number].values()}
    assert texts_of(protocol.snapshots[TenantId("acme")]) == {"a": "text 0"}


def heartbeat(seconds: int, **revisions: int) -> sync_pb2.WatchConfigResponse:
    """A heartbeat with revisions of epoch e1."""
    beat = sync_pb2.WatchConfigResponse(stream_id="s1", nonce="9")
    beat.heartbeat.interval.FromSeconds(seconds)
    for tenant, number in revisions.items():
        beat.heartbeat.revisions[tenant].number = number
        beat.heartbeat.revisions[tenant].epoch = "e1"
    return beat


def test_silence_of_two_intervals_ends_the_stream() -> None:
    """The server's interval counts; after twice of it in silence the node is stale."""
    protocol = begun()
    protocol.receive(Received(heartbeat(10), 5.0))
    assert protocol.stale(NOW) is None
    assert protocol.silence_ends == 25.0
    assert protocol.receive(Tick(24.9)) == []
    assert kinds(protocol.receive(Tick(25.0))) == [Close]
    stale = protocol.stale(NOW)
    assert stale is not None
    assert stale.since == 5.0
    assert "20 s" in stale.reason


def test_a_bookmark_moves_the_revision() -> None:
    """A heartbeat's revision is what the next stream starts from, and is acknowledged."""
    protocol = begun()
    (part,) = Server(history=[{}, {"a": "x"}]).transfer(1, {}, set(), full=True)
    protocol.receive(Received(message(part), 1.0))
    actions = protocol.receive(Received(heartbeat(10, acme=8, other=3), 2.0))
    assert kinds(actions) == [Persist, Ack]
    assert protocol.snapshots[TenantId("acme")].revision.number == 8
    assert list(protocol.snapshots) == ["acme"]


@given(failures=st.integers(0, 40), jitter=st.floats(0, 1))
def test_back_off_has_full_jitter_and_a_bound(failures: int, jitter: float) -> None:
    """Each wait is a share of a bound that doubles up to the longest."""
    protocol = WatchProtocol(node=NODE, jitter=lambda: jitter, now=0.0)
    wait = BackOff(0.0)
    for _ in range(failures + 1):
        protocol.receive(Begin(0.0))
        (action,) = protocol.receive(Ended("down", 0.0))
        assert isinstance(action, BackOff)
        wait = action
    assert wait.seconds == pytest.approx(jitter * min(BACK_OFF_SECONDS_MAX, 0.25 * 2**failures))


def test_back_off_starts_over_only_when_in_step() -> None:
    """A stream that opens and brings nothing does not reset the wait; a transfer does."""
    protocol = begun()
    waits: list[float] = []
    for _ in range(3):
        (action,) = protocol.receive(Ended("down", 1.0))
        assert isinstance(action, BackOff)
        waits.append(action.seconds)
        protocol.receive(Begin(2.0))
    (part,) = Server(history=[{}, {"a": "x"}]).transfer(1, {}, set(), full=True)
    protocol.receive(Received(message(part), 3.0))
    (action,) = protocol.receive(Ended("down", 4.0))
    assert waits == [0.25, 0.5, 1.0]
    assert action == BackOff(0.25)


def test_retry_after_is_added_to_the_wait() -> None:
    """What the server asks for is waited, and jitter on top."""
    protocol = begun()
    assert protocol.receive(Ended("busy", 1.0, retry_after=3.0)) == [BackOff(3.25)]


def test_a_tenant_of_the_future_is_declared_no_more() -> None:
    """When the server refuses a declared revision, the next stream does without it, and waits grow."""
    protocol = begun()
    (part,) = Server(history=[{}, {"a": "x"}]).transfer(1, {}, set(), full=True)
    protocol.receive(Received(message(part), 1.0))
    protocol.receive(Ended("in the future", 2.0, refused=TenantId("acme")))
    (action,) = protocol.receive(Begin(3.0))
    assert isinstance(action, Subscribe)
    assert not action.request.known
    assert not action.request.start_revisions
    protocol.receive(Received(heartbeat(10), 4.0))
    assert protocol.receive(Ended("down", 5.0)) == [BackOff(0.5)]


def test_one_tenant_is_narrow() -> None:
    """A node of one tenant neither declares nor takes another's bundles."""
    (part,) = Server("beta", history=[{}, {"a": "x"}]).transfer(1, {}, set(), full=True)
    wide = begun()
    wide.receive(Received(message(part), 1.0))
    narrow = begun(tenant_id="acme", snapshots=wide.snapshots.values())
    assert not narrow.snapshots
    assert kinds(narrow.receive(Received(message(part), 1.0)))[-1] is Close
    assert not narrow.snapshots


def test_nothing_has_changed() -> None:
    """A NONE transfer is acknowledged and changes nothing."""
    protocol = begun()
    (part,) = Server(history=[{}, {"a": "x"}]).transfer(1, {}, set(), full=True)
    protocol.receive(Received(message(part), 1.0))
    none = sync_pb2.ConfigTransfer(tenant_id="acme", revision=part.revision, synced=part.synced)
    none.start.intent = NONE
    actions = protocol.receive(Received(message(none, 2), 2.0))
    assert kinds(actions) == [Apply, Ack]
    assert isinstance(actions[0], Apply)
    assert actions[0].changed == ()
