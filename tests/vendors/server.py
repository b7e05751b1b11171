"""Both vendors on one port of the loopback."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from aiohttp import web

from tests.vendors import control, deepgram, openai, realtime
from tests.vendors.otlp import TraceReceiver
from tests.vendors.recording import Recorder
from tests.vendors.script import Pace, Plan, Reply, Script

SHUTDOWN_SECONDS = 0.1


class Vendors:
    """OpenAI's and Deepgram's protocols at `url`; `async with Vendors() as vendors`.

    `recorder` holds what was asked and takes faults, `transcripts` what the
    next utterances are heard as, `replies` what the model answers, `pace` how
    fast. With `socket` all of it can also be told and asked over that Unix
    socket, and there is a receiver of traces.
    """

    def __init__(self, port: int = 0, socket: Path | None = None) -> None:
        self.recorder = Recorder()
        self._plan = Plan()
        self._port = port
        self._socket = socket
        self._receiver = TraceReceiver() if socket is not None else None
        self._held = AsyncExitStack()
        app = web.Application()
        app.on_response_prepare.append(_identify)
        app.add_routes(openai.routes(self.recorder, self._plan))
        app.add_routes(realtime.routes(self.recorder, self._plan))
        app.add_routes(deepgram.routes(self.recorder, self._plan))
        app.add_routes(control.routes(self.recorder, self._plan, self._receiver))
        self._runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN_SECONDS, handler_cancellation=True)

    @property
    def transcripts(self) -> Script[str]:
        """What the next utterances are heard as."""
        return self._plan.transcripts

    @property
    def replies(self) -> Script[Reply]:
        """What the model answers next."""
        return self._plan.replies

    @property
    def pace(self) -> Pace:
        """How fast the vendors are."""
        return self._plan.pace

    @property
    def url(self) -> str:
        """http://127.0.0.1:port, Deepgram's base_url."""
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    @property
    def openai_url(self) -> str:
        """OpenAI's base_url."""
        return f"{self.url}/v1"

    @property
    def traces_url(self) -> str:
        """Langfuse's base_url; there is none without a control socket."""
        return self._receiver.url if self._receiver is not None else ""

    async def __aenter__(self) -> Vendors:
        await self._runner.setup()
        self._held.push_async_callback(self._runner.cleanup)
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        if self._receiver is not None and self._socket is not None:
            await self._held.enter_async_context(self._receiver)
            await web.UnixSite(self._runner, str(self._socket)).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._held.aclose()


async def _identify(request: web.Request, response: web.StreamResponse) -> None:
    """Answers have an id, as the vendors' own have, which are looked for in their support."""
    response.headers.setdefault("x-request-id", f"req_{uuid4().hex}")
