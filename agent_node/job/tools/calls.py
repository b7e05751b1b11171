"""Every call of a tool: measured, logged, counted, and broken off at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import structlog
from livekit.agents import ToolError

from voxplane.clock import Clock

Kind = Literal["http", "mcp", "session"]

OK = "ok"
STOPPED = "stopped"
CANCELLED = "cancelled"
INTERNAL = "internal"

T = TypeVar("T")

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that has ended. It holds no arguments and no answer.

    status: `ok`, or why it failed, in a word such as `http_404` or `timeout`.
    """

    tool: str
    kind: Kind
    seconds: float
    status: str

    @property
    def failed(self) -> bool:
        """Whether the model was told of a failure."""
        return self.status != OK

    @property
    def message(self) -> str:
        """The failure, for those who run the agent."""
        return f"{self.tool}: {self.status}"


OnCall = Callable[[ToolCall], None]


class ToolFailed(ToolError):
    """A call that failed: its text is for the model, its status for figures."""

    def __init__(self, status: str, said: str) -> None:
        super().__init__(said)
        self.status = status


class Calls:
    """The calls of one tool set."""

    def __init__(self, clock: Clock, on_call: OnCall) -> None:
        self._clock = clock
        self._on_call = on_call
        self._running: set[asyncio.Task[Any]] = set()
        self._stopped = False

    async def run(self, tool: str, kind: Kind, work: Coroutine[Any, Any, T]) -> T:
        """The outcome of a call. Raises ToolFailed, whatever happens in it."""
        began = self._clock.monotonic()
        status = INTERNAL
        try:
            outcome = await self._run(work)
            status = OK
            return outcome
        except ToolFailed as failed:
            status = failed.status
            raise
        except asyncio.CancelledError:
            status = CANCELLED
            raise
        except Exception as error:
            # its text may quote an argument, an answer or a key
            _log.error("a tool broke", tool=tool, kind=kind, error=type(error).__name__)
            raise ToolFailed(INTERNAL, "The tool failed.") from None
        finally:
            self._told(ToolCall(tool, kind, self._clock.monotonic() - began, status))

    def stop(self) -> None:
        """Break off what runs, and let nothing begin."""
        self._stopped = True
        for task in self._running:
            task.cancel()

    async def idle(self, seconds: float) -> None:
        """Wait until nothing runs, at most so long."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=seconds)

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._stopped:
            work.close()
            raise _stopped()
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self._stopped and current is not None and not current.cancelling():
                raise _stopped() from None
            raise

    def _told(self, call: ToolCall) -> None:
        log = _log.warning if call.failed else _log.info
        log("tool called", tool=call.tool, kind=call.kind, ms=round(call.seconds * 1e3), status=call.status)
        try:
            self._on_call(call)
        except Exception as error:
            _log.error("a tool's call was not counted", tool=call.tool, error=type(error).__name__)


def _stopped() -> ToolFailed:
    return ToolFailed(STOPPED, "The tool is not there any more.")
