"""Commit to applied: `python -m bench.applied [--changes 500]`.

A real server and a real node, one text session in a job process, and one
change after the other: each waits until the job says that it runs it. "commit
to applied" is by the job's clock and the time in the commit; "call to applied"
is what the caller of UpdateAgentConfig sees, the durable commit included.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from rich.console import Console
from rich.table import Table

from bench.figures import percentile
from bench.processes import READY_SECONDS_MAX, command, server
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import node_service_pb2 as nodes_pb2
from voxplane.v1 import node_service_pb2_grpc as nodes_grpc

TENANT = "bench"
AGENT = "applied"
SWAP_SECONDS_MAX = 30.0

ChatCall = grpc.aio.StreamStreamCall[relay_pb2.ChatRequest, relay_pb2.ChatResponse]


@dataclass(slots=True)
class Times:
    """Milliseconds of every change."""

    commit: list[float] = field(default_factory=list[float])
    applied: list[float] = field(default_factory=list[float])
    seen: list[float] = field(default_factory=list[float])


async def _swap(chat: ChatCall, revision: int) -> relay_pb2.ChatSwap:
    while True:
        message = await asyncio.wait_for(chat.read(), SWAP_SECONDS_MAX)
        if not isinstance(message, relay_pb2.ChatResponse):
            raise RuntimeError("the session ended")
        if message.HasField("swap") and message.swap.revision >= revision:
            if message.swap.phase != sync_pb2.CONFIG_PHASE_APPLIED:
                raise RuntimeError(f"refused: {message.swap.error.message}")
            return message.swap


async def _change(stub: agents_grpc.AgentServiceAsyncStub, chat: ChatCall, number: int, times: Times) -> None:
    request = agents_pb2.UpdateAgentConfigRequest(tenant_id=TENANT, agent_id=AGENT)
    request.config.prompt_config.instructions = f"Change {number}: be kind and brief. " * 60
    request.config.llm_config.temperature = number % 20 / 10
    request.update_mask.paths.extend(["prompt_config.instructions", "llm_config.temperature"])
    began = time.monotonic()
    answer = await stub.UpdateAgentConfig(request)
    times.commit.append((time.monotonic() - began) * 1e3)
    swap = await _swap(chat, answer.revision.number)
    times.seen.append((time.monotonic() - began) * 1e3)
    times.applied.append(swap.since_commit.ToNanoseconds() / 1e6)


async def _open(socket: Path) -> tuple[grpc.aio.Channel, ChatCall]:
    channel = grpc.aio.insecure_channel(f"unix:{socket}")
    chat = relay_grpc.RelayServiceStub(channel).Chat(wait_for_ready=True)
    caller = relay_pb2.CallerContext(tenant_id=TENANT, agent_id=AGENT)
    await chat.write(relay_pb2.ChatRequest(open=caller))
    opened = await asyncio.wait_for(chat.read(), READY_SECONDS_MAX)
    assert isinstance(opened, relay_pb2.ChatResponse)
    assert opened.HasField("opened")
    return channel, chat


async def _main(changes: int) -> Times:
    times = Times()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with server(folder) as control, grpc.aio.insecure_channel(control.address) as channel:
            stub = agents_grpc.AgentServiceStub(channel)
            create = agents_pb2.CreateAgentRequest(tenant_id=TENANT, agent_id=AGENT)
            create.config.llm_config.provider = "offline"
            create.config.prompt_config.instructions = "Begin."
            await stub.CreateAgent(create)
            options = ("node", "--server", control.address, "--node-id", "bench", "--data-dir", name)
            async with command(*options, log=folder / "node.log"):
                wait = nodes_pb2.WaitForConvergenceRequest(tenant_id=TENANT, min_nodes=1)
                wait.timeout.FromSeconds(int(READY_SECONDS_MAX))
                await nodes_grpc.NodeServiceStub(channel).WaitForConvergence(wait)
                relay, chat = await _open(folder / "node" / "relay.sock")
                for number in range(changes):
                    await _change(stub, chat, number, times)
                await chat.done_writing()
                await relay.close()
    return times


def _print(times: Times, changes: int) -> None:
    table = Table(title=f"One running session, {changes} changes of instructions and temperature")
    for column in ("", "p50", "p99", "longest"):
        table.add_column(column, justify="right")
    for name, values in (
        ("durable commit (the call)", times.commit),
        ("commit to applied", times.applied),
        ("call to applied, as seen by the chat client", times.seen),
    ):
        table.add_row(
            name,
            f"{statistics.median(values):.1f} ms",
            f"{percentile(values, 0.99):.1f} ms",
            f"{max(values):.1f} ms",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--changes", type=int, default=500, help="changes to make")
    options = parser.parse_args()
    _print(asyncio.run(_main(options.changes)), options.changes)
