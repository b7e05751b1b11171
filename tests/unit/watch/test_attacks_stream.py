"""Attacks on the stream's state: refused bundles, contents, limits and nonces."""

from __future__ import annotations

import pytest

from control_plane.fleet import Fleet
from control_plane.watch import EVERY_AGENT
from control_plane.watch.encoder import Encoder
from control_plane.watch.planner import Planner
from control_plane.watch.transfer import SPARE_CONTENTS_MAX
from tests.unit.watch.attack_world import AttackWorld
from tests.unit.watch.streams import DrivenStream
from tests.unit.watch.tenant_log import TenantLog
from tests.virtual_clock import VirtualClock
from voxplane.errors import VoxplaneError
from voxplane.names import agent_name
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

A = agent_name("acme", "a")


def resumed(log: TenantLog, etag: str, *contents: str) -> sync_pb2.WatchConfigRequest:
    """A client that has agent a by an etag, at the log's revision."""
    request = sync_pb2.WatchConfigRequest(tenant_id="acme", known={A: etag}, known_contents=contents)
    request.node.node_id = "n1"
    request.start_revisions["acme"].CopyFrom(log.state.revision_message())
    return request


def test_the_content_of_a_withheld_bundle_goes_along_when_it_is_needed() -> None:
    """A node that has many contents, and has refused a bundle, gets the content
    with the next bundle that names it."""
    log = TenantLog()
    good = log.publish("a", "good").bundles[A]
    spare = [f"{number:064}" for number in range(SPARE_CONTENTS_MAX + 1)]
    request = resumed(log, good.etag, good.bundle.versions[0].content_hash, *spare)
    refused = log.publish("a", "refused").bundles[A]
    stream = DrivenStream(request)
    (message,) = stream.show(log.state, EVERY_AGENT, {A: refused.etag})
    assert message.transfer.withheld == {A: refused.etag}
    assert not message.transfer.contents
    (message,) = stream.show(log.label("a", tier="gold"))
    assert [bundle.name for bundle in message.transfer.bundles] == [A]
    assert [each.content_hash for each in message.transfer.contents] == [
        refused.bundle.versions[0].content_hash
    ]


def test_a_full_transfer_brings_what_was_refused_too() -> None:
    """A full transfer takes the place of all that the node has, so nothing is
    withheld of it, whatever the node has refused."""
    log = TenantLog()
    good = log.publish("a", "good").bundles[A]
    request = resumed(log, good.etag, good.bundle.versions[0].content_hash)
    refused = log.publish("a", "refused").bundles[A]
    log.compact(2)
    (message,) = DrivenStream(request).show(log.state, EVERY_AGENT, {A: refused.etag})
    assert [bundle.etag for bundle in message.transfer.bundles] == [refused.etag]
    assert not message.transfer.withheld


@pytest.mark.parametrize("part_bytes_max", [1, 500, 10**12])
def test_messages_of_any_limit_bring_all(part_bytes_max: int) -> None:
    """Whatever the limit of a message is, nothing is lost or sent twice."""
    log = TenantLog()
    for number in range(30):
        log.publish(f"a{number}", "x" * (number * 37))
    request = sync_pb2.WatchConfigRequest(tenant_id="acme")
    stream = DrivenStream(request, Planner(part_bytes_max), Encoder(0))
    messages = stream.show(log.state)
    names = [bundle.name for message in messages for bundle in message.transfer.bundles]
    assert sorted(names) == sorted(log.state.bundles)
    assert [int(message.nonce) for message in messages] == list(range(1, len(messages) + 1))
    assert all(message.transfer.HasField("start") is (message is messages[0]) for message in messages)
    assert all(message.transfer.HasField("synced") is (message is messages[-1]) for message in messages)


def test_a_memory_of_no_bytes_keeps_none() -> None:
    """With nothing to remember encoded messages in, they are made each time."""
    log = TenantLog()
    state = log.publish("a", "text")
    encoder, planner = Encoder(0), Planner()
    for _ in range(3):
        DrivenStream(sync_pb2.WatchConfigRequest(tenant_id="acme"), planner, encoder).show(state)
    assert (encoder.encoded_parts, encoder.encoded_bytes) == (3, 0)


@pytest.mark.parametrize("nonce", ["2", "9" * 19, "18446744073709551616"[:19], "0002"])
async def test_nonces_beyond_those_sent_are_refused(nonce: str) -> None:
    """However large or long, a nonce that was not sent is refused; what has
    leading zeros counts as its number."""
    world = AttackWorld()
    world.tenants.publish("acme", "a", "first")
    held = world.hold("acme")
    await world.clock.settle()
    stream_id = held.messages[0].stream_id
    with pytest.raises(VoxplaneError):
        world.hub.report(sync_pb2.ReportConfigStatusRequest(stream_id=stream_id, nonce=nonce))
    world.hub.report(sync_pb2.ReportConfigStatusRequest(stream_id=stream_id, nonce="0001"))
    await world.close(held)


async def test_streams_of_one_node_that_race_leave_one() -> None:
    """Of many streams that come at once under one node id, one stays, and the
    fleet knows its id."""
    world = AttackWorld()
    world.tenants.publish("acme", "a", "first")
    request = sync_pb2.WatchConfigRequest(tenant_id="acme")
    request.node.node_id = "n1"
    many = [world.hold(request) for _ in range(50)]
    await world.clock.settle()
    open_ones = [held for held in many if held.error is None]
    assert len(open_ones) == world.hub.streams == 1
    stream_id = open_ones[0].messages[0].stream_id
    assert world.fleet.node("n1").stream_id == stream_id
    with pytest.raises(VoxplaneError):
        world.hub.report(sync_pb2.ReportConfigStatusRequest(stream_id=many[0].stream.stream_id))  # type: ignore[union-attr]
    await world.close(*many)


async def test_reports_that_come_after_the_end_of_a_stream_are_refused() -> None:
    """A report of a stream that has ended changes nothing, and says so."""
    world = AttackWorld()
    world.tenants.publish("acme", "a", "first")
    held = world.hold("acme")
    await world.clock.settle()
    stream_id = held.messages[0].stream_id
    await world.close(held)
    with pytest.raises(VoxplaneError):
        world.hub.report(sync_pb2.ReportConfigStatusRequest(stream_id=stream_id, nonce="1"))


def test_reports_with_the_greatest_numbers_are_taken() -> None:
    """The bounds of the numbers in a report are no fault of the server's."""
    fleet, log = Fleet(VirtualClock()), TenantLog()
    record = log.publish("a", "text").bundles[A]
    request = sync_pb2.WatchConfigRequest(tenant_id="acme")
    request.node.node_id = "n1"
    fleet.open("s1", request)
    stream = DrivenStream(request)
    stream.show(log.state)
    fleet.sent("s1", log.state.tenant_id, stream.moves[0].level, (), 1)
    for sequence in (2**32, 2**63 - 1, 2**33, 1):
        report = sync_pb2.ReportConfigStatusRequest(stream_id="s1", nonce="1", sequence=sequence)
        status = report.statuses.add(
            name=A,
            etag=record.etag,
            revision=2**63 - 1,
            phase=sync_pb2.CONFIG_PHASE_APPLIED,
            sessions=2**32 - 1,
        )
        status.time.seconds = 253_402_300_799
        fleet.report(report)
    assert fleet.node("n1").tenants[log.state.tenant_id].reports.sessions() == 2**32 - 1
