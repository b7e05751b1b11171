"""The way out of one stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from google.protobuf.message import Message

from voxplane.errors import VoxplaneError

MessageT = TypeVar("MessageT", bound=Message)
Write = Callable[[MessageT], Awaitable[object]]
"""Hands one message to the transport; returns when it can take the next."""


class Outlet(Generic[MessageT]):
    """One task, the one that makes it, sends and waits; all others wake it and
    end it. What is to be sent is looked up before it waits: nobody hands it
    anything."""

    def __init__(self, write: Write[MessageT]) -> None:
        self._write = write
        self._task = asyncio.current_task()
        self._waiter: asyncio.Future[None] | None = None
        self._ending: VoxplaneError | None = None
        self._writing = False
        self._interrupted = False

    async def send(self, message: MessageT) -> None:
        """Send one message. Raises the error that the stream is ended with, also
        while the other side does not read."""
        self._check()
        self._writing = True
        try:
            await self._write(message)
        except asyncio.CancelledError:
            if self._interrupted and self._ending and self._task and not self._task.uncancel():
                raise self._ending from None
            raise
        finally:
            self._writing = False

    async def wait(self) -> None:
        """Wait to be woken. Raises the error that the stream is ended with."""
        self._check()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        self._check()

    def wake(self) -> None:
        """There is something to look at."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self, error: VoxplaneError) -> None:
        """End the stream, at once."""
        if self._ending is not None:
            return
        self._ending = error
        self.wake()
        if self._writing and self._task is not None:
            self._interrupted = True
            self._task.cancel()

    def _check(self) -> None:
        if self._ending is not None:
            raise self._ending
