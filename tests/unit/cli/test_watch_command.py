"""`voxplane watch` as its user sees it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from control_plane.store.sqlite import SqliteStore
from tests.unit.cli.processes import voxplane
from tests.unit.server.in_process import served
from tests.unit.services.agent_requests import create, update

LINE_SECONDS_MAX = 30.0


async def _until(process: asyncio.subprocess.Process, text: str) -> list[str]:
    """The lines up to the one with a text."""
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or text not in lines[-1]:
        line = await asyncio.wait_for(process.stdout.readline(), LINE_SECONDS_MAX)
        assert line, lines
        lines.append(line.decode())
    return lines


async def test_a_watch_goes_on_over_a_restart(tmp_path: Path) -> None:
    """When the server goes, the watch says so, comes back, and shows only what
    has changed meanwhile."""
    database = tmp_path / "voxplane.db"
    address = f"unix:{tmp_path}/s.sock"
    process: asyncio.subprocess.Process | None = None
    try:
        async with served(tmp_path, await SqliteStore.open(database)) as first:
            await first.agents.CreateAgent(create())
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "voxplane", "watch", "--tenant", "acme", "--server", address),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={**os.environ, "COLUMNS": "120"},
            )
            assert any("revision 1 FULL" in line for line in await _until(process, "synced: 1 agents"))
        assert "going to end: shutdown" in (await _until(process, "the stream"))[-1]
        async with served(tmp_path, await SqliteStore.open(database)) as second:
            lines = await _until(process, "synced: 1 agents")
            assert any("revision 1 NONE" in line for line in lines)
            await second.agents.UpdateAgentConfig(update("Be brief."))
            lines = await _until(process, "synced: 1 agents")
            assert any("revision 2 DELTA" in line for line in lines)
    finally:
        if process is not None:
            process.kill()
            await process.wait()


async def test_a_watch_by_label_shows_those_alone(tmp_path: Path) -> None:
    """With --label only agents with the label are shown; a label without a
    value is refused with a hint."""
    address = f"unix:{tmp_path}/s.sock"
    async with served(tmp_path) as server:
        blue = create("blue-one")
        blue.labels["team"] = "blue"
        await server.agents.CreateAgent(create())
        await server.agents.CreateAgent(blue)
        watch = ("watch", "--tenant", "acme", "--count", "1", "--label")
        shown = await voxplane(*watch, "team=blue", server=address)
        assert "agents/blue-one" in shown.out
        assert "agents/support" not in shown.out
        refused = await voxplane(*watch, "team", server=address)
        assert refused.code == 2
        assert "key=value" in refused.err
