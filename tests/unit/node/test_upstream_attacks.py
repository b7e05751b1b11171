"""A server that sends what it should not: the node keeps what is proven, never
breaks, and can always ask again."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import protovalidate
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings

import agent_node.upstream.protocol as protocol_module
from agent_node.upstream import Snapshot, WatchProtocol
from agent_node.upstream.events import Apply, Begin, Close, Ended, Received, Subscribe, Tick
from tests.unit.node.samples import bundle, content
from tests.unit.node.test_upstream_moves import in_step
from tests.unit.node.test_upstream_protocol import Server, begun, heartbeat, kinds, message, texts_of
from voxplane.digest import bundles_digest
from voxplane.names import TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

ACME = TenantId("acme")
Transfer = sync_pb2.ConfigTransfer


def proven(transfer: Transfer) -> Transfer:
    """The transfer with the end marker that fits its bundles."""
    etags = {made.name: made.etag for made in transfer.bundles}
    transfer.synced.digest = bundles_digest(etags)
    transfer.synced.bundle_count = len(etags)
    return transfer


def full_of(tenant: str = "acme", agent: str = "a", number: int = 2) -> Transfer:
    """A full transfer that is in order."""
    transfer = Transfer(tenant_id=tenant)
    transfer.revision.number, transfer.revision.epoch = number, "e1"
    transfer.start.intent = sync_pb2.TRANSFER_INTENT_FULL
    transfer.contents.append(content("y"))
    transfer.bundles.append(bundle(tenant, agent, "y", number))
    return proven(transfer)


def _no_intent(transfer: Transfer) -> None:
    transfer.start.intent = sync_pb2.TRANSFER_INTENT_UNSPECIFIED


def _future_intent(transfer: Transfer) -> None:
    transfer.start.ParseFromString(b"\x08\x63")


def _none_with_changes(transfer: Transfer) -> None:
    transfer.start.intent = sync_pb2.TRANSFER_INTENT_NONE


def _negative(transfer: Transfer) -> None:
    transfer.revision.epoch = "e2"
    transfer.revision.number = -1


def _long_epoch(transfer: Transfer) -> None:
    transfer.revision.epoch = "e" * 65


def _long_etag(transfer: Transfer) -> None:
    transfer.bundles[0].etag = "e" * 65


def _no_etag(transfer: Transfer) -> None:
    transfer.bundles[0].etag = ""


def _odd_agent(transfer: Transfer) -> None:
    transfer.bundles[0].name = "tenants/acme/agents/" + "a" * 300


def _long_hash(transfer: Transfer) -> None:
    transfer.contents[0].content_hash = "h" * 65
    transfer.bundles[0].versions[0].content_hash = "h" * 65


def _another_tenants_bundle(transfer: Transfer) -> None:
    transfer.bundles[0].name = "tenants/beta/agents/a"


def _no_such_content(transfer: Transfer) -> None:
    transfer.bundles[0].versions.add(number=2, content_hash="never sent")


@pytest.mark.parametrize(
    "spoil",
    [
        _no_intent,
        _future_intent,
        _none_with_changes,
        _negative,
        _long_epoch,
        _long_etag,
        _no_etag,
        _odd_agent,
        _long_hash,
        _another_tenants_bundle,
        _no_such_content,
    ],
)
def test_what_cannot_be_is_not_taken(spoil: Callable[[Transfer], None]) -> None:
    """A transfer that this node could not declare again, or that is of a kind it does not know, is
    refused though its marker fits, and the next one is taken."""
    protocol, _ = in_step()
    transfer = full_of()
    spoil(transfer)
    assert kinds(protocol.receive(Received(message(proven(transfer), 2), 2.0))) == [Close]
    assert texts_of(protocol.snapshots[ACME]) == {"a": "x"}
    assert protocol.stale(2.0) is not None
    protocol.receive(Ended("closed", 2.0))
    assert_declares(protocol)
    assert Apply in kinds(protocol.receive(Received(message(full_of(), 1), 4.0)))


def assert_declares(protocol: WatchProtocol) -> None:
    """The next request is one that a server takes."""
    (subscribe,) = protocol.receive(Begin(3.0))
    assert isinstance(subscribe, Subscribe)
    protovalidate.validate(subscribe.request)


@pytest.mark.parametrize("tenant", ["", "-", "..", "../../tmp/x", "a/b", "UPPER", "a" * 64, "a\0b", "a\n"])
def test_a_tenant_that_cannot_be_is_refused(tenant: str) -> None:
    """A tenant's id names a file: one that is no id never gets so far."""
    protocol = begun()
    assert kinds(protocol.receive(Received(message(full_of(tenant)), 1.0)))[-1] is Close
    assert not protocol.snapshots


def test_the_stream_keeps_its_id() -> None:
    """A stream that changes its name in the middle is closed."""
    protocol, _ = in_step()
    other = heartbeat(10)
    other.stream_id = "s2"
    assert kinds(protocol.receive(Received(other, 2.0))) == [Close]


