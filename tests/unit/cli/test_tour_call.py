"""What the tour makes of what its caller tells."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from voxplane.cli.tour_call import CallBroken, ReplyFields, VoiceCall

PATIENCE_SECONDS = 5.0
TELLER = """
import json, sys
for line in json.loads(sys.argv[1]):
    if line == "ask":
        asked = json.loads(sys.stdin.readline() or '{"measure": 0}')
        line = {"event": "measured", "measure": asked["measure"], "heard": {"seconds": 2.0}}
    print(json.dumps({"at": 1.0} | line), flush=True)
sys.stderr.write(sys.argv[2])
"""


def payload(version: int, *, whole: bool = False, fields: Any = None, deltas: Any = None) -> dict[str, Any]:
    """What comes by RPC, as far as the tour looks at it."""
    return {
        "version": version,
        "session_id": "s-1",
        "whole": whole,
        "fields": fields or {},
        "deltas": deltas or {},
    }


@asynccontextmanager
async def teller(
    tmp_path: Path, *lines: Any, last_words: str = "", patience: float = PATIENCE_SECONDS
) -> AsyncIterator[VoiceCall]:
    """A call whose other end tells these lines, and ends."""
    log = tmp_path / "caller.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", TELLER, json.dumps(lines), last_words),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=out,
        )
    try:
        yield VoiceCall(process, log, patience)
    finally:
        await process.communicate(b"")


def test_the_fields_of_a_reply_are_put_together() -> None:
    """A payload adds to the last, one that is whole begins anew, with the version that made it."""
    fields = ReplyFields()
    fields.take(1.0, payload(1, whole=True, deltas={"text": "Hel"}))
    fields.take(2.0, payload(1, fields={"score": 3}, deltas={"text": "lo"}))
    assert fields.values == {"text": "Hello", "score": 3}
    assert (fields.first_at, fields.payloads, fields.version) == (1.0, 2, 1)
    fields.take(3.0, payload(2, whole=True, fields={"score": 4}))
    assert fields.values == {"score": 4}
    assert (fields.first_at, fields.payloads, fields.version, fields.session_id) == (3.0, 1, 2, "s-1")


async def test_what_is_waited_for_is_found_and_the_rest_is_kept(tmp_path: Path) -> None:
    """Events before the one that is waited for are taken note of: fields, and the agent's words."""
    lines = (
        {"event": "fields", "payload": payload(1, whole=True, fields={"score": 3})},
        {"event": "words", "text": "Good"},
        {"event": "speech", "begins": False},
        {"event": "speech", "begins": True, "at": 7.0},
        "ask",
    )
    async with teller(tmp_path, *lines) as call:
        told = await call.until("speech", where=lambda told: told.about["begins"])
        assert (told.kind, told.at) == ("speech", 7.0)
        assert (call.fields.values, call.words) == ({"score": 3}, "Good")
        assert (await call.measure())["seconds"] == 2.0


async def test_an_agent_that_leaves_breaks_the_call(tmp_path: Path) -> None:
    """Unless its end is waited for."""
    async with teller(tmp_path, {"event": "left"}) as call:
        with pytest.raises(CallBroken, match="the agent has left"):
            await call.until("speech")
    async with teller(tmp_path, {"event": "disconnected", "at": 9.0}) as call:
        assert (await call.end()).at == 9.0


async def test_a_caller_that_dies_is_told_of_with_its_last_words(tmp_path: Path) -> None:
    """What it has said to its standard error is in the message."""
    async with teller(tmp_path, last_words="no such room") as call:
        with pytest.raises(CallBroken, match="has ended: no such room"):
            await call.until("joined")


async def test_what_does_not_happen_is_named(tmp_path: Path) -> None:
    """After its patience it says what it has waited for."""
    async with teller(tmp_path, {"event": "joined"}, "ask", patience=0.05) as call:
        with pytest.raises(CallBroken, match=r"“speech” did not happen in the call within 0\.05 s"):
            await call.until("speech")
