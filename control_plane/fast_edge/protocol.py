"""Carries out on a socket what a connection decides, and serves its calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import structlog
from google.rpc import code_pb2

from control_plane.edge.around import Proceed
from control_plane.fast_edge import wire
from control_plane.fast_edge.call import Call
from control_plane.fast_edge.connection import Connection
from control_plane.fast_edge.events import Asked, Began, Came, Event, Gone, Over, Refused, Went
from control_plane.fast_edge.limits import UNSENT_BYTES_HIGH
from control_plane.fast_edge.outgoing import Sending
from control_plane.fast_edge.wire import CallError, Headers
from control_plane.services.config_sync import Method
from control_plane.watch.serving import Push

CLOSE_SECONDS = 2.0
"""How long a client may take to read what ends its connection, and to end it."""
ALPN = "h2"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Around:
    """What all connections of a listener use together. `enter` says whether
    there is room for one more; `leave` is told that it is over."""

    methods: Mapping[str, tuple[Method, Proceed]]
    make: Callable[[], Connection]
    monotonic: Callable[[], float]
    enter: Callable[[EdgeProtocol], bool]
    leave: Callable[[EdgeProtocol], None]
    secure: bool


class _Pusher:
    """Gives the socket messages that need not wait."""

    __slots__ = ("_frames", "_made", "_write")

    def __init__(self, sending: Sending, made: Sequence[bytes], transport: asyncio.Transport) -> None:
        self._frames = sending.frames
        self._made = made
        self._write = transport.write

    def push(self, shared: bytes, own: bytes) -> bool:
        """See control_plane.watch.serving.Push."""
        if self._made or not (frames := self._frames(shared, own)):
            return False
        self._write(frames)
        return True


class EdgeProtocol(asyncio.Protocol):
    """One client's connection. It is the line of its calls."""

    __slots__ = ("_around", "_calls", "_connection", "_flushing", "_transport")

    def __init__(self, around: Around) -> None:
        self._around = around
        self._calls: dict[int, Call] = {}
        self._connection: Connection | None = None
        self._transport: asyncio.Transport | None = None
        self._flushing = False

    @property
    def calls(self) -> int:
        """Calls that are being served."""
        return len(self._calls)

    @property
    def busy(self) -> bool:
        """Whether calls are being served, or may be on their way from a client that
        was not told to send no more."""
        connection = self._connection
        return connection is not None and not connection.over and (bool(self._calls) or not connection.told)

    # Part of asyncio's interface.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = socket = cast("asyncio.Transport", transport)
        tls: Any = socket.get_extra_info("ssl_object")
        if (self._around.secure and tls.selected_alpn_protocol() != ALPN) or not self._around.enter(self):
            socket.abort()
            return
        socket.set_write_buffer_limits(UNSENT_BYTES_HIGH)
        # What the server begins with goes out with its first answer.
        self._connection = self._around.make()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        connection = self._connection
        if connection is not None:
            self._dispatch(connection.receive(data, self._around.monotonic()))
            # Not at once: a call that has just begun may add to it.
            if connection.outgoing.has_some:
                self._flush_soon()

    def pause_writing(self) -> None:
        """See asyncio.Protocol. Who does not read is not read from."""
        if self._connection is not None and self._transport is not None:
            self._connection.outgoing.blocked = True
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        if self._connection is not None and self._transport is not None:
            self._connection.outgoing.blocked = False
            self._transport.resume_reading()
            self._dispatch(self._connection.push())
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._connection is not None:
            self._connection.close("the client has gone")
            self._connection = None
            self._around.leave(self)
        self._transport = None
        self._drop_calls()

    # For the listener.

    def tick(self) -> None:
        """Time has passed."""
        if self._connection is not None:
            self._dispatch(self._connection.tick(self._around.monotonic()))
            self._flush()

    def abort(self) -> None:
        """End the connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    def go_away(self) -> None:
        """Take no new calls, once the client knows."""
        if self._connection is not None:
            self._connection.leave(self._around.monotonic())
            self._flush()

    def close(self) -> None:
        """End all calls, and the connection."""
        if self._connection is not None:
            self._dispatch([self._connection.close("the server goes away")])
            self._flush()

    # The line of the calls.

    def begin(self, stream_id: int) -> None:
        """Send headers; they go out with what follows in this turn of the loop."""
        if self._connection is not None:
            self._connection.begin(stream_id)
            self._flush_soon()

    def send(self, stream_id: int, shared: bytes, own: bytes) -> bool:
        """Send a message; False if it waits for the client to take it."""
        if self._connection is None:
            return True
        whole = self._connection.send(stream_id, shared, own)
        self._flush()
        return whole

    def pusher(self, stream_id: int) -> Push | None:
        """What sends messages that go at once, past all that is asked of others."""
        connection, transport = self._connection, self._transport
        if connection is None or transport is None or (sending := connection.sending(stream_id)) is None:
            return None
        return _Pusher(sending, connection.outgoing.made, transport).push

    def taken(self, stream_id: int) -> None:
        """A message of the request is of no more concern."""
        if self._connection is not None:
            self._connection.taken(stream_id)
            if self._connection.outgoing.has_some:
                self._flush_soon()

    def finish(self, stream_id: int, trailers: Headers) -> None:
        """Send the status."""
        if self._connection is not None:
            self._connection.finish(stream_id, trailers)
            self._flush()

    def ended(self, stream_id: int) -> None:
        """The call is over."""
        self._calls.pop(stream_id, None)

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Began):
                self._begin(event)
            elif isinstance(event, Over):
                self._end(event.reason)
            elif (call := self._calls.get(event.stream_id)) is not None:
                self._tell(call, event)

    def _tell(self, call: Call, event: Came | Asked | Went | Gone | Refused) -> None:
        match event:
            case Came():
                self._refuse(event.stream_id, call.came(event.message))
            case Went():
                call.went()
            case Asked():
                self._refuse(event.stream_id, call.asked())
            case Gone() | Refused():
                call.gone()

    def _begin(self, began: Began) -> None:
        stream_id, request = began.stream_id, began.request
        connection = self._connection
        assert connection is not None
        found = self._around.methods.get(request.path)
        if request.error is not None:
            connection.finish(stream_id, wire.trailers(request.error.code, request.error.message))
        elif found is None:
            path = wire.shown(request.path)
            connection.finish(stream_id, wire.trailers(code_pb2.UNIMPLEMENTED, f"{path} is not served here"))
        else:
            if found[0].streams_in:
                connection.streams(stream_id)
            self._calls[stream_id] = Call(self, stream_id, request, *found)

    def _refuse(self, stream_id: int, error: CallError | None) -> None:
        if error is not None and self._connection is not None:
            self._connection.finish(stream_id, wire.trailers(error.code, error.message))
            self._calls[stream_id].gone()

    def _end(self, reason: str) -> None:
        """The connection is over but for its last words."""
        _log.debug("connection ended", reason=reason)
        self._flush()
        self._drop_calls()
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.can_write_eof():
            # What still comes is read and dropped: else the kernel would take
            # the last words back.
            transport.write_eof()
        else:
            transport.close()
        asyncio.get_running_loop().call_later(CLOSE_SECONDS, transport.abort)

    def _drop_calls(self) -> None:
        for call in list(self._calls.values()):
            call.gone()
        self._calls.clear()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Give the socket what is to be sent."""
        self._flushing = False
        connection, transport = self._connection, self._transport
        if connection is None or transport is None:
            return
        outgoing = connection.outgoing
        while data := outgoing.take():
            transport.write(data)
            if not outgoing.goes_on:
                return
            self._dispatch(connection.push())
