"""What the fleet has of each agent: sent, acknowledged, effective, refused."""

from __future__ import annotations

import asyncio

from control_plane.fleet import Fleet, Survey, Target, at_once, in_turns, node_message, survey_answers
from tests.unit.fleet.fleet_world import (
    APPLIED,
    FAILED,
    RECEIVED,
    SALES,
    Level,
    World,
    label,
    shown,
    watch,
)
from voxplane.names import agent_name
from voxplane.v1 import node_pb2

SUPPORT = agent_name("acme", "support")


def _status(world: World, fleet: Fleet | None = None) -> dict[str, node_pb2.AgentFleetStatus]:
    state, fleet = world.log.state, fleet or world.fleet
    survey = Survey(Target(state.tenant_id, state.revision, state.bundles))
    for node in fleet.ids(state.tenant_id):
        survey.see(fleet.node(node))
    answers = at_once(survey_answers(survey, state.bundles.values(), 10_000_000))
    return {answer.name: answer for answer in answers}


def _counts(status: node_pb2.AgentFleetStatus) -> tuple[int, int, int, int, int]:
    return status.nodes, status.sent, status.acked, status.effective, status.refused


def test_a_bundle_is_counted_as_far_as_it_has_come() -> None:
    """Sent, acknowledged and effective rise one after the other; the node is
    named until it runs the bundle."""
    world = World()
    assert _counts(_status(world)[SALES]) == (1, 0, 0, 0, 0)
    world.send(1)
    assert _counts(_status(world)[SALES]) == (1, 1, 0, 0, 0)
    world.report("1", world.status(RECEIVED))
    status = _status(world)[SALES]
    assert _counts(status) == (1, 1, 1, 0, 0)
    (lagging,) = status.lagging
    assert (lagging.node_id, lagging.connected, lagging.sent, lagging.acked) == ("n1", True, True, True)
    assert (lagging.phase, lagging.effective_etag) == (RECEIVED, "")
    world.report("1", world.status(APPLIED))
    status = _status(world)[SALES]
    assert (_counts(status), list(status.lagging)) == ((1, 1, 1, 1, 0), [])


def test_a_refusal_is_counted_and_explained() -> None:
    """A node that refuses the new bundle runs the one before, and says why."""
    world = World()
    world.send(1)
    world.report("1", world.status(APPLIED))
    old = world.log.state.bundles[SALES]
    world.log.publish("sales", "Two.")
    world.send(2)
    world.report("2", world.status(FAILED))
    status = _status(world)[SALES]
    assert _counts(status) == (1, 1, 1, 0, 1)
    (lagging,) = status.lagging
    assert (lagging.effective_etag, lagging.effective_revision) == (old.etag, old.revision)
    assert (lagging.phase, lagging.error.message) == (FAILED, "no such model")


def test_it_is_the_content_that_counts() -> None:
    """APPLIED of something else is not the bundle, whatever its phase; and what
    was refused before counts no more when the bundle has changed."""
    world = World()
    world.send(1)
    other = world.status(APPLIED)
    other.etag = "0" * 32
    world.report("1", other)
    assert _counts(_status(world)[SALES]) == (1, 1, 1, 0, 0)
    world.report("1", world.status(FAILED))
    assert _counts(_status(world)[SALES]) == (1, 1, 1, 0, 1)
    world.log.publish("sales", "Two.")
    status = _status(world)[SALES]
    assert (_counts(status), status.lagging[0].phase) == ((1, 0, 0, 0, 0), 0)


def test_an_unchanged_bundle_of_a_new_revision_is_had() -> None:
    """A commit to another agent takes nothing back of this one."""
    world = World()
    world.send(1)
    world.report("1", world.status(APPLIED))
    world.log.publish("support", "Help.")
    assert _counts(_status(world)[SALES]) == (1, 1, 1, 1, 0)
    world.send(2)
    assert _counts(_status(world)[SALES]) == (1, 1, 1, 1, 0)
    assert _counts(_status(world)[SUPPORT]) == (1, 1, 0, 0, 0)


