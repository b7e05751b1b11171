"""AgentService as a client sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from tests.unit.server.in_process import Served, refusal, served
from tests.unit.services.agent_requests import AGENT, TENANT, config, create, update
from voxplane.v1 import agent_service_pb2 as service_pb2
from voxplane.v1 import schema_pb2

NAMED = {"tenant_id": TENANT, "agent_id": AGENT}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Served]:
    """A control plane with one agent."""
    async with served(tmp_path) as it:
        await it.agents.CreateAgent(create())
        yield it


async def test_an_agent_from_creation_to_rollback(running: Served) -> None:
    """Create, update, alias, rollback, delete and undelete, each answer with the
    tenant's revision."""
    agents = running.agents
    changed = await agents.UpdateAgentConfig(update("Be brief.", note="shorter"))
    assert (changed.version.number, changed.revision.number) == (2, 2)
    assert changed.version.config.llm_config == config().llm_config
    await agents.SetAlias(service_pb2.SetAliasRequest(**NAMED, alias="staging", version=1))
    back = await agents.RollbackAlias(service_pb2.RollbackAliasRequest(**NAMED))
    assert back.version.config.prompt_config.instructions == "Be kind."
    await agents.DeleteAgent(service_pb2.DeleteAgentRequest(**NAMED))
    gone = await agents.GetAgent(service_pb2.GetAgentRequest(**NAMED))
    assert gone.agent.HasField("delete_time")
    again = await agents.UndeleteAgent(service_pb2.UndeleteAgentRequest(**NAMED))
    assert {name: alias.version for name, alias in again.agent.aliases.items()} == {"live": 1, "staging": 1}
    assert again.revision.number == 6
    assert again.revision.epoch


async def test_a_bad_request_names_every_field(running: Served) -> None:
    """Violations have the exact paths of the request, and no value."""
    request = create("Bad Id")
    request.config.llm_config.temperature = 3
    request.config.llm_config.api_key = "sk-abcdefghijklmnopqrstuvwx"
    request.config.schema_config.fields[1].field_name = "class"
    request.labels["Bad"] = "x"
    found = await refusal(running.agents.CreateAgent(request))
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert set(found.fields) == {
        "agent_id",
        "config.llm_config.temperature",
        "config.llm_config.api_key",
        "config.schema_config.fields[1].field_name",
        'labels["Bad"]',
    }
    assert "sk-abc" not in str(found.status)


async def test_a_masked_update_is_judged_as_what_it_makes(running: Served) -> None:
    """A mask may name a field whose block would be invalid alone; what the change
    makes is checked, with paths from `config`."""
    request = service_pb2.UpdateAgentConfigRequest(**NAMED)
    request.config.llm_config.temperature = 1.5
    request.update_mask.paths.append("llm_config.temperature")
    changed = await running.agents.UpdateAgentConfig(request)
    assert changed.version.config.llm_config.provider == "offline"
    request.config.llm_config.temperature = 3
    found = await refusal(running.agents.UpdateAgentConfig(request))
    assert set(found.fields) == {"config.llm_config.temperature"}
    request.update_mask.paths.append("llm.temperature")
    found = await refusal(running.agents.UpdateAgentConfig(request))
    assert found.fields == {"update_mask.paths[1]": "AgentConfig has no field 'llm'"}


async def test_what_cannot_work_is_refused_when_it_is_written(running: Served) -> None:
    """A template that cannot be rendered, a pattern that does not compile and a
    key in plain text are refused with their paths."""
    found = await refusal(running.agents.UpdateAgentConfig(update("Hello {{ nobody }}")))
    assert (found.reason, set(found.fields)) == ("INVALID_PROMPT", {"config.prompt_config.instructions"})
    field = schema_pb2.SchemaField(field_name="code", field_type="string")
    field.constraints.pattern = "("
    found = await refusal(
        running.agents.AddSchemaField(service_pb2.AddSchemaFieldRequest(**NAMED, field=field))
    )
    assert (found.reason, set(found.fields)) == ("INVALID_SCHEMA", {"field.constraints.pattern"})
    found = await refusal(running.agents.UpdateAgentConfig(update("Use sk-abcdefghijklmnopqrstuvwx1234")))
    assert (found.reason, set(found.fields)) == ("SECRET_LITERAL", {"config.prompt_config.instructions"})
    assert (await running.agents.GetAgent(service_pb2.GetAgentRequest(**NAMED))).revision.number == 1


