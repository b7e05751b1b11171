"""Real server and node processes on free ports and in folders of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc
import psutil

READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
LOG_BYTES_SHOWN = 4_000
PORTS = (20_000, 32_000)

Result = TypeVar("Result")


class BenchError(Exception):
    """A benchmark cannot be run."""


def free_port() -> int:
    """A TCP port of loopback that nobody listens on, out of those that no
    client is given: a load of thousands of clients would take it."""
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def raise_file_limit(files: int) -> None:
    """Let this process and its children open so many files. Raises BenchError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < files:
        raise BenchError(f"{files} open files are needed, and {hard} are allowed: see ulimit -Hn")
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))


def run(main: Coroutine[None, None, Result]) -> Result:
    """Run a benchmark; SIGTERM ends it as Ctrl-C does, with its processes.
    Exits with what a BenchError says."""

    async def ended_by_signals() -> Result:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await main

    try:
        return asyncio.run(ended_by_signals())
    except BenchError as error:
        sys.exit(f"error: {error}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("ended before the end")


@dataclass(frozen=True, slots=True)
class Running:
    """A process that was started here."""

    process: asyncio.subprocess.Process
    address: str
    log: Path

    def cpu_seconds(self) -> float:
        """User and system time of the process so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def rss_kb(self) -> float:
        """Resident memory of the process in KB."""
        return psutil.Process(self.process.pid).memory_info().rss / 1024

    def log_end(self) -> str:
        """The end of what it has said."""
        return self.log.read_bytes()[-LOG_BYTES_SHOWN:].decode(errors="replace")


@asynccontextmanager
async def process_of(words: Sequence[str], *, log: Path, address: str = "") -> AsyncGenerator[Running, None]:
    """Run a program, and end it with the block."""
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={
                key: value
                for key, value in os.environ.items()
                if not key.startswith(("LIVEKIT_", "VOXPLANE_", "ETCD_"))
            },
        )
    try:
        yield Running(process, address, log)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS_MAX)
            except TimeoutError:
                process.kill()
                await process.wait()


@asynccontextmanager
async def command(*arguments: str, log: Path, address: str = "") -> AsyncGenerator[Running, None]:
    """Run `voxplane ARGUMENTS`, and end it with the block."""
    words = (sys.executable, "-m", "voxplane", *arguments)
    async with process_of(words, log=log, address=address) as running:
        yield running


async def _ready(running: Running, ca: bytes | None = None) -> None:
    made = grpc.aio.insecure_channel(running.address)
    if ca:
        made = grpc.aio.secure_channel(running.address, grpc.ssl_channel_credentials(ca))
    async with made as channel:
        ready = asyncio.ensure_future(channel.channel_ready())
        ended = asyncio.ensure_future(running.process.wait())
        await asyncio.wait({ready, ended}, timeout=READY_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not ready.done():
            ready.cancel()
            raise BenchError(f"the server does not come up; its log ends with\n{running.log_end()}")


@asynccontextmanager
async def server(folder: Path, *flags: str, ca: bytes | None = None) -> AsyncGenerator[Running, None]:
    """A control plane on SQLite below `folder`, ready for calls; over TLS if
    there is an authority. Raises BenchError."""
    address = f"127.0.0.1:{free_port()}"
    options = ("serve", "--grpc-listen", address, "--data-dir", str(folder), *flags)
    async with command(*options, log=folder / "server.log", address=address) as running:
        await _ready(running, ca)
        yield running


@asynccontextmanager
async def other_server(program: Sequence[str], folder: Path, *flags: str) -> AsyncGenerator[Running, None]:
    """A program that serves on `-client`. Raises BenchError."""
    address = f"127.0.0.1:{free_port()}"
    words = (*program, "-client", f"http://{address}", *flags)
    async with process_of(words, log=folder / "server.log", address=address) as running:
        await _ready(running)
        yield running