def test_what_a_node_had_when_it_came_is_sent_and_acked() -> None:
    """A node that declared the bundle need not be sent it."""
    world = World()
    world.fleet.open("s2", watch("n2", start=1))
    level = Level(world.log.state, unsent=frozenset({SALES}))
    world.fleet.sent("s2", world.log.state.tenant_id, level, (), 1)
    assert _counts(_status(world)[SALES]) == (2, 1, 1, 0, 0)


def test_nodes_count_where_they_watch() -> None:
    """Names, labels and tenants narrow what a node is counted for."""
    world = World()
    world.log.publish("support", "Help.")
    label(world.log, "support", team="red")
    by_name, by_label = watch("n2"), watch("n3")
    by_name.agent_ids.append("sales")
    by_label.agent_labels["team"] = "red"
    world.fleet.open("s2", by_name)
    world.fleet.open("s3", by_label)
    world.fleet.open("s4", watch("n4", tenant="-"))
    world.fleet.open("s5", watch("n5", tenant="globex"))
    status = _status(world)
    assert [lagging.node_id for lagging in status[SALES].lagging] == ["n1", "n2", "n4"]
    assert [lagging.node_id for lagging in status[SUPPORT].lagging] == ["n1", "n3", "n4"]
    assert world.fleet.ids("acme") == ["n1", "n2", "n3", "n4"]
    assert world.fleet.ids("globex", after="n4") == ["n5"]


def test_a_node_that_has_gone_is_still_counted() -> None:
    """It is named as not connected, with what it last ran."""
    world = World()
    world.send(1)
    world.fleet.close("s1")
    (lagging,) = _status(world)[SALES].lagging
    assert (lagging.connected, lagging.sent) == (False, True)


def test_the_nodes_that_are_named_are_bounded() -> None:
    """The first hundred by id are named; all are counted, whatever level they
    are at."""
    world = World()
    for number in range(200):
        stream = f"t{number}"
        world.fleet.open(stream, watch(f"m{number:03}"))
        if number % 2:
            world.log.publish("other", f"{number}.")
            world.send(1, stream=stream)
    status = _status(world)[SALES]
    assert _counts(status) == (201, 100, 0, 0, 0)
    assert [lagging.node_id for lagging in status.lagging] == [f"m{number:03}" for number in range(100)]


def test_a_node_of_very_much_is_cut() -> None:
    """A node's message has room for so much; the counts tell of all."""
    world = World()
    for number in range(50):
        world.log.publish(f"agent-{number:02}", "Sell.")
    world.send(1)
    world.report("1", world.status(FAILED))
    whole = shown(world.fleet)
    assert (len(whole.tenants), len(whole.tenants[0].bundles)) == (1, 51)
    node = world.fleet.node("n1")
    cut = at_once(node_message(node, bytes_max=1_000))
    assert cut.ByteSize() <= 1_000
    assert 0 < len(cut.tenants[0].bundles) < 51
    (tenant,) = at_once(node_message(node, with_bundles=False)).tenants
    assert (tenant.bundle_count, tenant.effective_count, tenant.refused_count) == (51, 0, 1)
    assert (list(tenant.bundles), tenant.sent_revision.number) == ([], 51)
    nothing = at_once(node_message(node, bytes_max=10))
    assert (list(nothing.tenants), nothing.tenant_count) == ([], 1)
    assert not at_once(node_message(node, tenant_id="globex")).tenants
    (tenant,) = at_once(node_message(node, tenant_id="acme", names={SALES, SUPPORT})).tenants
    assert [bundle.name for bundle in tenant.bundles] == [SALES]


async def test_others_have_their_turn() -> None:
    """While many nodes are looked at, the loop turns every few milliseconds of
    work."""
    world = World()
    for number in range(100):
        world.log.publish(f"agent-{number:02}", "Sell.")
    for number in range(500):
        world.fleet.open(f"t{number}", watch(f"m{number:03}"))
        world.send(1, stream=f"t{number}")
        world.report("1", world.status(APPLIED), stream=f"t{number}")
    state = world.log.state
    survey = Survey(Target(state.tenant_id, state.revision, state.bundles))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(others())
    await in_turns(survey.see(world.fleet.node(node)) for node in world.fleet.ids("acme"))
    task.cancel()
    assert turns > 5
