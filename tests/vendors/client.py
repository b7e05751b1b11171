"""The control endpoint of vendors that run in another process."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from tests.vendors.control import CONTROL
from tests.vendors.otlp import ReceivedSpan
from tests.vendors.recording import Fault, Request
from tests.vendors.script import Reply, to_json

WAIT_SECONDS = 20.0
_HOST = "http://vendors"


class VendorsClient:
    """Tells and asks the vendors over their Unix socket; `async with VendorsClient(socket) as vendors`.

    With `key`, what is told and asked is of one API key alone.
    """

    def __init__(self, socket: Path) -> None:
        self._http = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)))

    async def requests(self, path: str = "", key: str = "") -> list[Request]:
        """What was asked, in order of arrival."""
        return _requests(await self._get("requests", path=path, key=key))

    async def wait(
        self, path: str, count: int = 1, key: str = "", seconds: float = WAIT_SECONDS
    ) -> list[Request]:
        """The requests to `path`, once there are `count`. Raises TimeoutError."""
        asked = {"path": path, "key": key, "count": str(count), "seconds": str(seconds)}
        found = _requests(await self._get("requests", **asked))
        if len(found) < count:
            raise TimeoutError(f"{len(found)} requests to {path} in {seconds:g} s, not {count}")
        return found

    async def break_next(self, path: str, fault: Fault, times: int = 1, key: str = "") -> None:
        """The next requests to `path` go wrong."""
        await self._post("faults", path=path, fault=fault.value, times=times, key=key)

    async def hear(self, *texts: str, key: str = "") -> None:
        """What the next utterances are heard as."""
        await self._post("transcripts", texts=texts, key=key)

    async def answer(self, *replies: Reply, key: str = "") -> None:
        """What the model's next replies are."""
        await self._post("replies", replies=[to_json(reply) for reply in replies], key=key)

    async def pace(self, *, first: float = 0.0, chunk: float = 0.0, speech: float = 0.0) -> None:
        """The seconds that the vendors take; see script.Pace."""
        await self._post("pace", first=first, chunk=chunk, speech=speech)

    async def traces_url(self) -> str:
        """The base_url of the receiver of traces."""
        return (await self._get("spans"))["url"]

    async def spans(self, keys: str = "", holding: str = "") -> list[ReceivedSpan]:
        """The spans that came with these keys and hold this text in an attribute."""
        return _spans(await self._get("spans", keys=keys, holding=holding))

    async def wait_spans(
        self, keys: str = "", holding: str = "", seconds: float = WAIT_SECONDS
    ) -> list[ReceivedSpan]:
        """Those spans, once there are some. Raises TimeoutError."""
        asked = {"keys": keys, "holding": holding, "seconds": str(seconds)}
        found = _spans(await self._get("spans", **asked))
        if not found:
            raise TimeoutError(f"no span with {holding!r} in {seconds:g} s")
        return found

    async def reset(self) -> None:
        """Forget all that was asked and told."""
        await self._post("reset")

    async def _get(self, what: str, **query: str) -> Any:
        async with self._http.get(f"{_HOST}{CONTROL}/{what}", params=query, raise_for_status=True) as answer:
            return await answer.json()

    async def _post(self, what: str, **told: object) -> None:
        async with self._http.post(f"{_HOST}{CONTROL}/{what}", json=told, raise_for_status=True):
            pass

    async def __aenter__(self) -> VendorsClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()


def _requests(found: list[dict[str, Any]]) -> list[Request]:
    return [Request(**each) for each in found]


def _spans(found: dict[str, Any]) -> list[ReceivedSpan]:
    return [ReceivedSpan(**each) for each in found["spans"]]
