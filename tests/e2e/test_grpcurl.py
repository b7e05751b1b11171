"""grpcurl against a real server, by reflection alone."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bench.processes import Running, server

WATCH_SECONDS_MAX = 20
INSTALL = "go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4"


@pytest.fixture
def grpcurl() -> str:
    """The path of grpcurl."""
    found = shutil.which("grpcurl")
    if found is None and os.environ.get("CI"):
        pytest.fail(f"grpcurl is missing: {INSTALL}")
    if found is None:
        pytest.skip(f"grpcurl is missing; get it by: {INSTALL}")
    return found


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """A control plane."""
    async with server(tmp_path) as control_plane:
        yield control_plane


async def _call(grpcurl: str, address: str, method: str, request: dict[str, Any]) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(grpcurl, "-plaintext", "-d", json.dumps(request), address, f"voxplane.v1.{method}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def _answer(grpcurl: str, address: str, method: str, request: dict[str, Any]) -> dict[str, Any]:
    code, out, err = await _call(grpcurl, address, method, request)
    assert code == 0, err
    return json.loads(out)


CONFIG: dict[str, Any] = {
    "agent_type": "interview",
    "prompt_config": {"instructions": "Greet {{ name }}.", "dynamic_vars": {"name": "the caller"}},
    "llm_config": {"provider": "offline", "temperature": 0.5},
    "schema_config": {
        "fields": [
            {
                "field_name": "reply",
                "field_type": "string",
                "required": True,
                "metadata": {"use_in_tts": True},
            }
        ]
    },
}


async def test_create_update_rollback_by_reflection(grpcurl: str, running: Running) -> None:
    """Create, update and rollback work with nothing but reflection."""
    agent = {"tenant_id": "demo", "agent_id": "interview"}
    made = await _answer(grpcurl, running.address, "AgentService.CreateAgent", {**agent, "config": CONFIG})
    assert made["agent"]["aliases"]["live"]["version"] == "1"
    change = {"prompt_config": {"instructions": "Be brief."}}
    updated = await _answer(
        grpcurl,
        running.address,
        "AgentService.UpdateAgentConfig",
        {**agent, "config": change, "update_mask": {"paths": ["prompt_config.instructions"]}},
    )
    assert updated["version"]["config"]["prompt_config"]["dynamic_vars"] == {"name": "the caller"}
    assert updated["revision"]["number"] == "2"
    back = await _answer(grpcurl, running.address, "AgentService.RollbackAlias", agent)
    assert back["version"]["number"] == "1"
    assert back["version"]["config"]["prompt_config"]["instructions"] == "Greet {{ name }}."


async def test_watch_by_reflection(grpcurl: str, running: Running) -> None:
    """A watch shows the present state and then a change, readable by a human."""
    agent = {"tenant_id": "demo", "agent_id": "interview"}
    await _answer(grpcurl, running.address, "AgentService.CreateAgent", {**agent, "config": CONFIG})
    watch = await asyncio.create_subprocess_exec(
        *(grpcurl, "-plaintext", "-d", '{"tenant_id": "demo"}', running.address),
        "voxplane.v1.ConfigSyncService.WatchConfig",
        stdout=asyncio.subprocess.PIPE,
    )
    assert watch.stdout is not None
    decoder, text, seen = json.JSONDecoder(), "", list[dict[str, Any]]()
    try:
        async with asyncio.timeout(WATCH_SECONDS_MAX):
            while len(seen) < 2:
                text += (await watch.stdout.readline()).decode()
                try:
                    message, end = decoder.raw_decode(text.lstrip())
                except ValueError:
                    continue
                seen.append(message["transfer"])
                text = text.lstrip()[end:]
                if len(seen) == 1:
                    added = {"field_name": "mood", "field_type": "string"}
                    await _answer(
                        grpcurl, running.address, "AgentService.AddSchemaField", {**agent, "field": added}
                    )
    finally:
        watch.kill()
        await watch.wait()
    first, second = seen
    assert first["start"]["intent"] == "TRANSFER_INTENT_FULL"
    assert first["bundles"][0]["name"] == "tenants/demo/agents/interview"
    assert first["synced"]["bundle_count"] == "1"
    assert second["start"]["intent"] == "TRANSFER_INTENT_DELTA"
    names = [f["field_name"] for f in second["contents"][0]["config"]["schema_config"]["fields"]]
    assert names == ["reply", "mood"]


async def test_a_bad_request_names_the_paths(grpcurl: str, running: Running) -> None:
    """A bad request is INVALID_ARGUMENT and names the path of every bad field."""
    config = {
        **CONFIG,
        "llm_config": {"provider": "openai", "temperature": 3, "api_key": "sk-abcdefghijklmnopqrstuvwx"},
        "schema_config": {"fields": [{"field_name": "class", "field_type": "string"}]},
    }
    request = {"tenant_id": "demo", "agent_id": "bad", "config": config}
    code, _, err = await _call(grpcurl, running.address, "AgentService.CreateAgent", request)
    assert code != 0
    assert "InvalidArgument" in err
    for path in (
        "config.llm_config.temperature",
        "config.llm_config.api_key",
        "config.schema_config.fields[0].field_name",
    ):
        assert path in err
    assert "sk-abcdef" not in err
