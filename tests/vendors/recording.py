"""What the vendors were asked, and how they are told to misbehave."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Fault(Enum):
    """What goes wrong with one request."""

    HANG = "hang"
    """It is taken and never answered."""
    ERROR = "error"
    """HTTP status 500."""
    HALF = "half"
    """The answer breaks off in the middle of its JSON or audio."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, or one message on a websocket that asks for an answer."""

    path: str
    body: Mapping[str, Any]
    query: Mapping[str, str] = field(default_factory=dict)


class Recorder:
    """Requests in order of arrival, and the faults that wait for the next ones."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.arrived = asyncio.Condition()

    def of(self, path: str) -> list[Request]:
        """The requests to one path."""
        return [request for request in self.requests if request.path == path]

    def break_next(self, path: str, fault: Fault, times: int = 1) -> None:
        """The next `times` requests to `path` go wrong."""
        self._faults[path].extend([fault] * times)

    async def add(self, request: Request) -> None:
        """Keep the request and wake who waits for it."""
        async with self.arrived:
            self.requests.append(request)
            self.arrived.notify_all()

    def take_fault(self, path: str) -> Fault | None:
        """The fault for the request that has just come, if there is one."""
        return self._faults[path].popleft() if self._faults[path] else None

    async def wait(self, path: str, count: int = 1) -> list[Request]:
        """The requests to `path`, once there are at least `count`."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.of(path)) >= count)
        return self.of(path)
