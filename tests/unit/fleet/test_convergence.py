"""Whether nodes run what they should."""

from __future__ import annotations

import pytest

from control_plane.fleet import Rollcall, Target, at_once
from tests.unit.fleet.fleet_world import (
    APPLIED,
    FAILED,
    RECEIVED,
    REVERTED,
    SALES,
    Level,
    World,
    label,
    watch,
)
from voxplane.names import agent_name
from voxplane.v1 import node_pb2, node_service_pb2

CONVERGED = node_pb2.CONVERGENCE_STATE_CONVERGED
PENDING = node_pb2.CONVERGENCE_STATE_PENDING
REFUSED = node_pb2.CONVERGENCE_STATE_FAILED
DISCONNECTED = node_pb2.CONVERGENCE_STATE_DISCONNECTED


def _target(world: World) -> Target:
    state = world.log.state
    return Target(state.tenant_id, state.revision, state.bundles)


def _called(rollcall: Rollcall) -> list[node_pb2.NodeConvergence]:
    response = node_service_pb2.WaitForConvergenceResponse()
    at_once(rollcall.answer(response.nodes))
    return list(response.nodes)


def _judged(world: World, target: Target, node: str = "n1") -> node_pb2.NodeConvergence:
    rollcall = Rollcall(target, 0)
    rollcall.see(node, world.fleet.node(node))
    (answer,) = _called(rollcall)
    return answer


def test_a_node_converges_when_it_has_applied() -> None:
    """Sent is not enough, nor is acknowledged: the node has to say APPLIED."""
    world = World()
    target = _target(world)
    assert _judged(world, target).state == PENDING
    world.send(1)
    world.report("1", world.status(RECEIVED))
    answer = _judged(world, target)
    assert (answer.state, answer.acked_revision) == (PENDING, 1)
    assert [(lag.name, lag.phase) for lag in answer.lagging] == [(SALES, RECEIVED)]
    world.report("", world.status(APPLIED))
    answer = _judged(world, target)
    assert (answer.state, list(answer.lagging)) == (CONVERGED, [])


def test_applied_without_an_ack_is_not_enough() -> None:
    """A node that has not taken the whole revision has not converged."""
    world = World()
    world.send(1)
    world.report("", world.status(APPLIED))
    assert _judged(world, _target(world)).state == PENDING


def test_a_refusal_is_final_and_says_why() -> None:
    """FAILED is the node's answer, with its error."""
    world = World()
    world.send(1)
    world.report("1", world.status(FAILED))
    answer = _judged(world, _target(world))
    assert (answer.state, answer.lagging[0].error.message) == (REFUSED, "no such model")


def test_a_refusal_beside_something_open_is_not_final() -> None:
    """A node that has refused one bundle and not yet answered for another may
    still come further."""
    world = World()
    world.log.publish("support", "Help.")
    world.send(1)
    world.report("1", world.status(FAILED))
    answer = _judged(world, _target(world))
    assert (answer.state, len(answer.lagging)) == (PENDING, 2)


def test_a_later_bundle_counts() -> None:
    """Who runs what came after the target runs the target; who refused it and
    runs what was before does not."""
    world = World()
    world.send(1)
    world.report("1", world.status(APPLIED))
    world.log.publish("sales", "Two.")
    target = _target(world)
    world.log.publish("sales", "Three.")
    world.send(2)
    world.report("2", world.status(FAILED))
    assert _judged(world, target).state == REFUSED
    world.log.publish("sales", "Four.")
    world.send(3)
    world.report("3", world.status(APPLIED))
    assert _judged(world, target).state == CONVERGED


def test_a_bundle_deleted_later_is_not_waited_for() -> None:
    """A node that is level with the bundle's deletion need not run it."""
    world = World()
    world.send(1)
    world.report("1")
    target = _target(world)
    world.log.delete("sales")
    world.fleet.sent("s1", world.log.state.tenant_id, Level(world.log.state), [SALES], 2)
    world.report("2")
    assert _judged(world, target).state == CONVERGED


def test_the_same_bundle_by_an_older_number_counts() -> None:
    """A node that kept a bundle from before runs the target if the etag is
    the same, unless it has been given another one since."""
    world = World()
    world.send(1)
    world.report("1", world.status(APPLIED))
    first = world.log.state
    world.log.publish("sales", "Two.")
    second = world.status(RECEIVED)
    world.log.point("sales", 1)
    world.send(None)
    target = _target(world)
    assert target.bundles[SALES].etag == first.bundles[SALES].etag
    assert target.bundles[SALES].revision == 3
    assert _judged(world, target).state == CONVERGED
    world.report("", second)
    assert _judged(world, target).state == PENDING


def test_a_node_without_a_stream() -> None:
    """A node that went before it converged is DISCONNECTED; one that had
    converged stays so."""
    world = World()
    world.send(1)
    world.report("1", world.status(RECEIVED))
    world.fleet.close("s1")
    assert _judged(world, _target(world)).state == DISCONNECTED
    world = World()
    world.send(1)
    world.report("1", world.status(APPLIED))
    world.fleet.close("s1")
    assert _judged(world, _target(world)).state == CONVERGED


