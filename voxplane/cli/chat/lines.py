"""Lines that the user types, read beside an event loop.

A thread waits for them, as a terminal and a file cannot be waited for alike.
It is a daemon and holds no lock of Python's while it waits, so that the
process can end without another line.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import queue
import sys
import termios
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

READ_BYTES = 65_536
LINE_CHARS_MAX = 60_000


class Lines:
    """The lines of standard input, one for each prompt."""

    def __init__(self, read: Callable[[str], str | None]) -> None:
        self._read = read
        self._prompts: queue.SimpleQueue[tuple[str, asyncio.Future[str | None]]] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._work, daemon=True, name="lines").start()

    async def next(self, prompt: str) -> str | None:
        """The next line without its end; None at the end of the input."""
        wanted: asyncio.Future[str | None] = self._loop.create_future()
        self._prompts.put((prompt, wanted))
        return await wanted

    def _work(self) -> None:
        while True:
            prompt, wanted = self._prompts.get()
            line = self._read(prompt)
            try:
                self._loop.call_soon_threadsafe(_answer, wanted, line)
            except RuntimeError:
                return  # the loop has ended meanwhile


def _answer(wanted: asyncio.Future[str | None], line: str | None) -> None:
    if not wanted.done():
        wanted.set_result(line)


@contextmanager
def terminal_lines() -> Generator[Lines]:
    """Lines that are edited at a terminal; it is left as it was found."""
    before = termios.tcgetattr(sys.stdin.fileno())
    try:
        yield Lines(_ask)
    finally:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)


@contextmanager
def piped_lines() -> Generator[Lines]:
    """Lines from a pipe or a file."""
    found = _split(sys.stdin.fileno())
    yield Lines(lambda prompt: next(found, None))


def _ask(prompt: str) -> str | None:
    try:
        return input(prompt)
    except EOFError:
        return None


def _split(file: int) -> Iterator[str]:
    """Lines by os.read: a thread that waits in sys.stdin would hold its lock
    when the interpreter ends."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    rest = ""
    while data := os.read(file, READ_BYTES):
        *lines, rest = (rest + decode(data)).split("\n")
        yield from lines
        while len(rest) > LINE_CHARS_MAX:
            yield rest[:LINE_CHARS_MAX]
            rest = rest[LINE_CHARS_MAX:]
    if rest:
        yield rest
