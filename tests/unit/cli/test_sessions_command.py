"""`voxplane sessions` against a real control plane."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.session_samples import ENDED, NOW, report, session, turn
from tests.unit.cli.processes import Result, voxplane
from tests.unit.sessions.session_server import NodeClient, SessionServer, session_server
from voxplane.v1 import session_pb2

LINE_SECONDS_MAX = 30.0


async def sessions(server: SessionServer, *arguments: str) -> Result:
    """A command for acme."""
    return await voxplane("sessions", *arguments, "--tenant", "acme", server=server.address)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[SessionServer]:
    """A control plane with two sessions of node n1."""
    async with session_server(tmp_path) as running:
        running_node = await running.node()
        over = session("s2", state=ENDED, started=NOW - 60, user_id="[ann]", version=2, kind=1)
        over.outcome = session_pb2.SESSION_OUTCOME_CALLER_LEFT
        over.end_time.FromSeconds(int(NOW) - 15)
        over.figures.turns = 1
        over.scores["csat"] = 4.5
        made = turn(1, version=2, interrupted=True, tools=["find"])
        made.response.FromMilliseconds(850)
        made.errors.add(source="tts", message="it [hung] up")
        await running_node.report(report(over, made), report(session("s1", version=3, room="r 1")))
        running_node.call.cancel()
        yield running


async def test_sessions_are_listed_and_shown(server: SessionServer) -> None:
    """A list names each session and how it stands; one is shown with its turns
    and how long they took."""
    listed = (await sessions(server, "list")).out.splitlines()
    assert [line.split()[:4] for line in listed[1:]] == [
        ["s1", "sales", "active", "v3"],
        ["s2", "sales", "caller", "left"],
    ]
    assert "[ann]" in listed[2]
    assert " 45 " in listed[2]
    narrowed = await sessions(server, "list", "--state", "ended", "--version", "2", "--json")
    assert [each["session_id"] for each in narrowed.data] == ["s2"]
    limited = await sessions(server, "list", "--limit", "1", "--json")
    assert [each["session_id"] for each in limited.data] == ["s1"]
    shown = (await sessions(server, "show", "s2")).out
    for words in ("user [ann]", "850", "interrupted; find; tts: it [hung] up", "csat 4.5"):
        assert words in shown
    data = (await sessions(server, "show", "s2", "--json")).data
    assert data["turns"][0]["response"] == "0.850s"


async def test_what_cannot_be_done_is_explained(server: SessionServer) -> None:
    """A session that is not there, one that is over and a node that has gone
    end with 1 and a hint."""
    missing = await sessions(server, "show", "s9")
    assert (missing.code, "voxplane sessions list" in missing.err) == (1, True)
    over = await sessions(server, "end", "s2")
    assert (over.code, "SESSION_ENDED" in over.err) == (1, True)
    await server.versions(4)
    gone = await sessions(server, "pin", "s1", "4")
    assert (gone.code, "NODE_UNREACHABLE" in gone.err, "voxplane nodes list" in gone.err) == (1, True, True)


async def test_sessions_are_ended_pinned_and_traced(server: SessionServer) -> None:
    """Each command reaches the node, and what it has done is shown."""
    await server.versions(4)
    node = NodeClient(server.service)
    await node.hello("s1")
    commands = []

    async def serve() -> None:
        while True:
            commands.append(await node.serve())

    serving = asyncio.create_task(serve())
    pinned = await sessions(server, "pin", "s1", "4")
    assert (pinned.code, "it stays with v4" in pinned.out, "pinned to v4" in pinned.out) == (0, True, True)
    assert "it follows its alias" in (await sessions(server, "pin", "s1", "0")).out
    assert (await sessions(server, "trace", "s1", "--json")).data["traced"] is True
    assert "not traced" in (await sessions(server, "trace", "s1", "--off")).out
    assert "goodbye" in (await sessions(server, "end", "s1", "--reason", "the line is needed")).out
    assert (await sessions(server, "end", "s1", "--now")).code == 0
    serving.cancel()
    assert [each.WhichOneof("action") for each in commands] == ["pin_version"] * 2 + ["trace"] * 2 + [
        "end"
    ] * 2
    assert [each.pin_version for each in commands[:2]] == [4, 0]
    assert [each.trace for each in commands[2:4]] == [True, False]
    assert [(each.end.now, each.end.reason) for each in commands[4:]] == [
        (False, "the line is needed"),
        (True, ""),
    ]


async def _until(process: asyncio.subprocess.Process, text: str) -> list[str]:
    """The lines up to the one with a text."""
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or text not in lines[-1]:
        line = await asyncio.wait_for(process.stdout.readline(), LINE_SECONDS_MAX)
        assert line, lines
        lines.append(line.decode())
    return lines


async def test_a_watch_shows_what_changes_and_comes_back(tmp_path: Path) -> None:
    """First those that run, then each change; over a restart of the server it
    begins anew."""
    process: asyncio.subprocess.Process | None = None
    try:
        async with session_server(tmp_path) as first:
            node = await first.node()
            await node.report(report(session("s1", version=3)))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "voxplane", "sessions", "watch"),
                *("--tenant", "acme", "--server", first.address),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={**os.environ, "COLUMNS": "120"},
            )
            assert (await _until(process, "changes follow"))[0].startswith("s1 active sales v3")
            await node.report(report(session("s1", 2, state=ENDED), turn(7, version=4)))
            assert "turn 7: v4" in (await _until(process, "s1 ended"))[-1]
        async with session_server(tmp_path) as second:
            assert await _until(process, "0 sessions running") != []
            await (await second.node()).report(report(session("s2")))
            assert await _until(process, "s2 active") != []
    finally:
        if process is not None:
            process.kill()
            await process.wait()


async def test_a_watch_can_end_by_itself(server: SessionServer) -> None:
    """With --count it ends after so many changes; as JSON each message is a
    document."""
    watching = asyncio.create_task(sessions(server, "watch", "--count", "1", "--json"))
    node = NodeClient(server.service)
    await node.hello("s1")
    sequence = 1
    while not watching.done():
        sequence += 1
        await node.report(report(session("s1", sequence)))
        await asyncio.sleep(0.1)
    result = await watching
    assert result.code == 0
    assert result.out.count('"changed"') == 2
    assert '"synced"' in result.out
