"""The rules of a watch stream, one by one, on the pure state."""

from __future__ import annotations

import pytest
from google.rpc import code_pb2

from control_plane.watch.planner import Planner
from control_plane.watch.stream import Ending
from tests.unit.watch.reference_client import ReferenceClient
from tests.unit.watch.streams import DrivenStream
from tests.unit.watch.tenant_log import TenantLog
from voxplane.digest import bundles_digest
from voxplane.errors import VoxplaneError
from voxplane.names import agent_name
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

FULL = sync_pb2.TRANSFER_INTENT_FULL
DELTA = sync_pb2.TRANSFER_INTENT_DELTA
NONE = sync_pb2.TRANSFER_INTENT_NONE


def _log() -> TenantLog:
    log = TenantLog()
    log.publish("sales", "Sell.")
    log.publish("support", "Help.")
    return log


def _synced(log: TenantLog, *, agents: tuple[str, ...] = ()) -> tuple[ReferenceClient, DrivenStream]:
    client = ReferenceClient("acme", agents)
    stream = DrivenStream(client.request())
    stream.show(log.state)
    for data in stream.sent:
        client.receive(data)
    return client, stream


def _etags(log: TenantLog) -> dict[str, str]:
    return {name: record.etag for name, record in log.state.bundles.items()}


def _only(messages: list[sync_pb2.WatchConfigResponse]) -> sync_pb2.ConfigTransfer:
    (message,) = messages
    return message.transfer


def test_a_client_with_nothing_gets_everything() -> None:
    """The first message of a new client is FULL, says why, and ends the
    transfer with the digest and the count of all bundles."""
    log = _log()
    stream = DrivenStream(sync_pb2.WatchConfigRequest(tenant_id="acme"))
    transfer = _only(stream.show(log.state))
    assert (transfer.start.intent, transfer.start.reason) == (FULL, "no start revision")
    assert transfer.revision == log.state.revision_message()
    assert {bundle.name for bundle in transfer.bundles} == set(log.state.bundles)
    assert len(transfer.contents) == 2
    assert transfer.synced.digest == bundles_digest(_etags(log))
    assert transfer.synced.bundle_count == 2


def test_an_empty_tenant_is_synced_too() -> None:
    """A tenant without commits is a transfer of nothing, with its end marker."""
    stream = DrivenStream(sync_pb2.WatchConfigRequest(tenant_id="acme"))
    transfer = _only(stream.show(TenantLog().state))
    assert (transfer.start.intent, transfer.synced.bundle_count) == (FULL, 0)
    assert transfer.synced.digest == bundles_digest({})


def test_a_change_is_one_message_with_only_the_change() -> None:
    """A live change is one message with start, the changed bundle, its new
    content and synced."""
    log = _log()
    _, stream = _synced(log)
    transfer = _only(stream.show(log.publish("sales", "Sell more.")))
    assert (transfer.start.intent, transfer.start.from_revision) == (DELTA, 2)
    assert [bundle.name for bundle in transfer.bundles] == [agent_name("acme", "sales")]
    assert [content.config.prompt_config.instructions for content in transfer.contents] == ["Sell more."]
    assert transfer.synced.digest == bundles_digest(_etags(log))


def test_a_rollback_sends_no_content() -> None:
    """A content that the stream has brought is not sent again when an alias
    moves back to it."""
    log = _log()
    client, stream = _synced(log)
    stream.show(log.publish("sales", "Sell more."))
    transfer = _only(stream.show(log.point("sales", 1)))
    assert not transfer.contents
    for data in stream.sent[1:]:
        client.receive(data)


def test_a_deleted_agent_is_removed_by_name() -> None:
    """A bundle that is gone is named in `removed`."""
    log = _log()
    _, stream = _synced(log)
    transfer = _only(stream.show(log.delete("sales")))
    assert (list(transfer.removed), list(transfer.bundles)) == ([agent_name("acme", "sales")], [])


def test_skipped_revisions_are_told_by_the_gap() -> None:
    """A stream that was not shown the states between sends one transfer over
    the gap, and says where it starts."""
    log = _log()
    client, stream = _synced(log)
    for number in range(5):
        log.publish("sales", f"Try {number}.")
    log.delete("support")
    transfer = _only(stream.show(log.state))
    assert (transfer.start.from_revision, transfer.revision.number) == (2, 8)
    assert len(transfer.contents) == 1
    client.receive(stream.sent[-1])


def test_a_change_there_and_back_sends_nothing() -> None:
    """What is as the client has it again is not sent, only the level moves."""
    log = _log()
    _, stream = _synced(log)
    log.publish("sales", "Sell more.")
    assert stream.show(log.point("sales", 1)) == []
    assert stream.beat().heartbeat.revisions["acme"].number == 4


def test_a_commit_without_a_difference_moves_the_level() -> None:
    """A commit that no bundle shows sends nothing; the next heartbeat carries
    its revision, the one after does not repeat it."""
    log = _log()
    client, stream = _synced(log)
    assert stream.show(log.rename("sales", "Sales")) == []
    assert stream.moves[-1].nonce is None
    assert stream.beat().heartbeat.revisions["acme"] == log.state.revision_message()
    assert not stream.beat().heartbeat.revisions
    for data in stream.sent[1:]:
        client.receive(data)
    transfer = _only(stream.show(log.publish("sales", "More.")))
    assert transfer.start.from_revision == 3


