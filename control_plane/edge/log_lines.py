"""Lines of log on their way to a stream that may not take them."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from typing import TextIO

import structlog

GATHER_SECONDS = 0.02
"""Lines wait so long for others, as each write costs the event loop a little."""
LINES_MAX = 10_000
CLOSE_SECONDS_MAX = 1.0

_log = structlog.get_logger(__name__)


class LogLines:
    """A text stream that never blocks: what is written to it is passed on by a
    thread. Beyond `lines_max` lines are dropped, and how many is told later."""

    def __init__(self, stream: TextIO, lines_max: int = LINES_MAX) -> None:
        self._stream = stream
        self._lines_max = lines_max
        self._waiting: deque[str] = deque()
        self._dropped = 0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, text: str) -> int:
        """Part of TextIO's interface."""
        if len(self._waiting) < self._lines_max:
            self._waiting.append(text)
            if not self._wake.is_set():
                self._wake.set()
        else:
            self._dropped += 1
        return len(text)

    def flush(self) -> None:
        """Part of TextIO's interface. Does nothing: nobody is to wait."""

    def close(self) -> None:
        """Pass on what is left, unless the stream does not take it in time."""
        self._closing.set()
        self._wake.set()
        self._thread.join(CLOSE_SECONDS_MAX)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._closing.wait(GATHER_SECONDS)
            self._wake.clear()
            self._pass_on()
        self._pass_on()

    def _pass_on(self) -> None:
        text = "".join(self._waiting.popleft() for _ in range(len(self._waiting)))
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            # There is nobody left to tell.
            return
        dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.warning("lines of log were dropped, as nobody took them", lines=dropped)
