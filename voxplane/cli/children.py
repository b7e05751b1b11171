"""Child processes of `voxplane dev` that never outlive it.

A child has a session of its own, so that Ctrl-C in the terminal reaches this
process alone, which then ends its children in order. A child's standard input
is a pipe that is held here and never written to: `--end-with-stdin` ends the
child when it closes, also when this process was killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

END_WITH_STDIN = "--end-with-stdin"
ORPHAN_SECONDS_MAX = 20.0
LOG_LINES_SHOWN = 4
LOG_BYTES_MAX = 10_000_000


class Child:
    """A running `voxplane` command; its output is in the file `log`."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, log: Path, begin: int, stop_seconds: float
    ) -> None:
        self.name = name
        self.log = log
        self._begin = begin
        self._stop_seconds = stop_seconds
        self._process = process

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Until it has ended; the exit code."""
        return await self._process.wait()

    async def stop(self, hurry: asyncio.Event) -> None:
        """End it: SIGTERM, and SIGKILL after `stop_seconds` or when in a hurry."""
        if self._process.returncode is not None:
            return
        self._signal(signal.SIGTERM)
        ended = asyncio.create_task(self._process.wait())
        hurried = asyncio.create_task(hurry.wait())
        try:
            await asyncio.wait(
                {ended, hurried}, timeout=self._stop_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if not ended.done():
                self._signal(signal.SIGKILL)
                await ended
        finally:
            hurried.cancel()

    def last_words(self) -> list[str]:
        """The end of its log, as people read it."""
        with self.log.open("rb") as log:
            log.seek(self._begin)
            text = log.read().decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if line.strip()]
        return [_plain(line) for line in lines[-LOG_LINES_SHOWN:]]

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)


async def start_child(
    name: str,
    *arguments: str,
    log: Path,
    environment: Mapping[str, str],
    stop_seconds: float,
    without: Collection[str] = (),
) -> Child:
    """Run `voxplane ARGUMENTS`; `environment` is added to this process's own, less
    the variables `without`. Its output is added to the log, which is begun anew if it is large."""
    own = {name: value for name, value in os.environ.items() if name not in without}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        if out.tell() > LOG_BYTES_MAX:
            out.truncate(0)
        begin = out.tell()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "voxplane", END_WITH_STDIN, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=out,
            stderr=out,
            env={**own, **environment},
            start_new_session=True,
        )
    return Child(name, process, log, begin, stop_seconds)


def end_with_stdin() -> None:
    """From now on, end this process when its standard input does: gently, and
    after ORPHAN_SECONDS_MAX for certain."""
    threading.Thread(target=_watch_stdin, daemon=True, name="end-with-stdin").start()


def _watch_stdin() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_SECONDS_MAX)
    os._exit(1)


def _plain(line: str) -> str:
    try:
        entry: object = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict):
        return line
    fields = cast("dict[str, Any]", entry)
    return f"{fields.get('level', '')}: {fields.get('event', '')} {fields.get('error', '')}".strip()
