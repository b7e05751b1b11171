"""The fields of a session's replies on their way to its caller's frontend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from agent_node.job.field_feed import FieldFeed, Result, Sending, Way
from agent_node.job.reply_events import ReplyEvent
from voxplane.clock import Clock

CLOSE_SECONDS_MAX = 1.0
"""For what is still to be told when the session ends."""
FRONTEND = "frontend"
FAILURES = frozenset({Result.REFUSED, Result.NO_ANSWER, Result.FAILED})
"""What counts as an error; a method that is not registered is not one."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class NotDelivered(Exception):
    """A payload did not arrive, or its handler failed. `code` is LiveKit's, or
    the name of the error."""

    def __init__(self, result: Result, code: str) -> None:
        super().__init__(f"{result.value} ({code})")
        self.result = result
        self.code = code


class FrontendPort(Protocol):
    """The way to the caller's frontend. room_frontend.RoomPort is the real one."""

    async def rpc(self, method: str, payload: str) -> None:
        """Call the method. Raises NotDelivered."""
        ...

    async def text(self, topic: str, payload: str) -> None:
        """Send a text stream. Raises NotDelivered."""
        ...


class Frontend:
    """Sends what `feed` wants to be sent. Make it on the loop, and `aclose` it.

    `count` is told of each failure (`error="frontend"`), `failed` why.
    """

    def __init__(
        self,
        feed: FieldFeed,
        port: FrontendPort,
        clock: Clock,
        *,
        count: Callable[..., None],
        failed: Callable[[str, str], None] | None = None,
    ) -> None:
        self._feed = feed
        self._port = port
        self._clock = clock
        self._count = count
        self._failed = failed
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._sending: asyncio.Task[Result] | None = None
        self._last = Result.DELIVERED
        self._running = asyncio.create_task(self._run(), name="frontend")

    def take(self, event: ReplyEvent, turn: int) -> None:
        """Something happened in a reply of the turn. Never waits."""
        self._feed.take(event, turn)
        self._changed.set()

    def problem(self, source: str, message: str, turn: int) -> None:
        """Something went wrong outside a reply. Never waits."""
        self._feed.problem(source, message, turn)
        self._changed.set()

    def caller(self, *, present: bool) -> None:
        """The caller has joined, perhaps in place of another, or has left."""
        self._feed.caller(present=present)
        if self._sending is not None:
            self._sending.cancel()  # it was for one that is not there any more
        self._changed.set()

    async def aclose(self) -> None:
        """Send what is left, for at most CLOSE_SECONDS_MAX."""
        if not self._feed.idle:
            self._idle.clear()
            await self._either(self._idle, CLOSE_SECONDS_MAX)
        self._running.cancel()
        await asyncio.wait({self._running})

    async def _run(self) -> None:
        try:
            while True:
                await self._step()
        finally:
            if self._sending is not None:
                self._sending.cancel()

    async def _step(self) -> None:
        now = self._clock.monotonic()
        sending = self._feed.next(now)
        if sending is None:
            if self._feed.idle:
                self._idle.set()
            await self._either(self._changed, self._feed.wait(now))
            self._changed.clear()
            return
        self._idle.clear()
        self._sending = asyncio.create_task(self._send(sending), name="send fields")
        await asyncio.wait({self._sending})
        result = Result.GONE if self._sending.cancelled() else self._sending.result()
        self._sending = None
        self._feed.sent(result, self._clock.monotonic())

    async def _send(self, sending: Sending) -> Result:
        send = self._port.rpc if sending.way is Way.RPC else self._port.text
        try:
            await send(sending.method, sending.payload)
        except NotDelivered as error:
            return self._not_delivered(sending, error.result, error.code)
        except Exception as error:
            return self._not_delivered(sending, Result.FAILED, type(error).__name__)
        self._last = Result.DELIVERED
        return Result.DELIVERED

    def _not_delivered(self, sending: Sending, result: Result, code: str) -> Result:
        if result in FAILURES:
            self._count(error=FRONTEND)
            if self._failed is not None:
                self._failed(FRONTEND, f"{sending.way.value}: {result.value} ({code})")
        if result is not self._last:
            self._last = result
            _log.info("a payload did not reach the frontend", way=sending.way.value, code=code)
        return result

    async def _either(self, event: asyncio.Event, seconds: float | None) -> None:
        """Until the event is set or the time has passed."""
        waits: set[asyncio.Task[object]] = {asyncio.create_task(event.wait())}
        if seconds is not None:
            waits.add(asyncio.create_task(self._clock.sleep(seconds)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