def test_a_change_after_an_untold_commit_starts_where_the_client_is() -> None:
    """`from_revision` is what the client knows of, also when the level has
    moved on without a word."""
    log = _log()
    client, stream = _synced(log)
    stream.show(log.rename("sales", "Sales"))
    transfer = _only(stream.show(log.publish("sales", "More.")))
    assert (transfer.start.from_revision, transfer.revision.number) == (2, 4)
    client.receive(stream.sent[-1])


def test_each_stream_starts_from_what_its_own_client_knows() -> None:
    """Of two clients with the same bundles, of which one has had a heartbeat,
    each gets its delta from the revision that it knows of."""
    log, planner = _log(), Planner()
    clients = [ReferenceClient("acme"), ReferenceClient("acme")]
    streams = [DrivenStream(client.request(), planner=planner) for client in clients]
    states = [log.state, log.rename("sales", "Sales")]
    for stream in streams:
        for state in states:
            stream.show(state)
    streams[0].beat()
    log.publish("sales", "More.")
    starts = [_only(stream.show(log.state)).start.from_revision for stream in streams]
    assert starts == [3, 2]
    for client, stream in zip(clients, streams, strict=True):
        for data in stream.sent:
            client.receive(data)


def test_a_resumed_client_that_is_level_gets_none() -> None:
    """Who declares the present state is told that nothing has changed."""
    log = _log()
    client, _ = _synced(log)
    stream = DrivenStream(client.request())
    transfer = _only(stream.show(log.state))
    assert (transfer.start.intent, transfer.start.from_revision) == (NONE, 2)
    assert transfer.synced.digest == bundles_digest(_etags(log))
    assert stream.moves[-1].level.unsent == set(log.state.bundles)


def test_a_resumed_client_gets_the_difference() -> None:
    """Who was away gets what changed, and the names of what was deleted."""
    log = _log()
    log.publish("survey", "Ask.")
    client, _ = _synced(log)
    log.publish("sales", "Sell more.")
    log.delete("support")
    stream = DrivenStream(client.request())
    transfer = _only(stream.show(log.state))
    assert (transfer.start.intent, transfer.start.from_revision) == (DELTA, 3)
    assert [bundle.name for bundle in transfer.bundles] == [agent_name("acme", "sales")]
    assert list(transfer.removed) == [agent_name("acme", "support")]
    assert len(transfer.contents) == 1
    client.receive(stream.sent[-1])


def test_a_known_name_that_never_was_is_removed() -> None:
    """A name that the client declares and the tenant does not have is removed
    explicitly."""
    log = _log()
    client, _ = _synced(log)
    request = client.request()
    request.known[agent_name("acme", "ghost")] = "0" * 32
    assert list(_only(DrivenStream(request).show(log.state)).removed) == [agent_name("acme", "ghost")]


def test_a_missing_content_is_sent_again_on_resume() -> None:
    """A client that lost a content and declares the bundle gets the content."""
    log = _log()
    client, _ = _synced(log)
    lost = sorted(client.contents)[0]
    request = client.request()
    request.known_contents.remove(lost)
    transfer = _only(DrivenStream(request).show(log.state))
    assert transfer.start.intent == DELTA
    assert [content.content_hash for content in transfer.contents] == [lost]


def test_a_wrong_etag_is_replaced() -> None:
    """A bundle whose declared etag is not the present one is sent."""
    log = _log()
    client, _ = _synced(log)
    request = client.request()
    request.known[agent_name("acme", "sales")] = "stale"
    transfer = _only(DrivenStream(request).show(log.state))
    assert [bundle.name for bundle in transfer.bundles] == [agent_name("acme", "sales")]
    assert not transfer.contents


def test_another_epoch_is_full_with_the_reason() -> None:
    """A client of another history gets everything, even if its number is
    higher."""
    log = _log()
    client, _ = _synced(log)
    restored = TenantLog(epoch="epoch-2")
    restored.publish("sales", "Sell.")
    stream = DrivenStream(client.request())
    transfer = _only(stream.show(restored.state))
    assert (transfer.start.intent, transfer.start.reason) == (FULL, "the client's epoch is not the store's")
    client.receive(stream.sent[-1])
    assert set(client.bundles["acme"]) == {agent_name("acme", "sales")}


def test_an_epoch_that_changes_on_the_stream_is_full() -> None:
    """If the store's epoch changes under an open stream, it sends FULL."""
    log = _log()
    _, stream = _synced(log)
    transfer = _only(stream.show(TenantLog(epoch="epoch-2").state))
    assert (transfer.start.intent, transfer.synced.bundle_count) == (FULL, 0)


