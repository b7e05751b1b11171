"""Real server and node processes on free ports and in folders of their own."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil

READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0


def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Running:
    """A process that was started here."""

    process: asyncio.subprocess.Process
    address: str

    def cpu_seconds(self) -> float:
        """User and system time of the process so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def rss_kb(self) -> float:
        """Resident memory of the process in KB."""
        return psutil.Process(self.process.pid).memory_info().rss / 1024


@asynccontextmanager
async def command(*arguments: str, log: Path, address: str = "") -> AsyncGenerator[Running, None]:
    """Run `voxplane ARGUMENTS`, and end it with the block."""
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "voxplane",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={
                key: value
                for key, value in os.environ.items()
                if not key.startswith(("LIVEKIT_", "VOXPLANE_"))
            },
        )
    try:
        yield Running(process, address)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS_MAX)
            except TimeoutError:
                process.kill()
                await process.wait()


@asynccontextmanager
async def server(folder: Path) -> AsyncGenerator[Running, None]:
    """A control plane on SQLite below `folder`, ready for calls."""
    address = f"127.0.0.1:{free_port()}"
    options = ("serve", "--grpc-listen", address, "--data-dir", str(folder))
    async with command(*options, log=folder / "server.log", address=address) as running:
        async with grpc.aio.insecure_channel(address) as channel:
            await asyncio.wait_for(channel.channel_ready(), READY_SECONDS_MAX)
        yield running
