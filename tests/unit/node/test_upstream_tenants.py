"""Tenants that go, tenants that are not named, and bundles that are withheld."""

from __future__ import annotations

from agent_node.upstream.events import Ack, Apply, Begin, Close, Ended, Forget, Received, Subscribe
from tests.unit.node.samples import bundle
from tests.unit.node.test_upstream_moves import in_step
from tests.unit.node.test_upstream_protocol import Server, begun, heartbeat, kinds, message, texts_of
from voxplane.digest import bundles_digest
from voxplane.names import TenantId, agent_name
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

ACME, BETA = TenantId("acme"), TenantId("beta")
A = agent_name("acme", "a")


def removal(tenant: str) -> sync_pb2.WatchConfigResponse:
    """The server takes a tenant off the stream."""
    last = sync_pb2.ConfigTransfer(tenant_id=tenant, tenant_removed=True)
    last.start.intent = sync_pb2.TRANSFER_INTENT_DELTA
    last.start.reason = "the tenant is deleted"
    last.synced.digest = bundles_digest({})
    return message(last, 7)


def test_a_removed_tenant_is_forgotten() -> None:
    """Its snapshot goes, it is no longer declared, and the removal counts once the disk has it."""
    protocol, _ = in_step()
    assert protocol.receive(Received(removal("acme"), 2.0)) == [
        Forget(ACME, 2, "the tenant is deleted"),
        Ack("7", ACME, 2),
    ]
    assert not protocol.snapshots
    assert protocol.stale(2.0) is None
    protocol.receive(Ended("cut", 3.0))
    (subscribe,) = protocol.receive(Begin(4.0))
    assert isinstance(subscribe, Subscribe)
    assert not subscribe.request.start_revisions
    assert not subscribe.request.known


def test_a_removed_tenant_may_come_back_with_less() -> None:
    """After its removal a tenant is new: a lower revision is no step back."""
    protocol = begun()
    (full,) = Server(history=[{}, {"a": "x"}, {"a": "y"}]).transfer(2, {}, set(), full=True)
    protocol.receive(Received(message(full), 1.0))
    protocol.receive(Received(removal("acme"), 2.0))
    (again,) = Server(history=[{}, {"b": "z"}]).transfer(1, {}, set(), full=True)
    assert Apply in kinds(protocol.receive(Received(message(again, 8), 3.0)))
    assert texts_of(protocol.snapshots[ACME]) == {"b": "z"}


def test_the_removal_of_an_unknown_tenant_is_acknowledged() -> None:
    """Nothing is forgotten that was not there."""
    protocol, _ = in_step()
    assert protocol.receive(Received(removal("other"), 2.0)) == [Ack("7", TenantId("other"), 0)]
    assert list(protocol.snapshots) == ["acme"]


def test_a_refusal_after_a_removal_backs_off() -> None:
    """A node of one tenant that lost it does not ask ever faster: a removal is no SYNCED."""
    protocol = begun(tenant_id="acme")
    waits: list[float] = []
    for step in range(3):
        protocol.receive(Received(removal("acme"), 10.0 * step))
        (wait,) = protocol.receive(Ended("PERMISSION_DENIED", 10.0 * step))
        waits.append(wait.seconds)  # type: ignore[union-attr]
        protocol.receive(Begin(10.0 * step + 1))
    assert waits == [0.25, 0.5, 1.0]
    assert protocol.stale(40.0) is not None


def test_a_tenant_that_is_not_named_stays_and_is_stale() -> None:
    """What a server does not speak of is not gone: it goes on, declared, and the node says which it is."""
    protocol = begun()
    for tenant in ("acme", "beta"):
        (full,) = Server(tenant, history=[{}, {"a": "x"}]).transfer(1, {}, set(), full=True)
        protocol.receive(Received(message(full), 1.0))
    protocol.receive(Ended("cut", 5.0))
    protocol.receive(Begin(6.0))
    (full,) = Server(epoch="e2", history=[{}, {"a": "z"}]).transfer(1, {}, set(), full=True)
    protocol.receive(Received(message(full), 7.0))
    protocol.receive(Received(heartbeat(10), 60.0))
    assert set(protocol.snapshots) == {"acme", "beta"}
    stale = protocol.stale(61.0)
    assert stale is not None
    assert "beta" in stale.reason
    assert stale.since == 1.0
    assert protocol.freshness.age(ACME, 61.0) == 0.0
    assert protocol.freshness.age(BETA, 61.0) == 60.0
    protocol.receive(Ended("cut", 62.0))
    (subscribe,) = protocol.receive(Begin(63.0))
    assert isinstance(subscribe, Subscribe)
    assert set(subscribe.request.start_revisions) == {"acme", "beta"}


def test_a_tenant_in_doubt_may_turn_out_to_be_gone() -> None:
    """A tenant whose transfer was torn is still named to the server, which may so say that it is gone."""
    protocol, server = in_step()
    server.history.append({"a": "y"})
    (torn,) = server.transfer(2, {}, {"hash of x"}, full=False, from_revision=1)
    torn.synced.digest = "0" * 64
    protocol.receive(Received(message(torn, 2), 2.0))
    protocol.receive(Ended("closed", 2.0))
    (subscribe,) = protocol.receive(Begin(3.0))
    assert isinstance(subscribe, Subscribe)
    assert subscribe.request.start_revisions["acme"].number == 1
    assert kinds(protocol.receive(Received(removal("acme"), 4.0)))[1] is Forget
    assert not protocol.snapshots


