"""`voxplane nodes fleet` against a real control plane and nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.rpc import error_details_pb2

from tests.unit.cli.processes import Result, voxplane
from tests.unit.server.in_process import Served, served
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc

APPLIED = sync_pb2.CONFIG_PHASE_APPLIED
FAILED = sync_pb2.CONFIG_PHASE_FAILED


@dataclass
class Site:
    """A control plane with the agents `a` and `b`."""

    control_plane: Served
    server: str

    async def fleet(self, line: str = "") -> Result:
        """`voxplane nodes fleet`."""
        return await voxplane("nodes", "fleet", *line.split(), server=self.server)

    @asynccontextmanager
    async def node(self, name: str) -> AsyncGenerator[Node]:
        """A node that has the agents and has said nothing."""
        stub = sync_grpc.ConfigSyncServiceStub(self.control_plane.channel)
        info = sync_pb2.NodeInfo(node_id=name)
        call = stub.WatchConfig(sync_pb2.WatchConfigRequest(tenant_id="demo", node=info))
        try:
            message = await call.read()
            assert isinstance(message, sync_pb2.WatchConfigResponse)
            yield Node(stub, message)
        finally:
            call.cancel()


@dataclass
class Node:
    """One stream, and what it brought."""

    stub: sync_grpc.ConfigSyncServiceAsyncStub
    message: sync_pb2.WatchConfigResponse

    async def says(self, **phases: sync_pb2.ConfigPhase) -> None:
        """Report phases, by agent."""
        report = sync_pb2.ReportConfigStatusRequest(
            stream_id=self.message.stream_id, nonce=self.message.nonce
        )
        for bundle in self.message.transfer.bundles:
            phase = phases[bundle.name.rpartition("/")[2]]
            status = report.statuses.add(
                name=bundle.name, etag=bundle.etag, revision=bundle.revision, phase=phase
            )
            if phase == FAILED:
                status.error.message = "cannot be built [x]"
                violations = error_details_pb2.BadRequest()
                violations.field_violations.add(field="config.llm_config.model", description="no such one")
                status.error.details.add().Pack(violations)
        await self.stub.ReportConfigStatus(report)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A control plane for the test."""
    async with served(tmp_path) as running:
        for agent in ("a", "b"):
            request = agents_pb2.CreateAgentRequest(tenant_id="demo", agent_id=agent)
            request.config.llm_config.provider = "offline"
            await running.agents.CreateAgent(request)
        yield Site(running, f"unix:{tmp_path}/s.sock")


async def test_counts_and_reasons(site: Site) -> None:
    """A line for each agent, then the nodes that lag, each with how far it has
    come and why no further."""
    async with site.node("n1") as one, site.node("n2") as two, site.node("n3"):
        await one.says(a=APPLIED, b=APPLIED)
        await two.says(a=APPLIED, b=FAILED)
        lines = (await site.fleet()).out.splitlines()
    assert lines[0] == "demo at revision 2, 3 nodes, 3 connected"
    assert lines[1].split() == ["AGENT", "REVISION", "NODES", "SENT", "ACKED", "EFFECTIVE", "REFUSED"]
    assert [line.split() for line in lines[2:4]] == [
        ["a", "1", "3", "3", "2", "2", "0"],
        ["b", "2", "3", "3", "2", "1", "1"],
    ]
    assert [line.rstrip() for line in lines[4:]] == [
        "",
        "a is behind on 1 of 3:",
        "  n3  sent, no answer yet",
        "b is behind on 2 of 3:",
        "  n2  FAILED  cannot be built [x]",
        "    config.llm_config.model: no such one",
        "  n3  sent, no answer yet",
    ]


async def test_a_fleet_that_is_behind_fails_a_build(site: Site) -> None:
    """--fail-if-behind is exit code 3 until every node runs the agents, and
    enough nodes are there; without it the status is only shown."""
    assert (await site.fleet()).code == 0
    assert (await site.fleet("--fail-if-behind")).code == 3
    assert (await site.fleet("--fail-if-behind --min-nodes 0")).code == 0
    async with site.node("n1") as node:
        await node.says(a=APPLIED, b=FAILED)
        assert (await site.fleet("--fail-if-behind")).code == 3
        only = await site.fleet("a --fail-if-behind --json")
        assert only.code == 0
        (agent,) = only.data["agents"]
        assert (agent["name"], agent["effective"]) == ("tenants/demo/agents/a", 1)
        await node.says(a=APPLIED, b=APPLIED)
        assert (await site.fleet("--fail-if-behind")).code == 0


async def test_a_watch_ends_when_every_node_runs_every_agent(site: Site) -> None:
    """--watch shows what has changed, until there is nothing to wait for."""
    async with site.node("n1") as node:
        watching = asyncio.create_task(site.fleet("--watch --json"))
        await node.says(a=APPLIED, b=APPLIED)
        result = await watching
    assert result.code == 0
    last = json.loads("{" + ("\n" + result.out).rpartition("\n{")[2])
    assert [agent["effective"] for agent in last["agents"]] == [1, 1]


async def test_a_watch_in_a_build_ends_with_a_refusal(site: Site) -> None:
    """--watch --fail-if-behind does not wait for those that have refused."""
    async with site.node("n1") as node:
        await node.says(a=APPLIED, b=FAILED)
        result = await site.fleet("--watch --fail-if-behind")
    assert result.code == 3
    assert "n1  FAILED" in result.out