def test_a_node_is_judged_on_what_it_watches() -> None:
    """A node with a filter answers for its agents; a node of all tenants for
    each tenant, also one that it was not sent yet."""
    world = World()
    world.log.publish("support", "Help.")
    request = watch("n2")
    request.agent_ids.append("sales")
    world.fleet.open("s2", request)
    assert [lag.name for lag in _judged(world, _target(world), "n2").lagging] == [SALES]
    world.send(1, stream="s2", only=frozenset({SALES}))
    world.report("1", world.status(APPLIED), stream="s2")
    assert _judged(world, _target(world), "n2").state == CONVERGED
    world.fleet.open("s3", watch("n3", tenant="-"))
    answer = _judged(world, _target(world), "n3")
    assert (answer.state, answer.acked_revision) == (PENDING, 0)
    assert {lag.name for lag in answer.lagging} == {SALES, agent_name("acme", "support")}


def test_a_watch_by_label_is_judged_on_its_labels() -> None:
    """A node that asks for a label answers for the agents that have it now."""
    world = World()
    label(world.log, "sales", team="red")
    world.log.publish("support", "Help.")
    request = watch("n2")
    request.agent_labels["team"] = "red"
    world.fleet.open("s2", request)
    assert [lag.name for lag in _judged(world, _target(world), "n2").lagging] == [SALES]
    world.send(1, stream="s2", only=frozenset({SALES}))
    world.report("1", world.status(APPLIED), stream="s2")
    assert _judged(world, _target(world), "n2").state == CONVERGED
    label(world.log, "support", team="red")
    assert [lag.name for lag in _judged(world, _target(world), "n2").lagging] == [
        agent_name("acme", "support")
    ]


def test_what_a_node_may_not_see_is_not_waited_for() -> None:
    """A bundle that a node's level has no place for, though it asked for it, is
    none of the node's."""
    world = World()
    world.send(1)
    world.report("1", world.status(APPLIED))
    world.log.publish("secret", "Hush.")
    assert _judged(world, _target(world)).state == PENDING
    world.send(2, only=frozenset({SALES}))
    world.report("2")
    assert _judged(world, _target(world)).state == CONVERGED


def test_given_up_after_it_was_applied() -> None:
    """A node that has given a bundle up again does not run it, whatever it said
    before; once it says APPLIED again, it does."""
    world = World()
    world.send(1)
    for phase, state in ((APPLIED, CONVERGED), (REVERTED, REFUSED), (APPLIED, CONVERGED), (FAILED, REFUSED)):
        world.report("1", world.status(phase))
        assert _judged(world, _target(world)).state == state


def test_the_answers_are_bounded() -> None:
    """Of many nodes that lag in many bundles the message names as much as it
    has room for, those that lag before those that do not, and counts tell."""
    world = World()
    for number in range(200):
        world.log.publish(f"agent-{number:03}-{'x' * 50}", "Sell.")
    rollcall = Rollcall(_target(world), 0)
    world.send(1)
    for number in range(1_000):
        world.fleet.open(f"t{number}", watch(f"m{number:04}-{'x' * 100}"))
    for node in world.fleet.ids():
        rollcall.see(node, world.fleet.find(node))
    answers = _called(rollcall)
    assert (rollcall.node_count, rollcall.converged_count, len(answers)) == (1_001, 0, 1_001)
    assert sum(answer.ByteSize() + 4 for answer in answers) < 2 * 1_048_576
    assert (answers[0].lagging_count, len(answers[0].lagging)) == (201, 100)
    assert (answers[-1].lagging_count, len(answers[-1].lagging)) == (201, 0)
    assert [answer.node_id for answer in answers] == world.fleet.ids()


def test_an_empty_tenant_has_converged_when_it_is_acked() -> None:
    """Where there is no bundle, the acknowledgement is all there is to wait
    for."""
    world = World()
    world.log.delete("sales")
    target = _target(world)
    world.send(1)
    assert _judged(world, target).state == PENDING
    world.report("1")
    assert _judged(world, target).state == CONVERGED


@pytest.mark.parametrize(("min_nodes", "over"), [(0, True), (1, False)])
def test_an_empty_fleet(min_nodes: int, over: bool) -> None:
    """An empty fleet has converged, unless nodes are asked for."""
    world = World()
    rollcall = Rollcall(_target(world), min_nodes)
    assert (rollcall.over, rollcall.converged) == (over, over)


def test_the_rollcall_follows_the_nodes() -> None:
    """It is over when each node has converged or refused, and converged when
    none refused; nodes that come later are called too, and those that are
    forgotten or watch other tenants are not."""
    world = World()
    rollcall = Rollcall(_target(world), 0)
    world.fleet.open("s2", watch("n2"))
    world.fleet.open("s3", watch("n3", tenant="globex"))
    for node in ("n1", "n2", "n3"):
        rollcall.see(node, world.fleet.node(node))
    assert [answer.node_id for answer in _called(rollcall)] == ["n1", "n2"]
    assert not rollcall.over
    world.send(1)
    world.report("1", world.status(APPLIED))
    rollcall.see("n1", world.fleet.node("n1"))
    assert not rollcall.over
    world.send(1, stream="s2")
    world.report("1", world.status(FAILED), stream="s2")
    rollcall.see("n2", world.fleet.node("n2"))
    assert (rollcall.over, rollcall.converged) == (True, False)
    rollcall.see("n2", None)
    assert (rollcall.over, rollcall.converged) == (True, True)


def test_reverted_is_a_refusal() -> None:
    """A node that gave a bundle up again has refused it."""
    world = World()
    world.send(1)
    world.report("1", world.status(APPLIED))
    world.log.publish("sales", "Two.")
    world.send(2)
    world.report("2", world.status(REVERTED))
    assert _judged(world, _target(world)).state == REFUSED
