"""The LiveKit worker against the /agent endpoint of a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent_node.job.voice import WorkerSettings, run_worker
from tests.vendors.livekit import AgentEndpoint

SETTINGS = WorkerSettings(drain_seconds=5, close_seconds=10, load_threshold=float("inf"), idle_processes=0)


@pytest.fixture
async def endpoint(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AgentEndpoint]:
    """The endpoint, with the environment that leads to it."""
    monkeypatch.setenv("VOXPLANE_RELAY_SOCKET", "")  # so that what the worker sets is undone
    async with AgentEndpoint() as server:
        monkeypatch.setenv("LIVEKIT_URL", server.url)
        monkeypatch.setenv("LIVEKIT_API_KEY", "devkey")
        monkeypatch.setenv("LIVEKIT_API_SECRET", "s" * 40)
        yield server


async def test_the_worker_registers_refuses_bad_metadata_and_stops(
    endpoint: AgentEndpoint, tmp_path: Path
) -> None:
    """It registers under the one generic name, ends a job without a caller, and stops when told."""
    stop = asyncio.Event()
    worker = asyncio.create_task(run_worker(relay_socket=tmp_path / "r.sock", stop=stop, settings=SETTINGS))
    registration = await asyncio.wait_for(endpoint.registrations.get(), 30)
    assert registration.agent_name == "voxplane"

    answer = await asyncio.wait_for(endpoint.offer('{"tenant": "acme"}'), 10)
    assert not answer.available
    assert answer.terminate

    stop.set()
    await asyncio.wait_for(worker, 20)
