"""Reports come late, twice or not at all."""

from __future__ import annotations

from tests.unit.fleet.fleet_world import APPLIED, FAILED, RECEIVED, REVERTED, SALES, World, watch
from voxplane.names import TenantId, agent_name

ACME = TenantId("acme")


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
