"""An agent's life by API calls."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.watch.watch_server import WatchServer, watch_server
from voxplane.v1 import agent_service_pb2 as agents_pb2

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 60.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[WatchServer]:
    """A control plane."""
    async with watch_server(tmp_path) as running:
        yield running


async def _play(server: WatchServer, *flags: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "examples/create_custom_agent.py", "--server", server.address),
        *("--tenant", "acme", *flags),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
    return process.returncode or 0, said.decode()


async def test_every_call_is_made_and_seen(server: WatchServer) -> None:
    """Each call's answer is shown with what the watch got of it, and with --keep
    the agent is there afterwards, live at the version before the promoted one."""
    code, said = await _play(server, "--keep")
    assert code == 0, said
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert lines == [
        "created version 1, revision 1",
        "watch: revision 1, live → v1",
        "field added version 2",
        "watch: revision 2, live → v2",
        "drafted version 3, and nobody has it",
        "rendered Teach chess to Ada, and be strict.",
        "staged version 3",
        "watch: revision 4, live → v2, staging → v3",
        "resolved live version 2: alias live",
        "resolved staging version 3: alias staging",
        "promoted live is version 3",
        "watch: revision 5, live → v3, staging → v3",
        "rolled back live is version 2",
        "watch: revision 6, live → v2, staging → v3",
    ]
    found = await server.agents.GetAgent(agents_pb2.GetAgentRequest(tenant_id="acme", agent_id="tutor"))
    assert found.agent.aliases["live"].version == 2


async def test_a_refusal_ends_it(server: WatchServer) -> None:
    """Where an agent of that name exists it says what the control plane says, and exits with 1."""
    await server.create("tutor")
    code, said = await _play(server)
    assert (code, "Traceback" in said) == (1, False)
    assert "the control plane says: " in said