@pytest.mark.parametrize("seconds", [0, -5, 2**62, -(2**62)])
def test_an_absurd_heartbeat_interval_is_bounded(seconds: int) -> None:
    """No interval makes the node deaf for ever, or busy."""
    protocol = begun()
    beat = heartbeat(10)
    beat.heartbeat.interval.seconds = seconds
    protocol.receive(Received(beat, 1.0))
    assert 1.0 < protocol.silence_ends <= 601.0


def test_a_heartbeat_never_brings_back_or_crosses_epochs() -> None:
    """Bookmarks below what is here, or of another epoch, are nothing."""
    protocol, _ = in_step()
    for number, epoch in ((0, "e1"), (-7, "e1"), (50, "e2"), (50, "")):
        beat = heartbeat(10)
        beat.heartbeat.revisions["acme"].number = number
        beat.heartbeat.revisions["acme"].epoch = epoch
        assert protocol.receive(Received(beat, 2.0)) == []
    assert protocol.snapshots[ACME].revision.number == 1


def test_parts_without_end_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transfer that never ends is given up at a bound, also if it begins again and again, or is
    spread over tenants; what was there stays."""
    monkeypatch.setattr(protocol_module, "UNFINISHED_BYTES_MAX", 20_000)
    for restarts, tenants in ((False, 1), (True, 1), (False, 50), (True, 50)):
        protocol, _ = in_step()
        for step in range(10_000):
            part = Transfer(tenant_id=f"t{step % tenants}")
            part.contents.append(content(f"{step} " + "z" * 100))
            if restarts or step < tenants:
                part.start.intent = sync_pb2.TRANSFER_INTENT_FULL
            if Close in kinds(protocol.receive(Received(message(part, step + 2), 2.0))):
                break
        else:
            raise AssertionError("no end")
        assert step < 200
        assert texts_of(protocol.snapshots[ACME]) == {"a": "x"}


def test_finished_transfers_do_not_count_for_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream may bring any amount, transfer by transfer."""
    monkeypatch.setattr(protocol_module, "UNFINISHED_BYTES_MAX", 2_000)
    protocol = begun()
    for number in range(1, 200):
        assert Close not in kinds(protocol.receive(Received(message(full_of(number=number), number), 1.0)))


