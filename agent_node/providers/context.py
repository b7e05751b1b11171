"""What the models of one job share: secrets, HTTP clients, one HTTP session."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache
from ssl import SSLContext

import aiohttp
import httpx2
import openai

from agent_node.providers.models import LLM, STT, TTS, VAD
from agent_node.providers.secrets import SecretResolver, allowed_by

CONNECTIONS_PER_CLIENT_MAX = 50
KEEPALIVE_SECONDS = 120
OFFLINE_PAUSE_SECONDS = 0.03


@cache
def ssl_context() -> SSLContext:
    """The process' one TLS context: making it takes 40 ms, a client with it 0.4 ms."""
    return httpx2.create_ssl_context()


@dataclass(slots=True)
class _Shared:
    client: openai.AsyncClient
    users: int = 0


class ClientPool:
    """One openai.AsyncClient per (address, key), closed when its last model is."""

    def __init__(self) -> None:
        self._shared: dict[tuple[str, str], _Shared] = {}

    def __len__(self) -> int:
        return len(self._shared)

    def acquire(self, base_url: str, api_key: str) -> openai.AsyncClient:
        """The client for this address and key; give it back by `release`."""
        shared = self._shared.get((base_url, api_key))
        if shared is None:
            shared = _Shared(_client(base_url, api_key))
            self._shared[(base_url, api_key)] = shared
        shared.users += 1
        return shared.client

    async def release(self, client: openai.AsyncClient) -> None:
        """One model less uses the client. Unknown clients are ignored."""
        for key, shared in self._shared.items():
            if shared.client is client:
                shared.users -= 1
                if shared.users <= 0:
                    del self._shared[key]
                    await client.close()
                return

    def unuse(self, client: openai.AsyncClient) -> None:
        """The model for which the client was acquired has not come about. The
        client stays for the next, or until all are closed."""
        for shared in self._shared.values():
            if shared.client is client:
                shared.users -= 1

    async def aclose(self) -> None:
        """Close all clients, used or not."""
        shared, self._shared = list(self._shared.values()), {}
        await asyncio.gather(*(each.client.close() for each in shared))


def _client(base_url: str, api_key: str) -> openai.AsyncClient:
    limits = httpx2.Limits(
        max_connections=CONNECTIONS_PER_CLIENT_MAX,
        max_keepalive_connections=CONNECTIONS_PER_CLIENT_MAX,
        keepalive_expiry=KEEPALIVE_SECONDS,
    )
    # timeouts and retries belong to the model, which gives them with each request
    return openai.AsyncClient(
        api_key=api_key,
        base_url=base_url,
        max_retries=0,
        http_client=httpx2.AsyncClient(verify=ssl_context(), limits=limits),
    )


class _LazySession:
    """The job's one aiohttp session, made on the loop that first asks for it."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def __call__(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession()
        return self._session

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


async def _short_pause() -> None:
    await asyncio.sleep(OFFLINE_PAUSE_SECONDS)


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What builders need. Its owner closes it, after the models: `await context.aclose()`.

    `http_session` gives the job's shared session; it is called on a running loop.
    """

    secrets: SecretResolver
    http_session: Callable[[], aiohttp.ClientSession]
    clients: ClientPool = field(default_factory=ClientPool)
    offline_pause: Callable[[], Awaitable[None]] = _short_pause
    """Awaited before each chunk by offline models whose name ends with -slow."""
    _closing: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    def discard(self, model: LLM | STT | TTS) -> None:
        """Close a model that nobody gets, in the background."""
        task = asyncio.get_running_loop().create_task(model.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Close what the models shared."""
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self.clients.aclose()
        if isinstance(self.http_session, _LazySession):
            await self.http_session.aclose()


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a config a model is described, and what it is built with.

    path: of the block, such as "llm_config.fallbacks[0]", for errors.
    last: whether no other model takes over where this one fails.
    vad: the session's, for speech to text that does not find speech by itself.
    """

    context: BuildContext
    path: str
    last: bool = True
    vad: VAD | None = None

    def secret(self, reference: str) -> str:
        """The key of the block. Raises VoxplaneError(SECRET_UNAVAILABLE)."""
        return self.context.secrets.resolve(reference, f"{self.path}.api_key")


def new_context(
    secrets: SecretResolver | None = None, offline_pause: Callable[[], Awaitable[None]] = _short_pause
) -> BuildContext:
    """A context of its own, with the node's allow-list unless `secrets` is given."""
    return BuildContext(
        secrets=secrets or allowed_by(os.environ), http_session=_LazySession(), offline_pause=offline_pause
    )
