"""The same agent by text and by voice."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from tests.livekit.namespace import ROOT
from tests.livekit.screen import shown
from tests.livekit.stage import NODE_ID
from tests.livekit.tenants import AGENT, Tenant
from tests.voice.examiner import CHAT, examiner

pytestmark = pytest.mark.asyncio(loop_scope="session")

WORDS = ("good morning", "what is next")
CHAT_SECONDS_MAX = 60.0


async def chat(tenant: Tenant, *lines: str) -> list[dict[str, Any]]:
    """The turns of `voxplane chat` with these lines typed into it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "voxplane", "chat", AGENT, "--tenant", tenant.tenant_id, "--json"),
        *("--data-dir", str(tenant.stage.folder / NODE_ID)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    typed = "".join(f"{line}\n" for line in lines)
    out, _ = await asyncio.wait_for(process.communicate(typed.encode()), CHAT_SECONDS_MAX)
    assert process.returncode == 0
    events = [json.loads(line) for line in out.decode().splitlines()]
    return [event["turn"] for event in events if "turn" in event]


async def test_the_same_agent_gives_the_same_fields(tenant: Tenant) -> None:
    """Typed or spoken, the model is asked the same and the fields are the same."""
    config = examiner(tenant, "You examine {{ candidate }}.")
    config.prompt_config.dynamic_vars["candidate"] = "Ann"
    await tenant.create(config)
    typed = await chat(tenant, *WORDS)
    call = await tenant.call()
    spoken = [await call.turn(words) for words in WORDS]
    await call.hang_up()

    seen = shown(call.of("rpc"))
    assert [seen[turn].fields for turn in (1, 2)] == [turn["fields"] for turn in typed]
    assert [reply.text for reply in spoken] == [turn["text"] for turn in typed]
    asked = [request.body for request in await tenant.stage.vendors.requests(CHAT, key=tenant.keys["openai"])]
    assert len(asked) == 2 * len(WORDS)
    for name in ("model", "messages", "response_format"):
        assert [body[name] for body in asked[:2]] == [body[name] for body in asked[2:]]
