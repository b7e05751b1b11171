"""What the fleet knows of its nodes."""

from __future__ import annotations

import pytest

from control_plane.fleet import Fleet
from tests.unit.fleet.fleet_world import APPLIED, FAILED, RECEIVED, SALES, Level, World, shown, watch
from tests.unit.watch.tenant_log import TenantLog
from tests.virtual_clock import VirtualClock
from voxplane.errors import VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2


def test_sent_acked_and_effective_are_three_things() -> None:
    """What was sent is not acked, and what is acked is not effective, until
    the node says so."""
    world = World()
    world.send(1)
    assert (world.tenant().sent_revision.number, world.tenant().acked_revision.number) == (1, 0)
    world.report("1", world.status(RECEIVED))
    assert world.tenant().acked_revision.number == 1
    bundle = world.tenant().bundles[0]
    assert (bundle.status.phase, bundle.effective_etag) == (RECEIVED, "")
    world.report("", world.status(APPLIED))
    etag = world.log.state.bundles[SALES].etag
    assert world.tenant().bundles[0].effective_etag == etag == world.tenant().bundles[0].sent_etag


def test_an_ack_covers_the_earlier_messages() -> None:
    """Nonce 2 acknowledges 1 too, and nothing of 3; an older one takes
    nothing back."""
    world = World()
    for nonce in (1, 2, 3):
        world.send(nonce)
        world.log.publish("sales", f"Sell {nonce}.")
    world.report("2")
    assert world.tenant().acked_revision.number == 2
    world.report("1")
    assert world.tenant().acked_revision.number == 2


def test_a_level_without_a_message_needs_no_ack() -> None:
    """When all that was sent is acked, a commit that changes no bundle counts
    as acked; while something is not, it does not."""
    world = World()
    world.send(1)
    world.log.rename("sales", "Sales")
    world.send(None)
    assert world.tenant().acked_revision.number == 0
    world.report("1")
    assert world.tenant().acked_revision.number == 2
    world.log.rename("sales", "Sales 2")
    world.send(None)
    assert (world.tenant().sent_revision.number, world.tenant().acked_revision.number) == (3, 3)


def test_messages_without_an_ack_are_bounded() -> None:
    """Of a node that never answers little is remembered, and a late
    acknowledgement still counts for something that was sent before it."""
    world = World()
    for nonce in range(1, 1_001):
        world.send(nonce)
        world.log.rename("sales", f"{nonce}")
    record = world.fleet.node("n1").tenants[world.log.state.tenant_id]
    assert len(record.unacked) < 100
    world.report("990")
    assert 900 < world.tenant().acked_revision.number <= 990
    world.report("1000")
    assert world.tenant().acked_revision.number == 1_000


def test_failed_survives_reports_of_other_things() -> None:
    """FAILED stays, with its error, until there is newer news of the bundle."""
    world = World()
    world.send(1)
    world.report("1", world.status(APPLIED, at=10))
    old = world.status(APPLIED, at=11)
    world.log.publish("sales", "Sell more.")
    world.send(2)
    world.report("2", world.status(FAILED, at=20))
    world.report("2")
    world.report("", old)
    bundle = world.tenant().bundles[0]
    assert (bundle.status.phase, bundle.status.error.message) == (FAILED, "no such model")
    assert bundle.effective_revision == 1
    world.log.publish("sales", "Sell better.")
    world.send(3)
    world.report("3", world.status(RECEIVED, at=30))
    bundle = world.tenant().bundles[0]
    assert (bundle.status.phase, bundle.status.HasField("error")) == (RECEIVED, False)


def test_a_report_of_what_was_not_sent_is_passed_over() -> None:
    """Names of other tenants, of unknown bundles and no names at all change
    nothing."""
    world = World()
    world.send(1)
    status = world.status(APPLIED)
    for name in ("tenants/globex/agents/sales", "tenants/acme/agents/none", "nonsense"):
        status.name = name
        world.report("", status)
    assert not world.tenant().bundles[0].HasField("status")


def test_a_removed_bundle_takes_its_reports_along() -> None:
    """A bundle that is deleted and made again starts without a status."""
    world = World()
    world.send(1)
    world.report("1", world.status(FAILED))
    world.log.delete("sales")
    world.fleet.sent("s1", world.log.state.tenant_id, Level(world.log.state), [SALES], 2)
    world.log.publish("sales", "Again.")
    world.send(3)
    assert not world.tenant().bundles[0].HasField("status")