def test_a_revision_from_the_future_is_refused() -> None:
    """A start revision that has not been made ends the stream with
    OUT_OF_RANGE, and nothing is sent."""
    log = _log()
    client, _ = _synced(log)
    request = client.request()
    request.start_revisions["acme"].number = 3
    stream = DrivenStream(request)
    assert stream.show(log.state) == []
    assert stream.closed is not None
    assert stream.closed.reason == reason_pb2.ERROR_REASON_REVISION_IN_FUTURE
    assert stream.closed.code == code_pb2.OUT_OF_RANGE
    assert stream.show(log.publish("sales", "More.")) == []


def test_an_older_state_is_passed_over() -> None:
    """A state that is not newer than the level sends nothing."""
    log = _log()
    old = log.state
    log.publish("sales", "More.")
    _, stream = _synced(log)
    assert stream.show(old) == []
    assert stream.show(log.state) == []


def test_a_filter_shows_its_agents_alone() -> None:
    """With agent_ids the stream brings those agents, and others' changes are
    only a moved level."""
    log = _log()
    client, stream = _synced(log, agents=("sales", "later"))
    assert set(client.bundles["acme"]) == {agent_name("acme", "sales")}
    assert stream.show(log.publish("support", "Help more.")) == []
    transfer = _only(stream.show(log.publish("later", "Wait.")))
    assert transfer.synced.bundle_count == 2


def test_a_narrower_filter_removes_what_is_outside() -> None:
    """A client that resumes with a filter is told to drop the others."""
    log = _log()
    client, _ = _synced(log)
    client.agent_ids = ["sales"]
    stream = DrivenStream(client.request())
    assert list(_only(stream.show(log.state)).removed) == [agent_name("acme", "support")]
    client.receive(stream.sent[-1])


def test_a_large_transfer_is_split() -> None:
    """Above the limit a transfer is several messages: `start` in the first
    alone, `synced` in the last alone, one revision, nothing twice."""
    log = TenantLog()
    for number in range(20):
        log.publish(f"agent{number}", f"{number} " + "x" * 1_000)
    client = ReferenceClient("acme")
    stream = DrivenStream(client.request(), planner=Planner(part_bytes_max=5_000))
    messages = stream.show(log.state)
    assert len(messages) > 3
    assert [message.transfer.HasField("start") for message in messages].count(True) == 1
    assert [message.transfer.HasField("synced") for message in messages].count(True) == 1
    assert messages[0].transfer.HasField("start")
    assert messages[-1].transfer.HasField("synced")
    assert all(len(data) < 5_500 for data in stream.sent)
    assert stream.moves[-1].nonce == len(messages)
    for data in stream.sent:
        client.receive(data)
    assert len(client.bundles["acme"]) == 20


def test_all_tenants_come_each_with_its_own_transfer() -> None:
    """With tenant - each tenant is a transfer, also one that appears later."""
    first, later = TenantLog("acme"), TenantLog("globex")
    first.publish("sales", "Sell.")
    client = ReferenceClient("-")
    stream = DrivenStream(client.request())
    stream.show(first.state)
    transfer = _only(stream.show(later.publish("sales", "Sell.")))
    assert (transfer.tenant_id, transfer.start.intent) == ("globex", FULL)
    for data in stream.sent:
        client.receive(data)
    assert client.applied == [("acme", 1), ("globex", 1)]


def test_a_filter_needs_one_tenant() -> None:
    """agent_ids with tenant - is refused by the field's name."""
    stream = DrivenStream(sync_pb2.WatchConfigRequest(tenant_id="-", agent_ids=["sales"]))
    assert stream.closed is not None
    assert [violation.field for violation in stream.closed.violations] == ["agent_ids"]


@pytest.mark.parametrize("name", ["tenants/globex/agents/sales", "nonsense"])
def test_known_names_are_of_the_tenant(name: str) -> None:
    """A known name that is not of the watched tenant is refused."""
    stream = DrivenStream(sync_pb2.WatchConfigRequest(tenant_id="acme", known={name: "1"}))
    assert stream.closed is not None
    assert stream.closed.violations[0].field == f'known["{name}"]'


def test_heartbeats_keep_within_the_interval() -> None:
    """The next heartbeat comes within the interval that this one names."""
    log = _log()
    _, stream = _synced(log)
    message = stream.beat()
    assert message.heartbeat.interval.ToSeconds() == 30
    assert 0 < stream.waits[0] <= 30
    assert 20 < stream.waits[1] <= 30


def test_a_nonce_that_was_not_sent_is_refused() -> None:
    """A report may name what was sent, or nothing."""
    _, stream = _synced(_log())
    stream.state.check_nonce("")
    stream.state.check_nonce("1")
    with pytest.raises(VoxplaneError) as caught:
        stream.state.check_nonce("2")
    assert caught.value.violations[0].field == "nonce"


def test_nothing_comes_after_the_end() -> None:
    """A stream that was told to end closes with the reason, and is quiet."""
    log = _log()
    _, stream = _synced(log)
    stream.receive(Ending(VoxplaneError(reason_pb2.ERROR_REASON_SHUTTING_DOWN, "bye")))
    assert stream.closed is not None
    assert stream.show(log.publish("sales", "More.")) == []
