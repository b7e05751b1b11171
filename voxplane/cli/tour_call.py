"""The tour's caller: a process on LiveKit's SDK, and what it tells of the call.

It is a command of the node's package, as this one knows nothing of LiveKit.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEAVE_SECONDS_MAX = 5.0
LINE_BYTES_MAX = 4 * 1_048_576
LOG_BYTES_SHOWN = 500


class CallBroken(Exception):
    """What was waited for did not happen in the call; the message says what."""


@dataclass(frozen=True, slots=True)
class LiveKit:
    """A LiveKit server of this machine, and the one key that it knows."""

    url: str
    key: str
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        """How a node is told of it."""
        return {"LIVEKIT_URL": self.url, "LIVEKIT_API_KEY": self.key, "LIVEKIT_API_SECRET": self.secret}


@dataclass(frozen=True, slots=True)
class Happened:
    """Something that happened in the call, at a time.monotonic() of this machine."""

    kind: str
    at: float
    about: dict[str, Any]


@dataclass(slots=True)
class ReplyFields:
    """The fields of the newest reply, as a frontend gets them; see docs/frontend.md."""

    payloads: int = 0
    first_at: float = 0.0
    version: int = 0
    session_id: str = ""
    values: dict[str, Any] = field(default_factory=dict[str, Any])

    def take(self, at: float, payload: dict[str, Any]) -> None:
        """One more payload."""
        if payload["whole"]:
            self.values = {}
            self.payloads, self.first_at = 0, at
        self.payloads += 1
        self.version, self.session_id = payload["version"], payload["session_id"]
        self.values |= payload["fields"]
        for name, text in payload["deltas"].items():
            self.values[name] = self.values.get(name, "") + text


class VoiceCall:
    """A call under way. `patience` is the longest wait for anything, in seconds."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, patience: float) -> None:
        self.fields = ReplyFields()
        self.words = ""
        self._process = process
        self._log = log
        self._patience = patience
        self._measures = 0
        self._may_end = False

    def say(self, text: str) -> float:
        """Say something, by text; the agent ceases to speak, if it does. Returns the time."""
        self._write({"write": text})
        return time.monotonic()

    async def reply(self, since: float) -> None:
        """Until the fields of a reply have begun to come after `since`. Raises CallBroken."""
        if self.fields.first_at <= since:
            await self.until("fields", where=lambda told: self.fields.first_at > since)

    async def measure(self) -> dict[str, Any]:
        """What was heard since the last time: seconds, gaps and pitch."""
        self._measures += 1
        number = self._measures
        self._write({"measure": number})
        found = await self.until("measured", where=lambda told: told.about["measure"] == number)
        if found.about["heard"] is None:
            raise CallBroken("nothing was heard")
        return found.about["heard"]

    async def until(self, *kinds: str, where: Callable[[Happened], bool] = lambda told: True) -> Happened:
        """The next event of one of the kinds for which `where` is true. Raises CallBroken."""
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    told = await self._next()
                    if told.kind in kinds and where(told):
                        return told
        except TimeoutError:
            raise CallBroken(f"“{kinds[0]}” did not happen in the call within {self._patience:g} s") from None

    async def end(self) -> Happened:
        """Until the call is over: the agent has left, or has shown the caller out.
        Raises CallBroken."""
        self._may_end = True
        return await self.until("left", "disconnected")

    async def listen(self, seconds: float) -> None:
        """Let the call go on for a while."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    await self._next()
        except TimeoutError:
            return

    async def _next(self) -> Happened:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            await self._process.wait()
            raise CallBroken(f"the caller's process has ended: {self._last_words()}")
        about = json.loads(line)
        told = Happened(about.pop("event"), about.pop("at"), about)
        match told.kind:
            case "fields":
                self.fields.take(told.at, told.about["payload"])
            case "words":
                self.words = told.about["text"]
            case "left" | "disconnected" if not self._may_end:
                raise CallBroken("the agent has left the call")
            case _:
                pass
        return told

    def _write(self, line: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")

    def _last_words(self) -> str:
        text = self._log.read_bytes()[-LOG_BYTES_SHOWN:].decode("utf-8", "replace")
        return " | ".join(line for line in text.splitlines()[-3:] if line.strip()) or "without a word"


@asynccontextmanager
async def calling(
    livekit: LiveKit, log: Path, *, room: str, metadata: dict[str, Any], user: str, patience: float
) -> AsyncGenerator[VoiceCall]:
    """A caller in a room, to which the agent of the metadata is sent; it hangs up with the block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "voxplane", "demo-call", "--url", livekit.url, "--room", room),
            *("--user", user, "--metadata", json.dumps(metadata)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=out,
            env={**os.environ, **livekit.environment},
            start_new_session=True,
            limit=LINE_BYTES_MAX,
        )
    try:
        yield VoiceCall(process, log, patience)
    finally:
        await _hang_up(process)


async def _hang_up(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    ending = asyncio.create_task(process.communicate())
    await asyncio.wait({ending}, timeout=LEAVE_SECONDS_MAX)
    if process.returncode is None:
        process.kill()
    await ending