def test_a_bookmark_before_the_transfer_moves_nothing() -> None:
    """A heartbeat's revision counts only for a tenant that this stream has brought level: else the
    next stream would ask for too little."""
    protocol, _ = in_step()
    protocol.receive(Ended("cut", 2.0))
    protocol.receive(Begin(3.0))
    assert protocol.receive(Received(heartbeat(10, acme=9), 4.0))[1:] == []
    assert protocol.snapshots[ACME].revision.number == 1


def withheld_delta(number: int, *, digest_of: dict[str, str]) -> sync_pb2.ConfigTransfer:
    """A delta to a revision whose bundles have these etags, with a's withheld."""
    transfer = sync_pb2.ConfigTransfer(tenant_id="acme")
    transfer.revision.number, transfer.revision.epoch = number, "e1"
    transfer.start.intent = sync_pb2.TRANSFER_INTENT_DELTA
    transfer.withheld[A] = digest_of[A]
    transfer.synced.digest = bundles_digest(digest_of)
    transfer.synced.bundle_count = len(digest_of)
    return transfer


def test_a_withheld_bundle_leaves_what_is_there() -> None:
    """The bundle that is here stays and is declared, the digest counts the one that is withheld, and
    goes on doing so until the bundle changes."""
    protocol, _ = in_step()
    have = protocol.snapshots[ACME].bundles[A].etag
    refused = {A: "etag-of-the-refused"}
    actions = protocol.receive(Received(message(withheld_delta(2, digest_of=refused), 2), 2.0))
    assert Close not in kinds(actions)
    assert texts_of(protocol.snapshots[ACME]) == {"a": "x"}

    other = bundle("acme", "b", "x", 3)
    etags = {**refused, other.name: other.etag}
    delta = withheld_delta(3, digest_of=etags)
    delta.withheld.clear()
    delta.bundles.append(other)
    assert Close not in kinds(protocol.receive(Received(message(delta, 3), 3.0)))
    assert texts_of(protocol.snapshots[ACME]) == {"a": "x", "b": "x"}

    mended = bundle("acme", "a", "x", 4)
    etags = {A: mended.etag, other.name: other.etag}
    delta = withheld_delta(4, digest_of=etags)
    delta.withheld.clear()
    delta.bundles.append(mended)
    assert Close not in kinds(protocol.receive(Received(message(delta, 4), 4.0)))
    assert protocol.snapshots[ACME].withheld == {}
    assert have


def test_what_is_withheld_at_the_same_revision_counts() -> None:
    """A transfer that only says what is withheld holds for those after it."""
    protocol, _ = in_step()
    assert Close not in kinds(
        protocol.receive(Received(message(withheld_delta(1, digest_of={A: "r"}), 2), 2.0))
    )
    other = bundle("acme", "b", "x", 2)
    delta = withheld_delta(2, digest_of={A: "r", other.name: other.etag})
    delta.withheld.clear()
    delta.bundles.append(other)
    assert Close not in kinds(protocol.receive(Received(message(delta, 3), 3.0)))


def test_an_epoch_changes_only_in_full() -> None:
    """A delta of another epoch is refused, also if its digest fits."""
    protocol, _ = in_step()
    transfer = withheld_delta(1, digest_of=protocol.snapshots[ACME].etags)
    transfer.withheld.clear()
    transfer.revision.epoch = "e2"
    assert kinds(protocol.receive(Received(message(transfer, 2), 2.0))) == [Close]


def test_a_withheld_bundle_is_not_declared_as_here() -> None:
    """The next stream declares what is here, and begins without what was withheld."""
    protocol, server = in_step()
    have = protocol.snapshots[ACME].bundles[A].etag
    protocol.receive(Received(message(withheld_delta(2, digest_of={A: "refused"}), 2), 2.0))
    protocol.receive(Ended("cut", 3.0))
    (subscribe,) = protocol.receive(Begin(4.0))
    assert isinstance(subscribe, Subscribe)
    assert dict(subscribe.request.known) == {A: have}
    server.history += [{"a": "x"}, {"a": "x"}]
    (none,) = server.transfer(2, {}, set(), full=True)
    del none.bundles[:]
    none.start.intent = sync_pb2.TRANSFER_INTENT_NONE
    assert Apply in kinds(protocol.receive(Received(message(none), 5.0)))


def test_a_withheld_bundle_that_was_never_here_is_counted() -> None:
    """An agent whose only bundle is withheld is not on the node, and the digest fits."""
    protocol = begun()
    transfer = withheld_delta(1, digest_of={A: "refused"})
    transfer.start.intent = sync_pb2.TRANSFER_INTENT_FULL
    assert Apply in kinds(protocol.receive(Received(message(transfer), 1.0)))
    assert protocol.snapshots[ACME].bundles == {}


def test_a_foreign_bundle_cannot_be_withheld() -> None:
    """A withheld name of another tenant is a torn transfer."""
    protocol, _ = in_step()
    own = protocol.snapshots[ACME].etags
    foreign = agent_name("beta", "a")
    transfer = withheld_delta(2, digest_of={**own, foreign: "e"})
    transfer.withheld.clear()
    transfer.withheld[foreign] = "e"
    assert kinds(protocol.receive(Received(message(transfer, 2), 2.0))) == [Close]
