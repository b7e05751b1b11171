"""The Go load client and what it finds. Times are in ms, CPU in µs.

The client speaks plain HTTP/2 frames, because grpc-go's client flatters us. It
pings for its estimate of the bandwidth and opens windows at every message, and
a server pays for each: at 1,000 streams and 2 KB a delivery costs etcd 29 to 32
µs of CPU with it and 18 without, and us 57 to 62 µs and 49 to 52. It also takes
more of the cores that it shares with the server.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from bench.building import program
from bench.processes import BenchError, Running, free_port, other_server, server

CLIENT_SECONDS_MAX = 300.0

Subject = Literal["voxplane", "etcd", "ads", "bare"]
"""`ads` is go-control-plane's, `bare` is grpc.aio with nothing of ours."""


class FanResult(BaseModel):
    """One run over streams."""

    arrive_ms: float
    stream_kb: float
    ack_ms: list[float]
    have_ms: list[float]
    silent_ms: list[float] | None
    deliver_us: float
    reconnect_ms: list[float] | None
    reconnect_us: float
    by_stream_ms: list[float] | None
    by_stream_us: float
    by_unary_ms: list[float] | None
    by_unary_us: float
    lost: int
    failures: dict[str, int]


class CommitsResult(BaseModel):
    """One run of writers."""

    per_second: float
    call_ms: list[float]
    call_us: float


class SoakResult(BaseModel):
    """A soak so far."""

    seconds: float
    commits: int
    reconnects: int
    deliveries: int
    lost: int
    failures: dict[str, int] = Field(default_factory=dict[str, int])


@asynccontextmanager
async def subject_server(subject: Subject, settings: str = "") -> AsyncGenerator[Running, None]:
    """A fresh server of a subject in a folder of its own; `settings` is a TOML
    file for Voxplane. Raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="voxplane-bench-") as name:
        folder = Path(name)
        if subject == "voxplane":
            config = folder / "settings.toml"
            config.write_text(settings)
            running = server(folder, "--config", str(config))
        elif subject == "etcd":
            peer = f"http://127.0.0.1:{free_port()}"
            running = other_server(
                [program("etcd")], folder, "-peer", peer, "-data-dir", str(folder / "etcd")
            )
        elif subject == "bare":
            running = other_server([sys.executable, "-m", "bench.bare"], folder)
        else:
            running = other_server([program("ads")], folder)
        async with running as up:
            yield up


@asynccontextmanager
async def client(
    subject: Subject, kind: str, running: Running, *flags: str
) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    """The load client at work; killed with the block."""
    process = await asyncio.create_subprocess_exec(
        program("client"),
        *(
            "-subject",
            "voxplane" if subject == "bare" else subject,
            "-kind",
            kind,
            "-address",
            running.address,
        ),
        *("-pid", str(running.process.pid), *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=64 * 1024 * 1024,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def load(subject: Subject, kind: str, *flags: str) -> bytes:
    """The JSON of one run of the client against a fresh server. Raises
    BenchError with the end of the server's log."""
    async with subject_server(subject) as running, client(subject, kind, running, *flags) as process:
        try:
            said, why = await asyncio.wait_for(process.communicate(), CLIENT_SECONDS_MAX)
        except TimeoutError:
            said, why = b"", f"nothing after {CLIENT_SECONDS_MAX:.0f} s".encode()
        if process.returncode != 0:
            raise BenchError(
                f"{subject} {kind} {' '.join(flags)}: {why.decode()}\nThe server's log ends with\n"
                f"{running.log_end()}"
            )
        return said
