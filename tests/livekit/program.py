"""A program inside the namespace, that a test may end and start again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.livekit.namespace import ROOT, Namespace

STOP_SECONDS_MAX = 20.0
LOG_SECONDS_MAX = 20.0
LOG_POLL_SECONDS = 0.02
LOG_BYTES_SHOWN = 4_000
_NOT_PASSED_ON = ("LIVEKIT_", "VOXPLANE_")


class ProgramError(Exception):
    """A program does not do what it is there for; the message holds the end of its log."""


class Program:
    """One program. What it says to its standard error is kept in `log`, over all its lives."""

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        *,
        namespace: Namespace,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        piped: bool = False,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._words = words
        self._namespace = namespace
        self._environment = environment or {}
        self._piped = piped
        self._process: asyncio.subprocess.Process | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The process, which may have ended."""
        assert self._process is not None, f"{self.name} has not been started"
        return self._process

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, for the first time or again."""
        assert not self.running, f"{self.name} is running"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._namespace.entering(self._words),
                stdin=asyncio.subprocess.PIPE if self._piped else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if self._piped else log,
                stderr=log,
                env={**kept, **self._environment},
                cwd=ROOT,
                limit=2**22,
            )

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self.running:
            self.process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.signal(signal.SIGKILL)
        await self.process.wait()

    async def ended(self, seconds: float = STOP_SECONDS_MAX) -> int:
        """Wait until it ends by itself; its exit status. Raises ProgramError."""
        try:
            return await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            raise self.failure("does not end") from None

    async def kill_if_running(self) -> None:
        """SIGKILL if it runs."""
        if self.running:
            await self.kill()

    async def stop(self, seconds: float = STOP_SECONDS_MAX) -> None:
        """SIGTERM, and SIGKILL if it still runs after so many seconds."""
        if not self.running:
            return
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            await self.kill()

    def entries(self, event: str = "", **fields: Any) -> list[dict[str, Any]]:
        """The lines of JSON in its log; of one event, and with these fields."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        found = [_entry(line) for line in lines if line.startswith("{")]
        return [
            entry
            for entry in found
            if event in ("", entry.get("event"), entry.get("msg"))
            and all(entry.get(name) == value for name, value in fields.items())
        ]

    async def logged(
        self, event: str, count: int = 1, seconds: float = LOG_SECONDS_MAX, **fields: Any
    ) -> list[dict[str, Any]]:
        """The entries, once there are so many. Raises ProgramError if it ends before or the time is over."""
        deadline = asyncio.get_running_loop().time() + seconds
        while len(found := self.entries(event, **fields)) < count:
            if not self.running or asyncio.get_running_loop().time() > deadline:
                raise self.failure(f"does not log “{event}” {count} times")
            await asyncio.sleep(LOG_POLL_SECONDS)
        return found

    def failure(self, what: str) -> ProgramError:
        """An error that shows the end of the log."""
        return ProgramError(f"{self.name} {what}; its log ends with\n{self.log_end()}")

    def log_end(self) -> str:
        """The end of what it has said."""
        return self.log.read_bytes()[-LOG_BYTES_SHOWN:].decode(errors="replace") if self.log.exists() else ""


def _entry(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:
        return {}
