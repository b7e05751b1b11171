"""What a stream promises beyond the plain watch, on the pure state."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.rpc import code_pb2

from control_plane.watch.admission import Admission
from control_plane.watch.rights import NOTHING, Permit
from control_plane.watch.stream import Ahead, Draining, Ending, HeartbeatDue, ReportMissing
from tests.unit.watch.reference_client import ReferenceClient
from tests.unit.watch.streams import AGE_SECONDS, DrivenStream
from tests.unit.watch.tenant_log import TenantLog
from voxplane.digest import bundles_digest
from voxplane.errors import VoxplaneError
from voxplane.names import agent_name
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

FULL = sync_pb2.TRANSFER_INTENT_FULL
DELTA = sync_pb2.TRANSFER_INTENT_DELTA
SALES, SUPPORT = agent_name("acme", "sales"), agent_name("acme", "support")


def _log() -> TenantLog:
    log = TenantLog()
    log.publish("sales", "Sell.")
    log.publish("support", "Help.")
    return log


class Pair:
    """A client and its stream."""

    def __init__(self, log: TenantLog, client: ReferenceClient, permit: Permit | None = None) -> None:
        self.log = log
        self.client = client
        self.stream = DrivenStream(client.request())
        self.show(permit)

    def show(self, permit: Permit | None = None) -> list[sync_pb2.WatchConfigResponse]:
        """Show the newest state, and let the client take what comes."""
        before = len(self.stream.sent)
        messages = self.stream.show(self.log.state, permit or Permit())
        for data in self.stream.sent[before:]:
            self.client.receive(data)
        return messages

    @property
    def names(self) -> set[str]:
        """The bundles that the client has."""
        return set(self.client.bundles.get("acme", {}))


def test_skipped_revisions_are_declared() -> None:
    """A transfer over revisions that were never sent says how many they are."""
    pair = Pair(_log(), ReferenceClient("acme"))
    for number in range(4):
        pair.log.publish("sales", f"Sell {number}.")
    (message,) = pair.show()
    start = message.transfer.start
    assert (start.from_revision, start.skipped_revisions, message.transfer.revision.number) == (2, 3, 6)


def test_revisions_that_changed_nothing_are_skipped_too() -> None:
    """A resume that brings nothing says over how many revisions it goes."""
    log = _log()
    client = ReferenceClient("acme", ("sales",))
    Pair(log, client)
    for number in range(3):
        log.publish("support", f"Help {number}.")
    (message,) = DrivenStream(client.request()).show(log.state)
    start = message.transfer.start
    assert start.intent == sync_pb2.TRANSFER_INTENT_NONE
    assert (start.from_revision, start.skipped_revisions, message.transfer.revision.number) == (2, 2, 5)


def test_a_resume_below_the_floor_is_full_without_the_contents() -> None:
    """Below the history that is kept a client gets FULL, and the reason; what
    it has declared of contents does not travel again."""
    pair = Pair(_log(), ReferenceClient("acme"))
    request = pair.client.request()
    pair.log.publish("support", "Help more.")
    pair.log.compact(3)
    (message,) = DrivenStream(request).show(pair.log.state)
    assert (message.transfer.start.intent, message.transfer.start.reason) == (
        FULL,
        "history before 3 is compacted",
    )
    assert {bundle.name for bundle in message.transfer.bundles} == {SALES, SUPPORT}
    assert len(message.transfer.contents) == 1


def test_a_resume_at_the_floor_is_a_delta() -> None:
    """A client at the floor needs no revision that is gone."""
    pair = Pair(_log(), ReferenceClient("acme"))
    request = pair.client.request()
    pair.log.publish("support", "Help more.")
    pair.log.compact(2)
    (message,) = DrivenStream(request).show(pair.log.state)
    assert message.transfer.start.intent == DELTA


def test_a_watch_by_label_follows_the_labels() -> None:
    """Agents come and go as they gain and lose the labels that are watched."""
    log = _log()
    log.label("sales", team="blue", tier="gold")
    pair = Pair(log, ReferenceClient("acme", labels={"team": "blue", "tier": "gold"}))
    assert pair.names == {SALES}
    log.label("support", team="blue")
    pair.show()
    assert pair.names == {SALES}
    log.label("support", team="blue", tier="gold")
    pair.show()
    assert pair.names == {SALES, SUPPORT}
    log.label("sales", team="red", tier="gold")
    (message,) = pair.show()
    assert list(message.transfer.removed) == [SALES]
    assert pair.names == {SUPPORT}


def test_an_agent_that_may_not_be_seen_any_more_is_removed() -> None:
    """Losing the right to an agent sends its removal, without a commit; getting
    it back sends the bundle again."""
    pair = Pair(_log(), ReferenceClient("acme"))
    (message,) = pair.show(Permit(agents=frozenset({SUPPORT})))
    assert list(message.transfer.removed) == [SALES]
    assert pair.names == {SUPPORT}
    assert pair.show(Permit(agents=frozenset({SUPPORT}))) == []
    pair.log.publish("sales", "Secret.")
    pair.log.publish("support", "Open.")
    (message,) = pair.show(Permit(agents=frozenset({SUPPORT})))
    assert [bundle.name for bundle in message.transfer.bundles] == [SUPPORT]
    pair.show()
    assert pair.names == {SALES, SUPPORT}
    assert pair.stream.closed is None


def test_the_loss_of_its_tenant_ends_a_stream_after_the_removal() -> None:
    """A stream of one tenant that may not be watched any more removes it whole,
    and then ends with PERMISSION_DENIED."""
    pair = Pair(_log(), ReferenceClient("acme"))
    (message,) = pair.show(NOTHING)
    assert message.transfer.tenant_removed
    assert message.transfer.synced.digest == bundles_digest({})
    assert pair.client.gone == ["acme"]
    assert pair.stream.closed is not None
    assert pair.stream.closed.code == code_pb2.PERMISSION_DENIED
    assert pair.stream.closed.reason == reason_pb2.ERROR_REASON_PERMISSION_LOST


def test_a_client_that_comes_without_the_right_is_told_to_forget() -> None:
    """What a client still has of a tenant that it may not watch is removed when
    it comes back."""
    pair = Pair(_log(), ReferenceClient("acme"))
    stream = DrivenStream(pair.client.request())
    (message,) = stream.show(pair.log.state, NOTHING)
    assert set(message.transfer.removed) == {SALES, SUPPORT}
    assert message.transfer.tenant_removed
    assert stream.closed is not None


def test_a_tenant_leaves_and_comes_back_on_a_stream_of_all() -> None:
    """A stream of all tenants goes on without the one that it lost, and gets it
    in full when it may see it again."""
    pair = Pair(_log(), ReferenceClient("-"))
    pair.show(NOTHING)
    assert pair.client.gone == ["acme"]
    assert pair.stream.dropped == ["acme"]
    assert pair.stream.closed is None
    pair.log.publish("sales", "Sell again.")
    assert pair.show(NOTHING) == []
    (message,) = pair.show()
    assert message.transfer.start.intent == FULL
    assert pair.names == {SALES, SUPPORT}


def test_a_tenant_that_a_restored_store_has_not_is_removed() -> None:
    """Of a tenant that a client holds by another epoch and that the store does
    not have, a stream of all tenants says that it is gone."""
    pair = Pair(_log(), ReferenceClient("-"))
    stream = DrivenStream(pair.client.request())
    (message,) = stream.show(TenantLog(epoch="epoch-2").state)
    assert message.transfer.tenant_removed
    pair.client.receive(stream.sent[-1])
    assert pair.client.gone == ["acme"]


def test_a_store_that_is_behind_removes_nothing() -> None:
    """A tenant that the store does not have is not gone, if by the same epoch
    the client has seen it: that store is behind, and the stream ends."""
    pair = Pair(_log(), ReferenceClient("-"))
    stream = DrivenStream(pair.client.request())
    assert stream.show(TenantLog().state) == []
    assert stream.closed is not None
    assert stream.closed.reason == reason_pb2.ERROR_REASON_REVISION_IN_FUTURE


def test_only_who_names_the_epoch_says_that_the_store_is_behind() -> None:
    """A revision that is not made yet is told of where it is of the store's
    own epoch; a client that names no epoch may be anybody's."""
    request = ReferenceClient("acme").request()
    request.start_revisions["acme"].number = 7
    stream = DrivenStream(request)
    stream.show(_log().state)
    assert (stream.closed is not None, stream.ahead) == (True, [])
    request.start_revisions["acme"].epoch = _log().state.epoch
    stream = DrivenStream(request)
    state = _log().state
    stream.show(state)
    assert stream.ahead == [Ahead(state.tenant_id, 7, state.revision)]


