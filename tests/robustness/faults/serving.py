"""`voxplane serve` as a process that faults can be put under."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.robustness.site import GRPC, edge_options, free_port, watch_address

READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0
LOGGED_SECONDS_MAX = 30.0
LOGGED_POLL_SECONDS = 0.02


class Serving:
    """A control plane that can be ended, stopped and begun again, at one
    address and on one folder. `environment` is added to that of this process,
    `prefix` goes before the command. `watch_address` is where ConfigSyncService
    is called."""

    def __init__(
        self,
        folder: Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        arguments: Sequence[str] = (),
        transport: str = GRPC,
    ) -> None:
        self.folder = folder
        self.log = log
        self.address = f"127.0.0.1:{free_port()}"
        self.watch_address = watch_address(self.address, transport)
        self.environment = dict(environment or {})
        self._prefix = prefix
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    async def begin(self) -> None:
        """Start it, and wait until it takes connections. Raises TimeoutError,
        and OSError if it ends."""
        await self.spawn()
        assert self._process is not None
        host, _, port = self.address.rpartition(":")
        async with asyncio.timeout(READY_SECONDS_MAX):
            while True:
                try:
                    _, writer = await asyncio.open_connection(host, int(port))
                except OSError:
                    if self._process.returncode is not None:
                        raise
                    await asyncio.sleep(LOGGED_POLL_SECONDS)
                else:
                    writer.close()
                    return

    async def spawn(self) -> None:
        """Start it."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("VOXPLANE_")}
        edge = edge_options(self.address, self.watch_address)
        options = ("--grpc-listen", self.address, *edge, "--data-dir", str(self.folder), *self._arguments)
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(*self._prefix, sys.executable, "-m", "tests.robustness.served", "serve", *options),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**kept, **self.environment},
            )

    async def kill(self) -> None:
        """kill -9, if it still runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def terminate(self) -> int:
        """SIGTERM; returns the exit code. Raises TimeoutError."""
        assert self._process is not None
        self._process.terminate()
        return await self.ended()

    async def ended(self) -> int:
        """Wait until it has ended by itself; the exit code. Raises TimeoutError."""
        assert self._process is not None
        return await asyncio.wait_for(self._process.wait(), STOP_SECONDS_MAX)

    @contextmanager
    def stopped(self) -> Generator[None]:
        """SIGSTOP for a block, then SIGCONT."""
        with stopped(self.pid):
            yield

    def logged(self, event: str = "") -> list[dict[str, Any]]:
        """The log's entries, of one kind if it is named."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if not event or entry["event"] == event]

    async def until_logged(self, event: str, count: int = 1, **fields: object) -> list[dict[str, Any]]:
        """The entries of a kind, with those fields, once there are so many.
        Raises TimeoutError."""
        async with asyncio.timeout(LOGGED_SECONDS_MAX):
            while True:
                entries = self.logged(event)
                found = [one for one in entries if all(one.get(key) == fields[key] for key in fields)]
                if len(found) >= count:
                    return found
                await asyncio.sleep(LOGGED_POLL_SECONDS)


@asynccontextmanager
async def serving(
    folder: Path,
    log: Path,
    environment: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    arguments: Sequence[str] = (),
    transport: str = GRPC,
) -> AsyncGenerator[Serving]:
    """A control plane that is ready, killed at the end of the block if it has
    not ended by then."""
    control_plane = Serving(folder, log, environment, prefix, arguments, transport)
    try:
        await control_plane.begin()
        yield control_plane
    finally:
        await control_plane.kill()


@contextmanager
def stopped(pid: int) -> Generator[None]:
    """Have a process stand still for a block: SIGSTOP, then SIGCONT."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
