"""Reports come late, twice or not at all."""

from __future__ import annotations

import pytest
from google.protobuf import any_pb2

from tests.unit.fleet.fleet_world import (
    APPLIED,
    FAILED,
    RECEIVED,
    REVERTED,
    SALES,
    Level,
    World,
    shown,
    watch,
)
from voxplane.names import TenantId, agent_name
from voxplane.v1 import node_pb2

ACME = TenantId("acme")
DAY = 86_400
NOON = 1_700_000_000


def _bundle(world: World) -> node_pb2.NodeBundle:
    (bundle,) = world.tenant().bundles
    return bundle


def test_a_gap_is_asked_for_once() -> None:
    """The first report that is missing is named when the one after it comes,
    and not again."""
    world = World()
    world.send(1)
    assert world.report("1", sequence=1) == 0
    assert world.report("1", world.status(RECEIVED), sequence=4) == 2
    assert world.report("1", world.status(APPLIED), sequence=5) == 0
    assert world.report("1", sequence=7) == 6


def test_a_first_report_may_be_missing() -> None:
    """A stream counts from 1, each stream for itself."""
    world = World()
    assert world.report("", sequence=2) == 1
    world.fleet.open("s2", watch("n1", start=1))
    assert world.report("", sequence=1, stream="s2") == 0


def test_what_was_reported_too_early_is_asked_for_once_all_was_sent() -> None:
    """A node that comes back tells at once what runs. Where the stream has not
    come to a tenant yet, that is asked for when it has come to all."""
    world = World()
    request = watch("n2", tenant="-")
    request.start_revisions["acme"].number = request.start_revisions["globex"].number = 1
    world.fleet.open("s2", request)
    assert world.report("", world.status(APPLIED), stream="s2", sequence=1) == 0
    level = Level(world.log.state)
    assert world.fleet.sent("s2", ACME, level, (), 1) == 0
    assert world.fleet.removed("s2", TenantId("globex")) == 1
    assert world.fleet.sent("s2", ACME, level, (), 2) == 0
    assert world.report("2", world.status(APPLIED), stream="s2", sequence=2) == 0
    (tenant,) = shown(world.fleet, "n2").tenants
    assert [bundle.status.phase for bundle in tenant.bundles] == [APPLIED]


def test_a_repeat_or_a_late_report_is_no_gap() -> None:
    """A report that comes again, or after one that overtook it, asks for
    nothing; nor do reports that are not counted."""
    world = World()
    world.send(1)
    assert [world.report("", sequence=number) for number in (1, 1, 3, 2, 3, 0, 4)] == [0, 0, 2, 0, 0, 0, 0]
    assert world.report("", sequence=9, stream="nobody's") == 0


def test_what_a_node_has_refused_is_known_by_etag() -> None:
    """The newest report of each bundle says whether its etag is refused; also
    after a reconnect of a node that still has the tenant."""
    world = World()
    world.log.publish("support", "Help.")
    world.send(1)
    assert world.fleet.refused("n1", ACME) == {}
    help_etag = world.log.state.bundles[agent_name("acme", "support")].etag
    sales_etag = world.log.state.bundles[SALES].etag
    reverted = world.status(REVERTED)
    reverted.name, reverted.etag = agent_name("acme", "support"), help_etag
    world.report("1", world.status(FAILED), reverted)
    refused = {SALES: sales_etag, agent_name("acme", "support"): help_etag}
    assert world.fleet.refused("n1", ACME) == refused
    world.fleet.close("s1")
    world.fleet.open("s2", watch("n1", start=1))
    assert world.fleet.refused("n1", ACME) == refused
    world.send(1, stream="s2")
    world.report("1", world.status(APPLIED), stream="s2")
    del refused[SALES]
    assert world.fleet.refused("n1", ACME) == refused
    assert world.fleet.refused("nobody", ACME) == {}
    assert world.fleet.refused("n1", TenantId("globex")) == {}


def test_a_tenant_that_is_removed_is_forgotten() -> None:
    """Of a tenant that is gone from the stream nothing is kept; a late report
    of it changes nothing."""
    world = World()
    world.send(1)
    world.report("1", world.status(FAILED))
    world.fleet.removed("s1", ACME)
    world.fleet.removed("nobody's", ACME)
    world.report("", world.status(FAILED))
    assert world.fleet.node("n1").tenants == {}
    assert world.fleet.refused("n1", ACME) == {}


@pytest.mark.parametrize("counted", [False, True])
def test_a_clock_that_goes_back_hides_nothing(counted: bool) -> None:
    """What a node says after its clock was set back by a day counts, on the
    same stream and on the next."""
    world = World()
    world.send(1)
    world.report("1", world.status(APPLIED, at=NOON), sequence=counted * 1)
    world.log.publish("sales", "Two.")
    world.send(2)
    world.report("2", world.status(RECEIVED, at=NOON - DAY), sequence=counted * 2)
    assert _bundle(world).status.phase == RECEIVED
    world.report("2", world.status(FAILED, at=NOON - DAY + 1), sequence=counted * 3)
    assert _bundle(world).status.phase == FAILED
    world.fleet.open("s2", watch("n1", start=2))
    world.send(1, stream="s2")
    world.report("1", world.status(APPLIED, at=NOON - 2 * DAY), stream="s2", sequence=counted * 1)
    bundle = _bundle(world)
    assert (bundle.status.phase, bundle.effective_etag) == (APPLIED, bundle.sent_etag)


