"""NodeService over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from tests.unit.fleet.fleet_world import Level
from tests.unit.server.in_process import refusal
from tests.unit.watch.reference_client import ReferenceClient
from tests.unit.watch.watch_server import WatchServer, report, watch_server
from voxplane.names import TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import node_pb2, node_service_pb2

FAILED = sync_pb2.CONFIG_PHASE_FAILED


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[WatchServer]:
    """A control plane in virtual time."""
    async with watch_server(tmp_path) as running:
        yield running


def _wait(revision: int = 0, min_nodes: int = 0) -> node_service_pb2.WaitForConvergenceRequest:
    return node_service_pb2.WaitForConvergenceRequest(
        tenant_id="acme", revision=revision, min_nodes=min_nodes
    )


async def _waiting(
    server: WatchServer, request: node_service_pb2.WaitForConvergenceRequest
) -> asyncio.Task[node_service_pb2.WaitForConvergenceResponse]:
    """A call that waits, once the server has it."""
    before = server.clock.sleeping

    async def call() -> node_service_pb2.WaitForConvergenceResponse:
        return await server.nodes.WaitForConvergence(request)

    task = asyncio.create_task(call())
    while server.clock.sleeping == before and not task.done():  # noqa: ASYNC110 - the clock tells no one
        await asyncio.sleep(0)
    return task


async def test_convergence_is_waited_for(server: WatchServer) -> None:
    """The call returns when the last node has reported APPLIED."""
    await server.create("sales")
    async with (
        server.watch(ReferenceClient("acme"), "n1") as one,
        server.watch(ReferenceClient("-"), "n2") as two,
    ):
        first, second = await one.next(), await two.next()
        waiting = await _waiting(server, _wait(revision=1, min_nodes=2))
        await server.sync.ReportConfigStatus(report(first))
        await server.clock.advance(3)
        assert not waiting.done()
        await server.sync.ReportConfigStatus(report(second))
        answer = await waiting
    assert answer.converged
    assert [(node.node_id, node.state) for node in answer.nodes] == [
        ("n1", node_pb2.CONVERGENCE_STATE_CONVERGED),
        ("n2", node_pb2.CONVERGENCE_STATE_CONVERGED),
    ]
    assert (answer.revision.number, answer.waited.ToSeconds()) == (1, 3)


async def test_a_refusal_ends_the_wait(server: WatchServer) -> None:
    """When no node can come further the call returns, with the reason."""
    await server.create("sales")
    async with server.watch(ReferenceClient("acme"), "n1") as watcher:
        message = await watcher.next()
        waiting = await _waiting(server, _wait())
        failed = report(message, phase=FAILED)
        failed.statuses[0].error.message = "no such model"
        await server.sync.ReportConfigStatus(failed)
        answer = await waiting
    assert not answer.converged
    assert answer.nodes[0].state == node_pb2.CONVERGENCE_STATE_FAILED
    assert answer.nodes[0].lagging[0].error.message == "no such model"


async def test_the_wait_has_an_end(server: WatchServer) -> None:
    """After the timeout the call says who is still on its way."""
    await server.create("sales")
    async with server.watch(ReferenceClient("acme"), "n1") as watcher:
        await watcher.next()
        waiting = await _waiting(server, _wait())
        await server.clock.advance(9)
        assert not waiting.done()
        await server.clock.advance(1)
        answer = await waiting
    assert (answer.converged, answer.nodes[0].state) == (False, node_pb2.CONVERGENCE_STATE_PENDING)
    assert answer.waited.ToSeconds() == 10


async def test_a_timeout_of_zero_only_looks(server: WatchServer) -> None:
    """With no time to wait the call says how things stand."""
    await server.create("sales")
    async with server.watch(ReferenceClient("acme"), "n1") as watcher:
        await watcher.next()
        request = _wait()
        request.timeout.SetInParent()
        answer = await server.nodes.WaitForConvergence(request)
    assert (answer.converged, len(answer.nodes)) == (False, 1)


async def test_an_empty_fleet_has_converged(server: WatchServer) -> None:
    """Without nodes there is nothing to wait for, unless nodes are asked for;
    then the call waits for one to come."""
    await server.create("sales")
    assert (await server.nodes.WaitForConvergence(_wait())).converged
    waiting = await _waiting(server, _wait(min_nodes=1))
    assert not waiting.done()
    async with server.watch(ReferenceClient("acme"), "n1") as watcher:
        await server.sync.ReportConfigStatus(report(await watcher.next()))
        assert (await waiting).converged


async def test_a_revision_that_was_not_made_cannot_be_waited_for(server: WatchServer) -> None:
    """A revision from the future is OUT_OF_RANGE at once."""
    await server.create("sales")
    refused = await refusal(server.nodes.WaitForConvergence(_wait(revision=2)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_IN_FUTURE")


async def test_a_commit_without_a_difference_converges_by_itself(server: WatchServer) -> None:
    """A revision that changed no bundle is converged where the one before was."""
    await server.create("sales")
    async with server.watch(ReferenceClient("acme"), "n1") as watcher:
        await server.sync.ReportConfigStatus(report(await watcher.next()))
        revision = await server.draft("sales")
        answer = await server.nodes.WaitForConvergence(_wait(revision=revision))
    assert (answer.converged, answer.nodes[0].acked_revision) == (True, revision)


async def test_nodes_are_listed_in_pages(server: WatchServer) -> None:
    """ListNodes goes by id, page by page, and by tenant; a token is good for
    its own list alone."""
    await server.create("sales")
    await server.create("sales", tenant="globex")
    async with (
        server.watch(ReferenceClient("acme"), "n1") as one,
        server.watch(ReferenceClient("globex"), "n2") as two,
        server.watch(ReferenceClient("-"), "n3") as three,
    ):
        for watcher in (one, two, three):
            await watcher.next()
        first = await server.nodes.ListNodes(node_service_pb2.ListNodesRequest(page_size=2))
        assert [node.node_id for node in first.nodes] == ["n1", "n2"]
        rest = node_service_pb2.ListNodesRequest(page_size=2, page_token=first.next_page_token)
        second = await server.nodes.ListNodes(rest)
        assert ([node.node_id for node in second.nodes], second.next_page_token) == (["n3"], "")
        of_acme = await server.nodes.ListNodes(node_service_pb2.ListNodesRequest(tenant_id="acme"))
        assert [node.node_id for node in of_acme.nodes] == ["n1", "n3"]
        rest.tenant_id = "acme"
        assert (await refusal(server.nodes.ListNodes(rest))).reason == "PAGE_TOKEN"


async def test_an_unknown_node_is_not_found(server: WatchServer) -> None:
    """GetNode of nobody is NOT_FOUND with its reason."""
    refused = await refusal(server.nodes.GetNode(node_service_pb2.GetNodeRequest(node_id="nobody")))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "NODE_NOT_FOUND")


async def test_the_fleet_is_shown_by_agent(server: WatchServer) -> None:
    """GetFleetStatus goes by name, page by page, and tells how far each agent
    has come; a token is good for its own list alone."""
    for agent in ("a", "b", "c"):
        await server.create(agent)
    async with (
        server.watch(ReferenceClient("acme"), "n1") as one,
        server.watch(ReferenceClient("-"), "n2") as two,
        server.watch(ReferenceClient("globex"), "n3"),
    ):
        await server.sync.ReportConfigStatus(report(await one.next()))
        await server.sync.ReportConfigStatus(report(await two.next(), phase=FAILED))
        request = node_service_pb2.GetFleetStatusRequest(tenant_id="acme", page_size=2)
        first = await server.nodes.GetFleetStatus(request)
        assert [agent.name.rpartition("/")[2] for agent in first.agents] == ["a", "b"]
        assert (first.nodes, first.connected, first.revision.number) == (2, 2, 3)
        for agent in first.agents:
            assert (agent.nodes, agent.sent, agent.acked) == (2, 2, 2)
            assert (agent.effective, agent.refused) == (1, 1)
            assert [(lagging.node_id, lagging.phase) for lagging in agent.lagging] == [("n2", FAILED)]
        request.page_token = first.next_page_token
        second = await server.nodes.GetFleetStatus(request)
        assert [agent.name.rpartition("/")[2] for agent in second.agents] == ["c"]
        assert not second.next_page_token
        request.agent_ids.append("b")
        assert (await refusal(server.nodes.GetFleetStatus(request))).reason == "PAGE_TOKEN"
        request.page_token = ""
        request.agent_ids.append("nobody")
        named = await server.nodes.GetFleetStatus(request)
        assert [agent.name.rpartition("/")[2] for agent in named.agents] == ["b"]
        assert not named.next_page_token


async def test_the_fleet_of_no_tenant(server: WatchServer) -> None:
    """A tenant that has nothing is an empty list; no agent that is asked for
    is not all of them."""
    await server.create("sales")
    empty = node_service_pb2.GetFleetStatusRequest(tenant_id="globex")
    assert not (await server.nodes.GetFleetStatus(empty)).agents
    nobody = node_service_pb2.GetFleetStatusRequest(tenant_id="acme", agent_ids=["nobody"])
    assert not (await server.nodes.GetFleetStatus(nobody)).agents


async def test_a_long_fleet_status_ends_its_page_early(server: WatchServer) -> None:
    """A page that has become too large ends, and the next one goes on, until
    each agent was shown once."""
    agents = [f"agent-{number:02}" for number in range(20)]
    for agent in agents:
        await server.create(agent)
    async with server.watch(ReferenceClient("acme"), "n1") as watcher:
        failed = report(await watcher.next(), phase=FAILED)
        for status in failed.statuses:
            status.error.message = "no such model"
            status.error.details.add(type_url="x/large", value=b"x" * 3_000)
        for number in range(60):
            request = ReferenceClient("acme").request(f"m{number}")
            server.control_plane.fleet.open(f"t{number}", request)
            state = await server.control_plane.tenants.get(TenantId("acme"))
            server.control_plane.fleet.sent(f"t{number}", state.tenant_id, Level(state), (), 1)
            failed.stream_id = f"t{number}"
            server.control_plane.fleet.report(failed)
        shown: list[str] = []
        request = node_service_pb2.GetFleetStatusRequest(tenant_id="acme")
        pages = 0
        while True:
            page = await server.nodes.GetFleetStatus(request)
            shown += [agent.name.rpartition("/")[2] for agent in page.agents]
            pages += 1
            assert page.ByteSize() < 2_000_000
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    assert (shown, pages) == (agents, 4)


async def test_a_node_is_shown_in_part(server: WatchServer) -> None:
    """A tenant of a node, an agent of that, or counts alone."""
    await server.create("a")
    await server.create("b")
    await server.create("a", tenant="globex")
    async with server.watch(ReferenceClient("-"), "n1") as watcher:
        await watcher.until("acme", 2)
        await watcher.until("globex", 1)
        request = node_service_pb2.GetNodeRequest(node_id="n1")
        whole = (await server.nodes.GetNode(request)).node
        assert [(t.tenant_id, len(t.bundles)) for t in whole.tenants] == [("acme", 2), ("globex", 1)]
        request.tenant_id = "acme"
        request.agent_ids.append("b")
        (tenant,) = (await server.nodes.GetNode(request)).node.tenants
        assert ([bundle.name for bundle in tenant.bundles], tenant.bundle_count) == (
            ["tenants/acme/agents/b"],
            2,
        )
        request.tenant_id = ""
        assert (await refusal(server.nodes.GetNode(request))).code == grpc.StatusCode.INVALID_ARGUMENT
        basic = node_service_pb2.ListNodesRequest(view=node_pb2.NODE_VIEW_BASIC)
        (node,) = (await server.nodes.ListNodes(basic)).nodes
        assert [(t.bundle_count, len(t.bundles)) for t in node.tenants] == [(2, 0), (1, 0)]
