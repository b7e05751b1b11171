"""Whether a node is to be given calls, and what its metrics say of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from agent_node.calls import CallFigures, CallSettings
from agent_node.calls.healing import Outcome
from agent_node.daemon import LIVEKIT_ENV, Node, Stop, run_node
from agent_node.settings import load_settings
from bench.processes import free_port
from tests.unit.voice.call_world import metadata
from tests.unit.voice.test_voice_worker import Running

SECONDS_MAX = 30.0


async def asked(port: int, path: str) -> tuple[int, str]:
    """What the node answers."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, (await answer.text()).strip()


async def test_a_node_says_why_it_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it has had a config, while LiveKit is away, and when it stops; it lives all the time."""
    for name in LIVEKIT_ENV:
        monkeypatch.delenv(name, raising=False)
    port = free_port()
    settings = load_settings(
        {
            "data_dir": tmp_path,
            "server": "127.0.0.1:1",
            "max_text_sessions": 0,
            "metrics_listen": f"127.0.0.1:{port}",
        }
    )
    stop, begun, asked_to_stop, stopped = Stop(), asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def voice(node: Node, stopping: Stop) -> None:
        node.unready.append(lambda: "LiveKit is away")
        begun.set()
        await stopping.asked.wait()
        asked_to_stop.set()
        await stopped.wait()

    running = asyncio.create_task(run_node(settings, lambda config: None, voice, stop))
    await asyncio.wait_for(begun.wait(), SECONDS_MAX)
    assert await asked(port, "/healthz") == (200, "ok")
    status, why = await asked(port, "/readyz")
    assert (status, why) == (503, "the node has had no config yet; LiveKit is away")
    stop.ask()
    await asyncio.wait_for(asked_to_stop.wait(), SECONDS_MAX)
    assert (await asked(port, "/readyz"))[1].startswith("the node is stopping")
    assert await asked(port, "/healthz") == (200, "ok")
    stopped.set()
    await asyncio.wait_for(running, SECONDS_MAX)


async def test_the_metrics_count_calls(tmp_path: Path) -> None:
    """Those that run, are refused, have ended and were healed, and how full the node is."""
    made = Running(CallSettings(sessions_max=4), tmp_path / "r.sock")
    worker = made.worker
    await worker.gate.decide("job-1", metadata())
    worker.gate.refusals["NODE_FULL"] += 2
    worker.ends["died"] += 1
    worker.meter.sample(0.35)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(CallFigures(worker))
    text = generate_latest(registry).decode()
    for line in (
        "calls 1.0",
        "calls_max 4.0",
        "cpu 0.35",
        'call_load{part="sessions"} 0.25',
        'calls_refused_total{reason="NODE_FULL"} 2.0',
        'calls_ended_total{how="died"} 1.0',
        "livekit_registered 0.0",
        "draining 0.0",
        *(f'calls_healed_total{{by="{outcome.value}"}} 0.0' for outcome in Outcome),
    ):
        assert f"voxplane_node_{line}\n" in text


def test_a_memory_limit_leaves_room_for_a_job() -> None:
    """One that kills every job is refused; none is none."""
    with pytest.raises(ValueError, match="256 MiB"):
        load_settings({"job_memory_limit_mb": 100})
    assert load_settings({"job_memory_limit_mb": 0}).job_memory_limit_mb == 0
    assert load_settings({"job_memory_limit_mb": 256}).job_memory_limit_mb == 256
