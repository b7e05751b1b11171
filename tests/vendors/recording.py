"""What the vendors were asked, and how they are told to misbehave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from aiohttp import web

_SCHEMES = ("Bearer ", "Token ")


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
    """One request, or one message on a websocket that asks for an answer.

    `at` is time.monotonic() of its arrival, which all processes of a machine
    share. The names of `headers` are in lower case.
    """

    path: str
    body: Mapping[str, Any]
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    at: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> str:
        """The API key that it came with."""
        return key_of(self.headers)


def key_of(headers: Mapping[str, str]) -> str:
    """The API key of a request: what its Authorization says behind Bearer or Token."""
    said = headers.get("authorization", "")
    return next((said.removeprefix(scheme) for scheme in _SCHEMES if said.startswith(scheme)), said)


def came(http: web.Request, body: Mapping[str, Any], path: str = "") -> Request:
    """What has come over HTTP, at its own path or at `path`."""
    headers = {name.lower(): value for name, value in http.headers.items()}
    return Request(path or http.path, body, dict(http.query), headers)


@dataclass(slots=True)
class _Planned:
    path: str
    fault: Fault
    key: str
    left: int


class Recorder:
    """Requests in order of arrival, and the faults that wait for the next ones."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.arrived = asyncio.Condition()
        self._planned: list[_Planned] = []

    def of(self, path: str, key: str = "") -> list[Request]:
        """The requests to one path, of all keys or of one."""
        return [
            request for request in self.requests if request.path == path and (not key or request.key == key)
        ]

    def break_next(self, path: str, fault: Fault, times: int = 1, key: str = "") -> None:
        """The next `times` requests to `path`, of all keys or of one, go wrong."""
        self._planned.append(_Planned(path, fault, key, times))

    async def add(self, request: Request) -> None:
        """Keep the request and wake who waits for it."""
        async with self.arrived:
            self.requests.append(request)
            self.arrived.notify_all()

    def take_fault(self, path: str, key: str = "") -> Fault | None:
        """The fault for the request that has just come, if there is one."""
        for planned in self._planned:
            if planned.path == path and planned.key in ("", key):
                planned.left -= 1
                self._planned = [each for each in self._planned if each.left > 0]
                return planned.fault
        return None

    async def wait(self, path: str, count: int = 1, key: str = "") -> list[Request]:
        """The requests to `path`, once there are at least `count`."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.of(path, key)) >= count)
        return self.of(path, key)

    def clear(self) -> None:
        """Forget what was asked, and plan no more faults."""
        self.requests.clear()
        self._planned.clear()
