"""A hard-coded agent becomes a config."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.watch.watch_server import WatchServer, watch_server
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig

ROOT = Path(__file__).parents[2]
SOURCE = "examples/hardcoded/pte_interview.py:PteInterviewer"
SECONDS_MAX = 60.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[WatchServer]:
    """A control plane."""
    async with watch_server(tmp_path) as running:
        yield running


async def _migrate(server: WatchServer, *flags: str) -> str:
    """What the example prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(
            "examples/migrate_hardcoded_agent.py",
            SOURCE,
            "--server",
            server.address,
            "--tenant",
            "acme",
            *flags,
        ),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
    assert process.returncode == 0, said.decode()
    return said.decode()


async def _config(server: WatchServer) -> AgentConfig:
    request = agents_pb2.GetAgentVersionRequest(tenant_id="acme", agent_id="pte-interview", alias="live")
    return (await server.agents.GetAgentVersion(request)).version.config


async def test_the_class_becomes_a_config(server: WatchServer) -> None:
    """The difference is shown before anything is written; then the agent has the
    class' instructions, models and fields, and there is nothing left to change."""
    shown = await _migrate(server)
    assert "schema_config" in shown
    assert "--write makes them" in shown
    listed = await server.agents.ListAgents(agents_pb2.ListAgentsRequest(tenant_id="acme"))
    assert not listed.agents
    assert "created, revision 1" in await _migrate(server, "--write")
    config = await _config(server)
    assert config.prompt_config.instructions.startswith("You are an interviewer")
    assert (config.stt_config.provider, config.stt_config.model) == ("deepgram", "nova-3")
    assert (config.llm_config.model, config.llm_config.temperature) == ("gpt-4o-mini", 0.3)
    assert (config.tts_config.voice, config.tts_config.instruction_field) == ("ash", "voice_instructions")
    assert config.tts_config.api_key == "env:OPENAI_API_KEY"
    fields = {field.field_name: field for field in config.schema_config.fields}
    assert [name for name, field in fields.items() if field.metadata.use_in_tts] == ["response"]
    assert [name for name, field in fields.items() if not field.required] == [
        "fluency",
        "pronunciation",
        "mistakes",
    ]
    assert fields["part"].constraints.enum_values[0] == "introduction"
    assert (fields["fluency"].constraints.minimum, fields["fluency"].constraints.maximum) == (10, 90)
    assert fields["response"].description == "What the interviewer says."
    assert "nothing to change" in await _migrate(server)


async def test_a_changed_config_is_shown_and_taken_back(server: WatchServer) -> None:
    """What was changed since is shown by its paths, and written over if that is
    wanted."""
    await _migrate(server, "--write")
    request = agents_pb2.UpdateAgentConfigRequest(tenant_id="acme", agent_id="pte-interview")
    request.config.tts_config.voice = "coral"
    request.update_mask.paths.append("tts_config.voice")
    await server.agents.UpdateAgentConfig(request)
    shown = await _migrate(server)
    assert "tts_config.voice\n  - 'coral'\n  + 'ash'" in shown
    assert "changes: 1;" in shown
    assert "updated, revision 3" in await _migrate(server, "--write")
    assert (await _config(server)).tts_config.voice == "ash"