async def test_refusals_have_their_codes_and_details(running: Served) -> None:
    """Each reason has its code; a precondition says which, and on what."""
    agents = running.agents
    missing = await refusal(agents.GetAgent(service_pb2.GetAgentRequest(tenant_id=TENANT, agent_id="none")))
    assert (missing.code, missing.reason) == (grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND")
    taken = await refusal(agents.CreateAgent(create()))
    assert (taken.code, taken.reason) == (grpc.StatusCode.ALREADY_EXISTS, "AGENT_EXISTS")
    stale = await refusal(agents.UpdateAgentConfig(update("x", etag="old")))
    assert (stale.code, stale.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert "google.rpc.PreconditionFailure" in str(stale.status)
    first = await refusal(agents.RollbackAlias(service_pb2.RollbackAliasRequest(**NAMED)))
    assert (first.code, first.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_EARLIER_VERSION")


async def test_pages_of_agents(running: Served) -> None:
    """Pages follow each other without a gap or a repeat; a token is good for its
    own list only."""
    for number in range(6):
        await running.agents.CreateAgent(create(f"a{number}"))
    delete = service_pb2.DeleteAgentRequest(tenant_id=TENANT, agent_id="a3")
    await running.agents.DeleteAgent(delete)
    request = service_pb2.ListAgentsRequest(tenant_id=TENANT, page_size=2)
    seen: list[str] = []
    while True:
        page = await running.agents.ListAgents(request)
        assert len(page.agents) <= 2
        seen += [agent.agent_id for agent in page.agents]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == ["a0", "a1", "a2", "a4", "a5", AGENT]
    request.show_deleted = True
    found = await refusal(running.agents.ListAgents(request))
    assert (found.reason, set(found.fields)) == ("PAGE_TOKEN", {"page_token"})
    everything = await running.agents.ListAgents(
        service_pb2.ListAgentsRequest(tenant_id=TENANT, page_size=5_000, show_deleted=True)
    )
    assert len(everything.agents) == 7


@pytest.mark.parametrize("token", ["x", "e30", "ä", "AAAAAAAAAAAAAAAAAAAAAA"])
async def test_a_made_up_page_token_is_refused(running: Served, token: str) -> None:
    """A token that no list gave is an error of the request, never of the server."""
    request = service_pb2.ListAgentVersionsRequest(**NAMED, page_token=token)
    assert (await refusal(running.agents.ListAgentVersions(request))).reason == "PAGE_TOKEN"


async def test_versions_newest_first(running: Served) -> None:
    """Versions are listed from the newest, and found by number and by alias."""
    for number in range(2, 6):
        await running.agents.UpdateAgentConfig(update(f"{number}."))
    request = service_pb2.ListAgentVersionsRequest(**NAMED, page_size=3)
    first = await running.agents.ListAgentVersions(request)
    request.page_token = first.next_page_token
    second = await running.agents.ListAgentVersions(request)
    assert [v.number for v in (*first.versions, *second.versions)] == [5, 4, 3, 2, 1]
    assert not second.next_page_token
    live = await running.agents.GetAgentVersion(service_pb2.GetAgentVersionRequest(**NAMED))
    third = await running.agents.GetAgentVersion(service_pb2.GetAgentVersionRequest(**NAMED, number=3))
    assert (live.version.number, third.version.config.prompt_config.instructions) == (5, "3.")


async def test_render_prompt(running: Served) -> None:
    """A prompt is rendered as a call would get it, also one that is not stored."""
    request = service_pb2.RenderPromptRequest(**NAMED, variables={"name": "Ada"})
    request.config.prompt_config.instructions = "{{ name }} of {{ city }} and {{ tenant_id }}."
    request.config.prompt_config.dynamic_vars.update({"name": "", "city": "Rome"})
    rendered = await running.agents.RenderPrompt(request)
    assert rendered.instructions == f"Ada of Rome and {TENANT}."
    assert dict(rendered.defaulted) == {"city": "Rome"}
    stored = await running.agents.RenderPrompt(service_pb2.RenderPromptRequest(**NAMED))
    assert stored.instructions == "Be kind."
    nobody = await refusal(running.agents.RenderPrompt(service_pb2.RenderPromptRequest(tenant_id=TENANT)))
    assert set(nobody.fields) == {"agent_id"}


async def test_concurrent_updates_are_all_acknowledged(running: Served) -> None:
    """64 updates at once have the revisions 2 to 65, without a gap."""
    answers = await asyncio.gather(
        *(running.agents.UpdateAgentConfig(update(f"{number}.")) for number in range(64))
    )
    assert sorted(answer.revision.number for answer in answers) == list(range(2, 66))


async def test_what_renders_badly_has_its_path_in_the_request(running: Served) -> None:
    """A config that is rendered without being stored is named as the request has it."""
    request = service_pb2.RenderPromptRequest(tenant_id=TENANT, config=config("{{ nobody }}"))
    found = await refusal(running.agents.RenderPrompt(request))
    assert set(found.fields) == {"config.prompt_config.instructions"}