def test_what_the_client_had_is_not_called_sent() -> None:
    """A bundle that a resumed client declared has no sent etag."""
    world = World()
    level = Level(world.log.state, frozenset({SALES}))
    world.fleet.sent("s1", world.log.state.tenant_id, level, (), 1)
    assert world.tenant().bundles[0].sent_etag == ""


def test_the_newest_stream_of_a_node_counts() -> None:
    """A second stream takes the node over; the first one's end changes
    nothing, and its reports are nobody's."""
    world = World()
    world.send(1)
    assert world.fleet.open("s2", watch("n1")) == "s1"
    world.fleet.close("s1")
    assert shown(world.fleet).connected
    world.send(1, stream="s2")
    world.report("1", stream="s1")
    assert world.tenant().acked_revision.number == 0


def test_a_node_that_resumes_keeps_its_reports() -> None:
    """A node that comes back with its tenant on disk is shown with what it
    reported and declared; one that comes with nothing starts anew."""
    world = World()
    world.send(1)
    world.report("1", world.status(FAILED))
    world.fleet.close("s1")
    assert not shown(world.fleet).connected
    assert world.fleet.open("s2", watch("n1", start=1)) == ""
    world.send(1, stream="s2")
    assert (world.tenant().acked_revision.number, world.tenant().bundles[0].status.phase) == (1, FAILED)
    world.fleet.open("s3", watch("n1"))
    world.send(1, stream="s3")
    assert world.tenant().acked_revision.number == 0
    assert not world.tenant().bundles[0].HasField("status")


def test_a_bundle_that_went_while_the_node_was_away_takes_its_reports_along() -> None:
    """What the node comes back to is as many bundles, but not the same: nothing
    that it said of one that is gone counts."""
    world = World()
    world.send(1)
    world.report("1", world.status(FAILED))
    assert world.tenant().refused_count == 1
    world.log.delete("sales")
    world.log.publish("billing", "Bill.")
    world.fleet.open("s2", watch("n1", start=1))
    world.send(1, stream="s2")
    assert world.tenant().refused_count == 0


def test_another_epoch_starts_anew() -> None:
    """What a node acknowledged and reported of another history is dropped."""
    world = World()
    world.send(1)
    world.report("1", world.status(APPLIED))
    world.log = TenantLog(epoch="epoch-2")
    world.log.publish("sales", "Sell.")
    world.send(2)
    assert world.tenant().acked_revision.number == 0
    assert world.tenant().bundles[0].effective_etag == ""


async def test_a_node_that_stays_away_is_forgotten() -> None:
    """A node without a stream is shown as disconnected for five minutes."""
    world = World()
    world.fleet.close("s1")
    await world.clock.advance(299)
    assert not shown(world.fleet).connected
    await world.clock.advance(2)
    with pytest.raises(VoxplaneError) as caught:
        world.fleet.node("n1")
    assert caught.value.reason == reason_pb2.ERROR_REASON_NODE_NOT_FOUND


def test_the_number_of_nodes_is_bounded() -> None:
    """A new node takes the place of the one that is gone longest; if all are
    there, it is refused."""
    fleet = Fleet(VirtualClock(), nodes_max=2)
    fleet.open("s1", watch("n1"))
    fleet.open("s2", watch("n2"))
    with pytest.raises(VoxplaneError) as caught:
        fleet.open("s3", watch("n3"))
    assert caught.value.reason == reason_pb2.ERROR_REASON_LIMIT_REACHED
    fleet.close("s2")
    fleet.open("s3", watch("n3"))
    assert fleet.ids() == ["n1", "n3"]


async def test_followers_learn_what_changed() -> None:
    """Who follows the fleet is told the nodes that changed since it looked,
    each once; a repeated report is no change."""
    world = World()
    world.send(1)
    with world.fleet.follow() as changes:
        world.report("1", world.status(RECEIVED, at=1))
        world.report("1", world.status(APPLIED, at=2))
        assert await changes.next() == {"n1"}
        world.fleet.open("s2", watch("n2"))
        world.fleet.close("s1")
        assert await changes.next() == {"n1", "n2"}
        world.fleet.close("s1")
        changes.wake()