def test_a_report_that_was_overtaken_is_not_the_newest() -> None:
    """Of counted reports the one with the greater number counts, whichever
    comes first; what the overtaken one alone tells still counts."""
    world = World()
    world.log.publish("support", "Help.")
    world.send(1)
    help_status = world.status(APPLIED)
    help_status.name = agent_name("acme", "support")
    help_status.etag = world.log.state.bundles[agent_name("acme", "support")].etag
    world.report("1", world.status(FAILED), sequence=2)
    world.report("1", world.status(RECEIVED), help_status, sequence=1)
    assert [bundle.status.phase for bundle in world.tenant().bundles] == [FAILED, APPLIED]


def test_given_up_and_told_out_of_order() -> None:
    """APPLIED that comes after the REVERTED that followed it does not count."""
    world = World()
    world.send(1)
    world.report("1", world.status(REVERTED), sequence=2)
    world.report("1", world.status(APPLIED), sequence=1)
    assert (_bundle(world).status.phase, _bundle(world).effective_etag) == (REVERTED, "")


def test_the_same_number_again_says_nothing() -> None:
    """A report whose number has come is not read, whatever it says."""
    world = World()
    world.send(1)
    world.report("1", world.status(APPLIED), sequence=1)
    assert world.report("1", world.status(FAILED), sequence=1) == 0
    assert _bundle(world).status.phase == APPLIED


def test_a_number_out_of_all_proportion_is_none() -> None:
    """A number far ahead neither asks for anything nor hides later reports."""
    world = World()
    world.send(1)
    assert world.report("1", world.status(RECEIVED), sequence=2**63 - 1) == 0
    assert world.report("1", world.status(APPLIED), sequence=1) == 0
    assert _bundle(world).status.phase == APPLIED


def test_failed_survives_signs_of_life_and_reconnects() -> None:
    """Reports that say nothing of the bundle, acknowledgements and a new
    stream leave FAILED as it is, with its reason."""
    world = World()
    world.send(1)
    world.report("1", world.status(FAILED), sequence=1)
    world.report("1", sequence=2)
    world.log.rename("sales", "Sales")
    world.send(None)
    for stream in ("s2", "s3"):
        world.fleet.open(stream, watch("n1", start=1))
        world.send(1, stream=stream)
        world.report("1", stream=stream, sequence=1)
    assert (_bundle(world).status.phase, _bundle(world).status.error.message) == (FAILED, "no such model")


def test_what_was_not_answered_on_the_last_stream_is_not_answered_on_the_next() -> None:
    """Nonces of an earlier stream mean nothing on a new one."""
    world = World()
    for nonce in (1, 2, 3):
        world.send(nonce)
        world.log.publish("sales", f"{nonce}.")
    world.report("1")
    world.fleet.open("s2", watch("n1", start=1))
    world.send(1, stream="s2")
    world.log.publish("sales", "More.")
    world.send(2, stream="s2")
    assert world.tenant().acked_revision.number == 1
    world.report("1", stream="s2")
    assert world.tenant().acked_revision.number == 4


def test_a_report_without_news_wakes_nobody() -> None:
    """What was said before, or of no bundle of the node's, is answered and is
    no change; nor is another count of sessions."""
    world = World()
    world.send(1)
    world.report("1", world.status(FAILED), sequence=1)
    with world.fleet.follow() as changes:
        world.report("1", world.status(FAILED), sequence=1)
        world.report("1", world.status(FAILED, at=NOON), sequence=2)
        busy = world.status(FAILED)
        busy.sessions = 7
        world.report("", busy, sequence=3)
        world.report("1", sequence=4)
        assert not changes.any
        assert _bundle(world).status.sessions == 7
        world.report("1", world.status(APPLIED), sequence=5)
        assert changes.any


def test_a_long_error_is_cut() -> None:
    """Of a huge error the start of its message is kept, and the details that
    fit; the next such report is no news."""
    world = World()
    world.send(1)
    status = world.status(FAILED)
    status.error.message = "long " * 2_000
    status.error.details.append(any_pb2.Any(type_url="x/huge", value=b"x" * 100_000))
    status.error.details.append(any_pb2.Any(type_url="x/small", value=b"x"))
    world.report("1", status)
    kept = _bundle(world).status.error
    assert kept.message.startswith("long long")
    assert [detail.type_url for detail in kept.details] == ["x/small"]
    assert kept.ByteSize() < 1_000
    with world.fleet.follow() as changes:
        world.report("", status)
        assert not changes.any


def test_a_time_that_cannot_be_is_kept_as_near_as_may_be() -> None:
    """Whatever date a node gives, its report is taken."""
    world = World()
    world.send(1)
    status = world.status(APPLIED)
    status.time.seconds = 253_402_300_799
    world.report("1", status)
    assert _bundle(world).status.time.ToDatetime().year == 2262


def test_a_tenant_that_comes_back_is_watched_again() -> None:
    """A node that lost a tenant of all is not waited for there, until it is
    sent the tenant again; nor is one that was never allowed to see it."""
    world = World()
    world.fleet.open("s2", watch("n2", tenant="-"))

    def called() -> list[str]:
        return [node for node in world.fleet.ids("acme") if world.fleet.node(node).watches("acme")]

    assert called() == ["n1", "n2"]
    world.fleet.removed("s2", ACME)
    assert called() == ["n1"]
    world.send(1, stream="s2")
    assert called() == ["n1", "n2"]
    world.fleet.removed("s1", ACME)
    assert called() == ["n2"]
