"""`voxplane nodes local` as a user has it."""

from __future__ import annotations

from pathlib import Path

from tests.unit.cli.fake_node import FakeNode, listening
from tests.unit.cli.processes import voxplane
from voxplane.node.v1 import relay_service_pb2 as pb2


class StatusNode(FakeNode):
    """A node that answers with a status."""

    status: pb2.GetNodeStatusResponse = pb2.GetNodeStatusResponse()

    async def GetNodeStatus(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        """See the contract."""
        return self.status


def node(status: pb2.GetNodeStatusResponse) -> StatusNode:
    """A node with a status."""
    made = StatusNode(lambda text: [])
    StatusNode.status = status
    return made


def stale_status() -> pb2.GetNodeStatusResponse:
    """A node that has lost its control plane, and its id to another."""
    status = pb2.GetNodeStatusResponse(
        node_id="n1", server="there:1", sessions=2, replaced=3, tenant_count=1001
    )
    status.stale.reason = "UNAVAILABLE: [refused]"
    status.stale.age.FromSeconds(7300)
    status.next_stream.FromSeconds(9)
    tenant = status.tenants.add(tenant_id="acme", agents=4)
    tenant.revision.number = 17
    tenant.age.FromSeconds(90)
    status.tenants.add(tenant_id="beta", level=True)
    status.refused.add(name="tenants/acme/agents/a", refused_revision=16, runs_revision=12)
    status.refused[0].error.message = "llm_config.api_key: missing"
    return status


async def test_a_stale_node_is_shown_with_its_reason(tmp_path: Path) -> None:
    """Why, for how long, when it tries again, each tenant, each refused agent, and whose id is taken."""
    async with listening(node(stale_status()), tmp_path) as socket:
        result = await voxplane("nodes", "local", "--node-socket", str(socket))
    assert (result.code, result.err) == (0, "")
    for said in (
        "n1 STALE with there:1, 2 sessions",
        "for 2 h: UNAVAILABLE: [refused]",
        "tries again in 9 s",
        "another node has the id n1",
        "took over 3 times",
        "acme 17",
        "90 s ago",
        "now",
        "and 999 more tenants",
        "refused tenants/acme/agents/a revision 16, goes on with revision 12",
        "llm_config.api_key: missing",
    ):
        assert said in " ".join(result.out.split()), said


async def test_programs_get_json(tmp_path: Path) -> None:
    """--json prints the status by the names of the contract."""
    async with listening(node(stale_status()), tmp_path) as socket:
        result = await voxplane("nodes", "local", "--json", "--node-socket", str(socket))
    assert result.data["stale"] == {"reason": "UNAVAILABLE: [refused]", "age": "7300s"}
    assert result.data["tenants"][0]["revision"] == {"number": "17"}


async def test_without_a_node_it_says_so(tmp_path: Path) -> None:
    """No socket is a clear error with exit code 1."""
    result = await voxplane("nodes", "local", "--data-dir", str(tmp_path))
    assert result.code == 1
    assert "no node runs here" in result.err