def test_a_tenant_that_was_never_permitted_is_no_part_of_a_stream() -> None:
    """A stream of all tenants says nothing of one that it may not see, and is
    not waited for there."""
    pair = Pair(_log(), ReferenceClient("-"))
    stream = DrivenStream(ReferenceClient("-").request())
    assert stream.show(pair.log.state, NOTHING) == []
    assert stream.dropped == ["acme"]


def test_a_refused_bundle_is_not_sent_again_until_it_changes() -> None:
    """A node that comes back with its last good bundle is not sent the one that
    it refused; it is named as withheld, and the digest counts it. The next
    change of it is sent."""
    pair = Pair(_log(), ReferenceClient("acme"))
    log, request = pair.log, pair.client.request("node")
    log.publish("sales", "Broken.")
    log.publish("support", "Help more.")
    broken = log.state.bundles[SALES].etag
    stream = DrivenStream(request)
    (message,) = stream.show(log.state, refused={SALES: broken})
    transfer = message.transfer
    assert [bundle.name for bundle in transfer.bundles] == [SUPPORT]
    assert [content.config.prompt_config.instructions for content in transfer.contents] == ["Help more."]
    assert dict(transfer.withheld) == {SALES: broken}
    etags = {name: record.etag for name, record in log.state.bundles.items()}
    assert transfer.synced.digest == bundles_digest(etags)
    (message,) = stream.show(log.publish("sales", "Mended."))
    assert [bundle.name for bundle in message.transfer.bundles] == [SALES]


