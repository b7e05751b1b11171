"""The bytes on the wire are those of plainly built messages."""

from __future__ import annotations

from control_plane.watch.encoder import Encoder, Suffix, encode_heartbeat
from control_plane.watch.planner import Planner
from control_plane.watch.scope import EVERYTHING
from control_plane.watch.stream import (
    HeartbeatDue,
    Opened,
    Send,
    SendHeartbeat,
    StateChanged,
    StreamRules,
    StreamState,
)
from control_plane.watch.subscription import read_subscription
from control_plane.watch.transfer import Declared
from tests.unit.watch.tenant_log import TenantLog
from voxplane.digest import bundles_digest
from voxplane.v1 import bundle_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2


def _log() -> TenantLog:
    log = TenantLog()
    log.publish("sales", "Sell. " * 100)
    log.publish("support", "Help.")
    return log


def test_joined_bytes_are_the_plain_message() -> None:
    """A transfer that is joined from ready-made bytes is, to the byte's
    meaning, the message that would be built field by field."""
    log = _log()
    request = sync_pb2.WatchConfigRequest(tenant_id="acme", known={"tenants/acme/agents/x": "1"})
    (state,) = _streams(Planner(), [request])
    (send,) = (action for action in state.receive(StateChanged(log.state)) if isinstance(action, Send))
    got = sync_pb2.WatchConfigResponse.FromString(
        Encoder().part(send.part) + Suffix("0123456789abcdef").bytes(send.nonce)
    )
    want = sync_pb2.WatchConfigResponse(stream_id="0123456789abcdef", nonce="1")
    want.transfer.tenant_id = "acme"
    want.transfer.revision.CopyFrom(log.state.revision_message())
    want.transfer.start.intent = sync_pb2.TRANSFER_INTENT_FULL
    want.transfer.start.reason = "no start revision"
    want.transfer.contents.extend(
        bundle_pb2.VersionContent.FromString(data) for data in log.state.contents.values()
    )
    want.transfer.bundles.extend(record.bundle for record in log.state.bundles.values())
    etags = {name: record.etag for name, record in log.state.bundles.items()}
    want.transfer.synced.digest = bundles_digest(etags)
    want.transfer.synced.bundle_count = 2
    assert got == want


def test_removals_and_bookmarks() -> None:
    """Removed names and the revisions of a heartbeat survive the way."""
    log = _log()
    planner, encoder = Planner(), Encoder()
    have = planner.transfer(Declared(), log.state, EVERYTHING).after
    (part,) = planner.transfer(have, log.delete("sales"), EVERYTHING).parts
    got = sync_pb2.WatchConfigResponse.FromString(encoder.part(part))
    assert list(got.transfer.removed) == ["tenants/acme/agents/sales"]
    beat = encode_heartbeat(1.5, {log.state.tenant_id: log.state.revision_message()})
    message = sync_pb2.WatchConfigResponse.FromString(beat + Suffix("s").bytes(12345678901))
    assert message.heartbeat.interval.ToMilliseconds() == 1500
    assert message.heartbeat.revisions["acme"] == log.state.revision_message()
    assert (message.stream_id, message.nonce) == ("s", "12345678901")


def test_parts_joined_are_the_whole() -> None:
    """The parts of a split transfer, joined, are one FetchConfigResponse."""
    log = _log()
    parts = Planner(part_bytes_max=10).transfer(Declared(), log.state, EVERYTHING).parts
    assert len(parts) == 4
    whole = sync_pb2.FetchConfigResponse.FromString(b"".join(Encoder().part(part) for part in parts))
    assert len(whole.transfer.bundles) == len(whole.transfer.contents) == 2
    assert (whole.transfer.start.intent, whole.transfer.synced.bundle_count) == (1, 2)


def _streams(planner: Planner, requests: list[sync_pb2.WatchConfigRequest]) -> list[StreamState]:
    streams: list[StreamState] = []
    for request in requests:
        rules = StreamRules(planner, lambda: 0.5, lambda _: 0.0)
        streams.append(StreamState(rules, read_subscription(request)))
        streams[-1].receive(Opened(0.0))
    return streams


def test_one_change_is_encoded_once() -> None:
    """Of 200 streams that come and then see a change, all share two encoded
    messages; so do 200 that come back together."""
    log = _log()
    planner, encoder = Planner(), Encoder()

    def show(streams: list[StreamState]) -> set[int]:
        sends = [a for s in streams for a in s.receive(StateChanged(log.state)) if isinstance(a, Send)]
        assert len(sends) == 200
        return {id(encoder.part(send.part)) for send in sends}

    streams = _streams(planner, [sync_pb2.WatchConfigRequest(tenant_id="acme")] * 200)
    assert len(show(streams)) == 1
    log.publish("sales", "More.")
    assert len(show(streams)) == 1
    assert encoder.encoded_parts == 2
    etags = {name: record.etag for name, record in log.state.bundles.items()}
    back = [
        sync_pb2.WatchConfigRequest(
            tenant_id="acme",
            start_revisions={"acme": log.state.revision_message()},
            known=etags,
            known_contents=sorted(log.state.contents),
        )
        for _ in range(200)
    ]
    log.publish("support", "More help.")
    assert len(show(_streams(planner, back))) == 1
    assert encoder.encoded_parts == 3


def test_the_memory_of_bytes_is_bounded() -> None:
    """Beyond its bound the encoder forgets what was used least, and makes it
    again when it is asked for; a message above the bound is never kept."""
    log = _log()
    parts = [
        Planner().transfer(Declared(), log.publish("sales", f"{number}" + "x" * 300), EVERYTHING).parts[0]
        for number in range(10)
    ]
    encoder = Encoder(bytes_max=1_500)
    first = encoder.part(parts[0])
    for part in parts:
        encoder.part(part)
    assert encoder.encoded_parts == 10
    assert encoder.part(parts[0]) == first
    assert encoder.encoded_parts == 11
    tiny = Encoder(bytes_max=10)
    assert tiny.part(parts[0]) == first


def test_the_bytes_of_a_state_go_with_it() -> None:
    """When all have gone on to a newer state, nothing of an older one is kept."""
    log, planner, encoder = _log(), Planner(), Encoder()
    streams = _streams(planner, [sync_pb2.WatchConfigRequest(tenant_id="acme")] * 3)
    sizes: list[int] = []
    for number in range(20):
        for stream in streams:
            for action in stream.receive(StateChanged(log.state)):
                if isinstance(action, Send):
                    encoder.part(action.part)
        sizes.append(encoder.encoded_bytes)
        log.publish("sales", f"{number:04} " + "x" * 300)
    assert max(sizes[1:]) - min(sizes[1:]) < 10


def test_a_quiet_heartbeat_is_made_once() -> None:
    """Heartbeats that tell no revision share their bytes."""
    (stream,) = _streams(Planner(), [sync_pb2.WatchConfigRequest(tenant_id="acme")])
    encoder = Encoder()
    beats = [a for _ in range(2) for a in stream.receive(HeartbeatDue(0.0)) if isinstance(a, SendHeartbeat)]
    assert encoder.heartbeat(beats[0].interval_seconds, beats[0].revisions) is encoder.heartbeat(
        beats[1].interval_seconds, beats[1].revisions
    )
