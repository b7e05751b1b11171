"""WatchConfig fan-out: `python -m bench.watch [--streams 100,1000] [--changes 50]`.

A real server process with a durable commit, a load process with one stream a
connection, and this process, which makes the next change when all streams have
the last. Times are from the call of UpdateAgentConfig.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
from rich.console import Console
from rich.table import Table

from bench.processes import Running, server
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc

ROUND_SECONDS_MAX = 60.0
PAYLOAD_BYTES = (2_000, 16_000)
TENANT = "bench"
WARM_UP_CHANGES = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; times in ms, memory in KB."""

    streams: int
    payload: int
    arrive_ms: float
    ack: list[float]
    all_have: list[float]
    cpu_us: float
    stream_kb: float


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _request(payload: int, change: int) -> agents_pb2.UpdateAgentConfigRequest:
    request = agents_pb2.UpdateAgentConfigRequest(tenant_id=TENANT, agent_id="fan-out")
    text = f"Change {change}. Be kind and brief. "
    request.config.prompt_config.instructions = (text * (payload // len(text) + 1))[:payload]
    request.update_mask.paths.append("prompt_config.instructions")
    return request


async def _create(stub: agents_grpc.AgentServiceAsyncStub) -> None:
    request = agents_pb2.CreateAgentRequest(tenant_id=TENANT, agent_id="fan-out")
    request.config.llm_config.provider = "offline"
    request.config.prompt_config.instructions = "Begin. " * 100
    await stub.CreateAgent(request)


async def _round(lines: asyncio.StreamReader) -> float:
    return float(await asyncio.wait_for(lines.readline(), ROUND_SECONDS_MAX))


async def _measure(running: Running, streams: int, payload: int, changes: int) -> Row:
    load = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "bench.watch_load", "--address", running.address, "--tenant", TENANT),
        *("--streams", str(streams)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert load.stdout is not None
    try:
        before, began = running.rss_kb(), time.time()
        arrived = await _round(load.stdout)
        stream_kb = (running.rss_kb() - before) / streams
        async with grpc.aio.insecure_channel(running.address) as channel:
            stub = agents_grpc.AgentServiceStub(channel)
            ack: list[float] = []
            all_have: list[float] = []
            cpu = 0.0
            for change in range(WARM_UP_CHANGES + changes):
                if change == WARM_UP_CHANGES:
                    cpu = running.cpu_seconds()
                    ack.clear()
                    all_have.clear()
                sent = time.time()
                await stub.UpdateAgentConfig(_request(payload, change))
                ack.append((time.time() - sent) * 1e3)
                all_have.append((await _round(load.stdout) - sent) * 1e3)
            cpu_us = (running.cpu_seconds() - cpu) * 1e6 / changes / streams
    finally:
        load.kill()
        await load.wait()
    return Row(streams, payload, (arrived - began) * 1e3, ack, all_have, cpu_us, stream_kb)


async def _main(sizes: list[int], changes: int) -> list[Row]:
    rows: list[Row] = []
    for streams in sizes:
        for payload in PAYLOAD_BYTES:
            with tempfile.TemporaryDirectory() as folder:
                async with server(Path(folder)) as running:
                    async with grpc.aio.insecure_channel(running.address) as channel:
                        await _create(agents_grpc.AgentServiceStub(channel))
                    rows.append(await _measure(running, streams, payload, changes))
    return rows


def _print(rows: list[Row]) -> None:
    table = Table(title="WatchConfig: one change to all streams, durable SQLite commit included")
    for column in (
        "streams",
        "payload",
        "all synced",
        "commit p50 / p99",
        "all have it p50 / p99",
        "CPU per delivery",
        "RSS per stream",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            f"{row.streams:,}",
            f"{row.payload // 1000} KB",
            f"{row.arrive_ms:,.0f} ms",
            f"{statistics.median(row.ack):.1f} / {percentile(row.ack, 0.99):.1f} ms",
            f"{statistics.median(row.all_have):.1f} / {percentile(row.all_have, 0.99):.1f} ms",
            f"{row.cpu_us:.0f} µs",
            f"{row.stream_kb:.0f} KB",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", default="100,1000", help="numbers of streams, with commas between")
    parser.add_argument("--changes", type=int, default=50, help="changes to measure at each size")
    options = parser.parse_args()
    _print(asyncio.run(_main([int(size) for size in options.streams.split(",")], options.changes)))
