"""A channel over TLS whose files may be renewed while it is in use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

import grpc

from voxplane.tls import ClientTls, Stamp, TlsError, stamp


class _Opened:
    """A channel, and how many of its calls go on."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.calls = 0


class RenewedChannel(grpc.aio.Channel):
    """gRPC reads the files of TLS once for a channel. Here a call that begins
    after they have changed has a channel of its own, which later ones share;
    those that go on keep theirs. Files that cannot be used change nothing."""

    def __init__(
        self,
        tls: ClientTls,
        open_channel: Callable[[grpc.ChannelCredentials], grpc.aio.Channel],
        renewed: Callable[[TlsError | None], None] = lambda error: None,
    ) -> None:
        """`renewed` is told of changed files, with the error if they cannot be
        used. Raises TlsError."""
        self._tls = tls
        self._open = open_channel
        self._tell = renewed
        self._stamp: Stamp = stamp(tls.files)
        self._newest = _Opened(open_channel(tls.credentials()))
        self._older: set[_Opened] = set()
        self._closing: set[asyncio.Task[None]] = set()

    # Part of gRPC's interface.

    def unary_unary(self, method: str, *codec: Any, **more: Any) -> Any:
        """See grpc.aio.Channel."""
        return self._method("unary_unary", method, codec, more)

    def unary_stream(self, method: str, *codec: Any, **more: Any) -> Any:
        """See grpc.aio.Channel."""
        return self._method("unary_stream", method, codec, more)

    def stream_unary(self, method: str, *codec: Any, **more: Any) -> Any:
        """See grpc.aio.Channel."""
        return self._method("stream_unary", method, codec, more)

    def stream_stream(self, method: str, *codec: Any, **more: Any) -> Any:
        """See grpc.aio.Channel."""
        return self._method("stream_stream", method, codec, more)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """See grpc.aio.Channel."""
        return self._current().channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See grpc.aio.Channel."""
        await self._newest.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """See grpc.aio.Channel."""
        await self._current().channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """See grpc.aio.Channel."""
        older, self._older = self._older, set()
        await asyncio.gather(*(each.channel.close(grace) for each in (self._newest, *older)), *self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    def _method(self, kind: str, method: str, codec: tuple[Any, ...], more: dict[str, Any]) -> Any:
        def begin(*arguments: Any, **options: Any) -> Any:
            opened = self._current()

            def ended(_: object) -> None:
                opened.calls -= 1
                self._let_go(opened)

            call: Any = getattr(opened.channel, kind)(method, *codec, **more)(*arguments, **options)
            opened.calls += 1
            call.add_done_callback(ended)
            return call

        return begin

    def _let_go(self, opened: _Opened) -> None:
        if opened in self._older and not opened.calls:
            self._older.remove(opened)
            task = asyncio.get_running_loop().create_task(opened.channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _current(self) -> _Opened:
        found = stamp(self._tls.files)
        if found == self._stamp:
            return self._newest
        self._stamp = found
        try:
            opened = _Opened(self._open(self._tls.credentials()))
        except TlsError as error:
            self._tell(error)
            return self._newest
        self._tell(None)
        replaced, self._newest = self._newest, opened
        self._older.add(replaced)
        self._let_go(replaced)
        return opened
