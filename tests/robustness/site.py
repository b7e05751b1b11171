"""A control plane in a process of its own, which is killed and started again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

GRPC, EDGE = "grpc", "edge"
TRANSPORTS = (GRPC, EDGE)
"""What ConfigSyncService is called over; everything else is gRPC."""
READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 60.0
POLL_SECONDS = 0.02
LOG_BYTES_SHOWN = 2_000


class NotStarted(Exception):
    """The server ended before it was ready; the end of its log."""


class Site:
    """One server at a time, always at the same address and folder.

    `settings` are VOXPLANE_* settings by name, `environment` goes to the
    server's process as it is. `started` is when the present server was
    started, by the monotonic clock. `watch_address` is where ConfigSyncService
    is called.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, object],
        environment: dict[str, str] | None = None,
        transport: str = GRPC,
    ) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self.watch_address = watch_address(self.address, transport)
        self.data = folder / "data"
        self.database = self.data / "control_plane" / "voxplane.db"
        self.log = folder / "server.log"
        self.environment = dict(environment or {})
        self.started = 0.0
        self.starts = 0
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The server's process; 0 if there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def start(self) -> None:
        """Start a server, and wait until it takes connections. Raises
        NotStarted."""
        self.started = time.monotonic()
        self.starts += 1
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("LIVEKIT_", "VOXPLANE_"))
        }
        environment |= {f"VOXPLANE_{name.upper()}": str(value) for name, value in self._settings.items()}
        with self.log.open("ab") as out:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tests.robustness.served", "serve"),
                *("--grpc-listen", self.address, "--data-dir", str(self.data)),
                *edge_options(self.address, self.watch_address),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment | self.environment,
            )
        await self._ready(self._process)

    async def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def terminate(self) -> int:
        """SIGTERM, and the exit code. One that does not end in time is killed."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
        try:
            return await asyncio.wait_for(self._process.wait(), STOP_SECONDS_MAX)
        except TimeoutError:
            await self.kill()
            return -signal.SIGKILL

    def pause(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def back_up(self, to: Path) -> None:
        """A copy of the database as it is now."""
        uri = f"{self.database.as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as source, closing(sqlite3.connect(to)) as copy:
            source.backup(copy)

    def restore(self, backup: Path) -> None:
        """Put a copy back in place of the database. The server has ended."""
        for suffix in ("", "-wal", "-shm"):
            self.database.with_name(self.database.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(backup, self.database)

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        host, _, port = self.address.rpartition(":")
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline:
            if process.returncode is not None:
                break
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                await asyncio.sleep(POLL_SECONDS)
                continue
            writer.close()
            return
        raise NotStarted(self.log.read_bytes()[-LOG_BYTES_SHOWN:].decode(errors="replace"))


def watch_address(address: str, transport: str) -> str:
    """Where a server with that address for gRPC is to be watched."""
    return f"127.0.0.1:{free_port()}" if transport == EDGE else address


def edge_options(address: str, watched_at: str) -> tuple[str, ...]:
    """What the server is told about its edge."""
    return () if watched_at == address else ("--edge-listen", watched_at)


def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