def test_what_was_refused_before_does_not_hold_back_another_bundle() -> None:
    """Only the very etag that was refused is withheld, and nothing from a
    client that has nothing to go on with."""
    pair = Pair(_log(), ReferenceClient("acme"))
    log, request = pair.log, pair.client.request("node")
    log.publish("sales", "Mended.")
    (message,) = DrivenStream(request).show(log.state, refused={SALES: "0" * 64})
    assert not message.transfer.withheld
    assert [bundle.name for bundle in message.transfer.bundles] == [SALES]
    fresh = DrivenStream(ReferenceClient("acme").request("node"))
    (message,) = fresh.show(log.state, refused={SALES: log.state.bundles[SALES].etag})
    assert len(message.transfer.bundles) == 2


def test_a_full_transfer_that_is_not_admitted_says_when_to_come_again() -> None:
    """Beyond the token bucket a full transfer ends its stream with UNAVAILABLE
    and a delay, before a byte of it is sent; a delta is not asked for."""
    log = _log()
    asked: list[int] = []

    def admit(size: int) -> float:
        asked.append(size)
        return 1.5

    stream = DrivenStream(ReferenceClient("acme").request(), admit=admit)
    assert stream.show(log.state) == []
    assert stream.closed is not None
    assert (stream.closed.code, stream.closed.retry_after) == (code_pb2.UNAVAILABLE, 1.5)
    contents = sum(map(len, log.state.contents.values()))
    assert asked == [contents + sum(len(record.encoded) for record in log.state.bundles.values())]
    client = Pair(log, ReferenceClient("acme")).client
    resumed = DrivenStream(client.request(), admit=admit)
    log.publish("sales", "More.")
    assert len(resumed.show(log.state)) == 1
    assert len(asked) == 1


def test_the_bucket_fills_with_time_and_lets_large_ones_in_alone() -> None:
    """Tokens are bytes: they come back at the rate, up to the burst, and a
    transfer above the burst leaves a debt that the next has to wait for."""
    now = 0.0
    bucket = Admission(lambda: now, bytes_per_second=100, burst_bytes=1_000)
    assert bucket.take(1_000) == 0
    assert bucket.take(1) > 0
    now = 5.0
    assert bucket.take(5_000) == 0
    wait = bucket.take(1)
    assert wait == pytest.approx(45.01)
    now = 5.0 + wait
    assert bucket.take(1) == 0
    now = 1_000.0
    assert bucket.take(1_000) == 0
    assert bucket.take(1) > 0


def test_a_stream_ends_at_its_age_and_says_why_first() -> None:
    """At the heartbeat after its greatest age a stream says that it drains for
    its age, and ends with UNAVAILABLE."""
    pair = Pair(_log(), ReferenceClient("acme"))
    stream = pair.stream
    (message,) = stream.receive(HeartbeatDue(AGE_SECONDS - 1))
    assert message.HasField("heartbeat")
    (message,) = stream.receive(HeartbeatDue(AGE_SECONDS))
    assert message.drain.reason == sync_pb2.DRAIN_REASON_MAX_AGE
    assert stream.closed is not None
    assert stream.closed.reason == reason_pb2.ERROR_REASON_STREAM_EXPIRED
    assert stream.closed.code == code_pb2.UNAVAILABLE


def test_a_draining_stream_goes_on() -> None:
    """A drain says why and when to come back; changes come until the end."""
    pair = Pair(_log(), ReferenceClient("acme"))
    (message,) = pair.stream.receive(Draining(sync_pb2.DRAIN_REASON_SHUTDOWN, 2.5))
    pair.client.receive(pair.stream.sent[-1])
    assert message.drain.reason == sync_pb2.DRAIN_REASON_SHUTDOWN
    assert message.drain.reconnect_after.ToMilliseconds() == 2_500
    pair.log.publish("sales", "Last words.")
    assert len(pair.show()) == 1


def test_missing_reports_are_asked_for() -> None:
    """A gap in the reports becomes a message that names the first missing one."""
    pair = Pair(_log(), ReferenceClient("acme"))
    (message,) = pair.stream.receive(ReportMissing(7))
    assert message.report_request.missing_sequence == 7
    assert message.nonce == "2"


def test_nothing_comes_after_the_end() -> None:
    """A stream that has ended answers no event."""
    pair = Pair(_log(), ReferenceClient("acme"))
    pair.stream.receive(Ending(VoxplaneError(reason_pb2.ERROR_REASON_SHUTTING_DOWN, "over")))
    pair.log.publish("sales", "More.")
    for event in (ReportMissing(1), Draining(sync_pb2.DRAIN_REASON_SHUTDOWN, 1), HeartbeatDue(9_999)):
        assert pair.stream.receive(event) == []
    assert pair.stream.show(replace(pair.log.state)) == []
