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
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from bench.building import program
from bench.certificate import self_signed
from bench.processes import BenchError, Running, free_port, other_server, server

CLIENT_SECONDS_MAX = 300.0

Subject = Literal["voxplane", "edge", "edge-tls", "etcd", "ads", "bare"]
"""`edge` is Voxplane watched over its fast edge, `edge-tls` the same over TLS;
`ads` is go-control-plane's, `bare` is grpc.aio with nothing of ours."""
OURS: tuple[Subject, ...] = ("voxplane", "edge", "edge-tls")


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


@dataclass(frozen=True, slots=True)
class Served:
    """A server, and what the client is told of where to watch it."""

    running: Running
    flags: tuple[str, ...] = ()


@asynccontextmanager
async def subject_server(subject: Subject, settings: str = "") -> AsyncGenerator[Served, None]:
    """A fresh server of a subject in a folder of its own; `settings` is a TOML
    file for Voxplane. Raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="voxplane-bench-") as name:
        folder = Path(name)
        flags: tuple[str, ...] = ()
        if subject in OURS:
            config = folder / "settings.toml"
            config.write_text(settings)
            told, flags, ca = _edge(subject, folder)
            running = server(folder, "--config", str(config), *told, ca=ca)
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
            yield Served(up, flags)


def _edge(subject: Subject, folder: Path) -> tuple[tuple[str, ...], tuple[str, ...], bytes | None]:
    """What the server and the client are told of the edge, and the authority of
    its certificate."""
    if subject == "voxplane":
        return (), (), None
    address = f"127.0.0.1:{free_port()}"
    told, flags = ("--edge-listen", address), ("-watches", address)
    if subject == "edge":
        return told, flags, None
    cert, key = self_signed(folder)
    return (*told, "--tls-cert", str(cert), "--tls-key", str(key)), (*flags, "-tls"), cert.read_bytes()


@asynccontextmanager
async def client(
    subject: Subject, kind: str, served: Served, *flags: str
) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    """The load client at work; killed with the block."""
    running = served.running
    process = await asyncio.create_subprocess_exec(
        program("client"),
        *(
            "-subject",
            "voxplane" if subject in (*OURS, "bare") else subject,
            "-kind",
            kind,
            "-address",
            running.address,
        ),
        *("-pid", str(running.process.pid), *served.flags, *flags),
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
    async with subject_server(subject) as served, client(subject, kind, served, *flags) as process:
        try:
            said, why = await asyncio.wait_for(process.communicate(), CLIENT_SECONDS_MAX)
        except TimeoutError:
            said, why = b"", f"nothing after {CLIENT_SECONDS_MAX:.0f} s".encode()
        if process.returncode != 0:
            raise BenchError(
                f"{subject} {kind} {' '.join(flags)}: {why.decode()}\nThe server's log ends with\n"
                f"{served.running.log_end()}"
            )
        return said
