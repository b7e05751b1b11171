"""Both vendors on one port of the loopback."""

from __future__ import annotations

from collections import deque
from types import TracebackType

from aiohttp import web

from tests.vendors import deepgram, openai
from tests.vendors.recording import Recorder

SHUTDOWN_SECONDS = 0.1


class Vendors:
    """OpenAI's and Deepgram's protocols at `url`; `async with Vendors() as vendors`.

    `recorder` holds what was asked and takes faults, `transcripts` what the
    next utterances are heard as.
    """

    def __init__(self, port: int = 0) -> None:
        self.recorder = Recorder()
        self.transcripts: deque[str] = deque()
        app = web.Application()
        app.add_routes(openai.routes(self.recorder))
        app.add_routes(deepgram.routes(self.recorder, self.transcripts))
        self._runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN_SECONDS, handler_cancellation=True)
        self._port = port

    @property
    def url(self) -> str:
        """http://127.0.0.1:port, Deepgram's base_url."""
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    @property
    def openai_url(self) -> str:
        """OpenAI's base_url."""
        return f"{self.url}/v1"

    async def __aenter__(self) -> Vendors:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