def test_tenants_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node takes no more tenants than it could declare."""
    monkeypatch.setattr(protocol_module, "TENANTS_MAX", 2)
    protocol = begun()
    for tenant in ("a", "b"):
        assert Apply in kinds(protocol.receive(Received(message(full_of(tenant)), 1.0)))
    assert kinds(protocol.receive(Received(message(full_of("c")), 1.0)))[-1] is Close
    assert len(protocol.snapshots) == 2


def test_the_pool_of_spare_contents_is_bounded() -> None:
    """A stream that changes one agent for ever does not make the node grow."""
    server = Server(history=[{}])
    protocol = begun()
    bound = protocol_module.SPARE_CONTENTS_MAX
    for number in range(1, bound + 2_000):
        server.history = [{}] * number + [{"a": f"text {number}"}]
        (full,) = server.transfer(number, {}, set(), full=True)
        protocol.receive(Received(message(full, number), 1.0))
    assert len(protocol._pool) <= bound + 1


def test_an_older_transfer_on_a_new_stream_is_a_server_that_lags() -> None:
    """Before a stream has brought a tenant level, an older revision is no duplicate: it is refused."""
    server = Server(history=[{}, {"a": "x"}, {"a": "y"}])
    protocol = begun()
    (new,) = server.transfer(2, {}, set(), full=True)
    protocol.receive(Received(message(new), 1.0))
    protocol.receive(Ended("cut", 2.0))
    protocol.receive(Begin(3.0))
    (old,) = server.transfer(1, server.transfer and {}, set(), full=False)
    assert kinds(protocol.receive(Received(message(old), 4.0)))[-1] is Close
    assert texts_of(protocol.snapshots[ACME]) == {"a": "y"}


def test_a_request_that_is_refused_is_not_repeated() -> None:
    """INVALID_ARGUMENT without a tenant makes the next request declare nothing; the bundles stay."""
    protocol, _ = in_step()
    protocol.receive(Ended("INVALID_ARGUMENT", 2.0, refused="-"))
    (subscribe,) = protocol.receive(Begin(3.0))
    assert isinstance(subscribe, Subscribe)
    assert not subscribe.request.known
    assert texts_of(protocol.snapshots[ACME]) == {"a": "x"}
    assert Apply in kinds(protocol.receive(Received(message(full_of(), 1), 4.0)))
    assert protocol.stale(4.0) is None


short = st.text("aex", max_size=3)
tenants = st.sampled_from(["acme", "beta", "..", ""])
numbers = st.sampled_from([-1, 0, 1, 2, 3, 2**62])


@st.composite
def odd_transfers(draw: st.DrawFn) -> Transfer:
    """Transfers with fields drawn anew."""
    transfer = full_of(draw(tenants), draw(short), draw(numbers))
    if draw(st.booleans()):
        transfer.ClearField("start")
    elif draw(st.booleans()):
        transfer.start.ParseFromString(b"\x08" + bytes([draw(st.integers(0, 9))]))
    if draw(st.booleans()):
        transfer.ClearField("synced")
    transfer.removed.extend(draw(st.lists(short, max_size=2)))
    for name in draw(st.lists(short, max_size=1)):
        transfer.withheld[f"tenants/acme/agents/{name}"] = draw(short)
    transfer.tenant_removed = draw(st.integers(0, 9)) == 0
    return transfer


@st.composite
def other_messages(draw: st.DrawFn) -> sync_pb2.WatchConfigResponse:
    """Messages that are no transfers."""
    made = sync_pb2.WatchConfigResponse()
    match draw(st.integers(0, 3)):
        case 0:
            made.heartbeat.interval.seconds = draw(numbers)
            made.heartbeat.revisions[draw(tenants)].number = draw(numbers)
        case 1:
            made.drain.reconnect_after.seconds = draw(numbers)
        case 2:
            made.report_request.missing_sequence = draw(numbers)
        case _:
            pass
    return made


sound = st.builds(full_of, st.sampled_from(["acme", "beta"]), st.just("a"), st.integers(1, 4))


@st.composite
def hostile(draw: st.DrawFn) -> sync_pb2.WatchConfigResponse:
    """Any message: sound ones, odd ones, and such with bytes flipped."""
    made = sync_pb2.WatchConfigResponse()
    match draw(st.integers(0, 3)):
        case 0:
            made.CopyFrom(draw(other_messages()))
        case 1:
            made.transfer.CopyFrom(draw(odd_transfers()))
        case _:
            made.transfer.CopyFrom(draw(sound))
    made.stream_id = draw(st.sampled_from(["s1", "s1", "s1", "s1", "s2", ""]))
    made.nonce = draw(st.sampled_from(["1", "", "x", "9" * 30]))
    return flipped(draw, made) if draw(st.integers(0, 3)) == 0 else made


def flipped(draw: st.DrawFn, made: sync_pb2.WatchConfigResponse) -> sync_pb2.WatchConfigResponse:
    """The message with some bytes changed; an empty one if it cannot be read then."""
    data = bytearray(made.SerializeToString())
    for _ in range(draw(st.integers(1, 4)) if data else 0):
        data[draw(st.integers(0, len(data) - 1))] ^= draw(st.integers(1, 255))
    try:
        return sync_pb2.WatchConfigResponse.FromString(bytes(data))
    except DecodeError:
        return sync_pb2.WatchConfigResponse()


@given(
    steps=st.lists(
        st.one_of(
            hostile(),
            hostile(),
            hostile(),
            st.builds(
                Ended, st.just("cut"), st.just(0.0), st.sampled_from([None, 1e300]), replaced=st.booleans()
            ),
            st.just(None),
        ),
        max_size=40,
    )
)
@settings(max_examples=400, deadline=None)
def test_no_message_breaks_the_node(steps: list[sync_pb2.WatchConfigResponse | Ended | None]) -> None:
    """Whatever comes: nothing is raised, each snapshot is whole and its own tenant's, nobody goes back
    within an epoch, waits are finite, and the next request is valid."""
    protocol = begun()
    now, have = 0.0, dict[TenantId, Snapshot]()
    for step in steps:
        now += 1.0
        match step:
            case None:
                actions = protocol.receive(Tick(now))
            case Ended():
                actions = protocol.receive(Ended(step.reason, now, step.retry_after, replaced=step.replaced))
            case _:
                actions = protocol.receive(Received(step, now))
                if isinstance(step, sync_pb2.WatchConfigResponse) and step.transfer.tenant_removed:
                    have.clear()
        if Close in kinds(actions):
            protocol.receive(Ended("closed", now))
        if (begun_again := protocol.receive(Begin(now))) != []:
            (subscribe,) = begun_again
            assert isinstance(subscribe, Subscribe)
            protovalidate.validate(subscribe.request)
        for tenant_id, snapshot in protocol.snapshots.items():
            check_whole(tenant_id, snapshot)
            before = have.get(tenant_id)
            if before is not None and before.revision.epoch == snapshot.revision.epoch:
                assert snapshot.revision.number >= before.revision.number
        have = dict(protocol.snapshots)
        assert protocol.due < float("inf")
        protocol.stale(now)


def check_whole(tenant_id: TenantId, snapshot: Snapshot) -> None:
    """Every bundle is its tenant's, with all contents."""
    assert snapshot.tenant_id == tenant_id
    for name, made in snapshot.bundles.items():
        assert made.name == name
        assert name.startswith(f"tenants/{tenant_id}/agents/")
        assert all(version.content_hash in snapshot.contents for version in made.versions)
