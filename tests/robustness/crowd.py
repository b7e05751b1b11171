"""Clients in processes of their own: many watchers in one, or a real node."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from agent_node.upstream.cache import CorruptCache, decode
from tests.robustness.answers import at_of
from tests.robustness.history import Final, Held
from tests.robustness.watcher import Spec
from tests.robustness.watchers import decode_finals, encode_specs

ANSWER_SECONDS_MAX = 60.0
ANSWER_BYTES_MAX = 256 * 1024 * 1024
STOP_SECONDS_MAX = 30.0


class _Child:
    """A process that can be stopped and goes with its owner."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The process; it was started."""
        assert self._process is not None
        return self._process

    def pause(self) -> None:
        """SIGSTOP."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.process.pid, signal.SIGCONT)

    async def close(self) -> None:
        """End it, whatever it does."""
        if self._process is None or self._process.returncode is not None:
            return
        self.resume()
        if self._process.stdin is not None:
            self._process.stdin.close()
        else:
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS_MAX)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


class Crowd(_Child):
    """Watchers in one process, which record to `history`."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__()
        self.history = folder / f"{name}.jsonl"
        self._log = folder / f"{name}.log"

    async def start(self, address: str, seed: int, specs: list[Spec]) -> None:
        """Start watching."""
        with self._log.open("ab") as out:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tests.robustness.watchers", address, str(self.history)),
                *(str(seed), encode_specs(specs)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=out,
                limit=ANSWER_BYTES_MAX,
            )

    async def finals(self) -> list[Final]:
        """What all watchers have now. Raises TimeoutError, and OSError or
        ValueError if the process has failed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            return decode_finals(await self.process.stdout.readline())


class Daemon(_Child):
    """A real `voxplane node`. What it has is what its cache on disk holds."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__()
        self.name = name
        self._data = folder / name
        self._log = folder / f"{name}.log"

    async def start(self, address: str) -> None:
        """Start it, or start it again on what it had."""
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("LIVEKIT_", "VOXPLANE_"))
        }
        with self._log.open("ab") as out:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "voxplane", "node", "--server", address),
                *("--node-id", self.name, "--data-dir", str(self._data)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment | {"VOXPLANE_IDLE_JOBS": "0"},
            )

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await self.process.wait()

    def final(self) -> Final:
        """What is in its cache."""
        held: dict[str, Held] = {}
        for path in sorted((self._data / "node" / "cache").glob("*.cache")):
            try:
                snapshot = decode(path.read_bytes()).snapshot
            except (CorruptCache, OSError):
                continue  # then the tenant is missing, and that is what is said
            held[snapshot.tenant_id] = Held(
                at_of(snapshot.revision), dict(snapshot.etags), dict(snapshot.withheld)
            )
        return Final(time.monotonic(), self.name, "-", held=held)
