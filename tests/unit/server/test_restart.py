"""What a server that starts again still knows."""

from __future__ import annotations

from pathlib import Path

from control_plane.store.sqlite import SqliteStore
from tests.unit.server.in_process import refusal, served
from tests.unit.services.agent_requests import AGENT, TENANT, create, update
from voxplane.v1 import agent_service_pb2 as service_pb2


async def test_answers_survive_a_restart(tmp_path: Path) -> None:
    """A request that is repeated after a restart gets the first answer, from a
    store with the same epoch; the id is still taken for others."""
    path = tmp_path / "log.db"
    async with served(tmp_path, await SqliteStore.open(path)) as running:
        created = await running.agents.CreateAgent(create(request_id="r1"))
        updated = await running.agents.UpdateAgentConfig(update("New.", request_id="r2"))
        before = await running.agents.GetAgent(service_pb2.GetAgentRequest(tenant_id=TENANT, agent_id=AGENT))
    async with served(tmp_path, await SqliteStore.open(path)) as running:
        assert await running.agents.CreateAgent(create(request_id="r1")) == created
        assert await running.agents.UpdateAgentConfig(update("New.", request_id="r2")) == updated
        after = await running.agents.GetAgent(service_pb2.GetAgentRequest(tenant_id=TENANT, agent_id=AGENT))
        assert after == before
        found = await refusal(running.agents.UpdateAgentConfig(update("Other.", request_id="r2")))
        assert found.reason == "REQUEST_ID_REUSED"
        third = await running.agents.UpdateAgentConfig(update("Third.", request_id="r3"))
        assert (third.version.number, third.revision.number) == (3, 3)
