"""The server's end of one connection: bytes in, events out, and bytes to send.

It is pure: no socket, no clock, no task. HTTP/2 itself (frames, HPACK, states,
windows) is libnghttp2's, by ngh2, and no other file knows of that. What is
added here are the rules of gRPC and of a server that trusts no client:

- A message that is to be sent is a reference to bytes that all streams share,
  and a few of the stream's own. HTTP/2 is given as much of them as the client's
  windows take, so that what a slow reader keeps waiting is no copy.
- What a client may send ahead is what its windows allow; they are opened when a
  call has taken its messages. What has come of unfinished messages is bounded
  for the connection, and for all connections together.
- Frames are looked at before the engine sees them (guard.py).
- Nothing more is made to be sent while the socket takes nothing.
- A connection ends: without a first request in time, without a call for long,
  without a sign of life, at its age, and at the first breach of the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

import ngh2
from google.rpc import code_pb2

from control_plane.fast_edge import wire
from control_plane.fast_edge.events import Asked, Began, Came, Event, Gone, Over, Refused, Went
from control_plane.fast_edge.guard import CALM, PROTOCOL_ERROR, Breach, Guard
from control_plane.fast_edge.limits import AGE_JITTER, CONTINUATIONS_MAX, SETTINGS_ENTRIES_MAX, Budget, Limits
from control_plane.fast_edge.wire import CallError, Headers, MessageReader

CHUNK_BYTES = 64 * 1024
OUT_BYTES_HIGH = 256 * 1024
"""Bytes made to be sent after which the socket is asked first."""
NEVER = float("inf")
P = ParamSpec("P")
_NO_ERROR = 0


class _Call:
    """A stream, as far as it is not HTTP/2's."""

    __slots__ = ("answered", "asked", "began", "held", "http_status", "inbox", "offset", "pending", "reader")

    def __init__(self, message_bytes_max: int, began: float) -> None:
        self.reader: MessageReader | None = MessageReader(message_bytes_max)
        self.began = began
        self.inbox = 0
        """Messages that the call has not taken."""
        self.held = 0
        """Bytes for which the windows are not open again."""
        self.pending: tuple[bytes, ...] = ()
        self.offset = 0
        """Bytes of the first pending piece that have gone."""
        self.http_status = 0
        """With what to answer what is no call of gRPC; `reader` is None then."""
        self.answered = False
        """Whether headers have gone out."""
        self.asked = False
        """Whether the client has sent all."""


def configuration(limits: Limits) -> ngh2.Configuration:
    """How HTTP/2 is to be spoken."""
    return ngh2.Configuration(
        auto_window_update=False,
        max_deflate_dynamic_table_size=0,
        max_settings=SETTINGS_ENTRIES_MAX,
        max_continuations=CONTINUATIONS_MAX,
        max_inbound_header_list_size=limits.header_bytes_max,
        max_inbound_header_count=limits.headers_max,
        stream_reset_rate_limit=(limits.resets_burst, int(limits.resets_per_second)),
    )


class Connection:
    """One connection. `jitter` returns 0 to 1."""

    __slots__ = (
        "_age_ends",
        "_budget",
        "_calls",
        "_counted",
        "_engine",
        "_guard",
        "_heard",
        "_leaving",
        "_limits",
        "_opened",
        "_out",
        "_out_bytes",
        "_over",
        "_pinged",
        "_quiet_since",
        "_stuck",
        "_unfinished",
        "blocked",
    )

    def __init__(
        self,
        limits: Limits,
        config: ngh2.Configuration,
        budget: Budget,
        now: float,
        jitter: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._budget = budget
        self._engine = ngh2.Connection(ngh2.Role.SERVER, config)
        self._engine.initiate_connection(
            {
                ngh2.Setting.MAX_CONCURRENT_STREAMS: limits.streams_max,
                ngh2.Setting.INITIAL_WINDOW_SIZE: limits.window_bytes,
                ngh2.Setting.MAX_HEADER_LIST_SIZE: limits.header_bytes_max,
            }
        )
        self._guard = Guard(limits, now)
        self._calls: dict[int, _Call] = {}
        self._unfinished: dict[int, None] = {}
        """Calls with a message that has not gone out whole, in turn."""
        self._counted = 0
        """Bytes of unfinished requests that are taken from the budget."""
        self._out: list[bytes] = [self._engine.data_to_send()]
        self._out_bytes = 0
        self._opened = self._heard = self._quiet_since = now
        self._pinged = NEVER
        self._age_ends = now + limits.age_seconds_max * (1 + AGE_JITTER * (2 * jitter() - 1))
        self._leaving = False
        self._stuck = False
        self._over = False
        self.blocked = False
        """Whether the socket takes nothing more now."""

    @property
    def calls(self) -> int:
        """Calls that are open."""
        return len(self._calls)

    @property
    def over(self) -> bool:
        """Whether the connection has ended."""
        return self._over

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Bytes have come."""
        if self._over:
            return []
        self._heard = now
        self._pinged = NEVER
        engine = self._engine
        events: list[Event] = []
        try:
            self._guard.look(data, now)
            engine.receive_data(data)
        except Breach as breach:
            return [self._break(breach.code, str(breach))]
        except ngh2.DenialOfServiceError as error:
            return [self._break(CALM, str(error))]
        except ngh2.NGH2Error as error:
            return [self._break(PROTOCOL_ERROR, str(error))]
        for event in engine.events():
            self._event(event, events, now)
        if self._unfinished:
            self._push(events)
        self._collect()
        # What has just gone out may have ended streams.
        for event in engine.events():
            self._event(event, events, now)
        if not (engine.want_read or engine.want_write):
            events.append(self._end("the client has left, or has broken the protocol"))
        return events

    def _on_engine(self, act: Callable[P, object], *arguments: P.args, **more: P.kwargs) -> bool:
        """Act on a stream or the connection; False if the client has ended it
        meanwhile, which another event tells."""
        try:
            act(*arguments, **more)
        except ngh2.NGH2Error:
            return False
        return True

    def _event(self, event: ngh2.Event, events: list[Event], now: float) -> None:
        match event:
            case ngh2.DataReceived(stream_id, data, end):
                self._data(stream_id, data, events)
                if end:
                    self._asked(stream_id, events)
            case ngh2.RequestReceived(stream_id, headers, end):
                request = wire.parse_request(headers)
                call = self._calls[stream_id] = _Call(self._limits.message_bytes_max, now)
                self._quiet_since = NEVER
                if request.http_status:
                    call.reader, call.http_status = None, request.http_status
                else:
                    events.append(Began(stream_id, request))
                if end:
                    self._asked(stream_id, events)
            case ngh2.TrailersReceived(stream_id):
                self._asked(stream_id, events)
            case ngh2.StreamClosed(stream_id):
                if self._forget(stream_id):
                    events.append(Gone(stream_id))
            case _:
                pass

    def _asked(self, stream_id: int, events: list[Event]) -> None:
        call = self._calls.get(stream_id)
        if call is None or call.asked:
            return
        call.asked = True
        if call.reader is None:
            self._answer_http(stream_id, call)
        elif call.reader.unfinished:
            torn = CallError(code_pb2.INTERNAL, "the request ends within a message")
            self._refuse(stream_id, call, torn, events)
        else:
            events.append(Asked(stream_id))

    def _data(self, stream_id: int, data: bytes, events: list[Event]) -> None:
        call = self._calls.get(stream_id)
        if call is None or call.reader is None:
            self._open_windows(stream_id, len(data))
            return
        before = call.reader.unfinished
        try:
            messages = call.reader.feed(data)
            self._count(call.reader.unfinished - before)
        except CallError as error:
            call.held += len(data)
            self._refuse(stream_id, call, error, events)
            return
        call.held += len(data)
        call.inbox += len(messages)
        events += [Came(stream_id, message) for message in messages]
        if not call.inbox:
            self._let_go(stream_id, call)

    def _count(self, more: int) -> None:
        """Keep count of unfinished requests. Raises CallError."""
        if more > 0 and (
            self._counted + more > self._limits.message_bytes_max + self._limits.window_bytes
            or not self._budget.take(more)
        ):
            raise CallError(code_pb2.RESOURCE_EXHAUSTED, "too many unfinished requests; try again later")
        if more < 0:
            self._budget.give(-more)
        self._counted += more

    def _refuse(self, stream_id: int, call: _Call, error: CallError, events: list[Event]) -> None:
        events.append(Refused(stream_id, error.code, error.message))
        self.finish(stream_id, wire.trailers(error.code, error.message))

    def taken(self, stream_id: int) -> None:
        """The call has taken a message."""
        call = self._calls.get(stream_id)
        if call is not None and call.inbox:
            call.inbox -= 1
            if not call.inbox:
                self._let_go(stream_id, call)
                self._collect()

    def _let_go(self, stream_id: int, call: _Call) -> None:
        self._open_windows(stream_id, call.held)
        call.held = 0

    def _open_windows(self, stream_id: int, size: int) -> None:
        if size:
            self._on_engine(self._engine.acknowledge_received_data, size, stream_id)

    def begin(self, stream_id: int) -> None:
        """Send the headers of an answer."""
        call = self._calls.get(stream_id)
        if call is not None and not call.answered:
            call.answered = True
            self._on_engine(self._engine.send_response, stream_id, wire.OK_HEADERS)

    def send(self, stream_id: int, shared: bytes, own: bytes = b"") -> bool:
        """Send a message, which is the two together. False if it has not gone
        whole: Went will tell, and until then there must be no other."""
        call = self._calls.get(stream_id)
        if call is None:
            return True
        self.begin(stream_id)
        size = len(shared) + len(own)
        prefix = wire.prefix(size)
        if size < CHUNK_BYTES and not self.blocked and self._room(stream_id) >= size + len(prefix):
            self._on_engine(self._engine.send_data, stream_id, b"".join((prefix, shared, own)))
            self._collect()
            return True
        call.pending = tuple(piece for piece in (prefix, shared, own) if piece)
        call.offset = 0
        self._unfinished[stream_id] = None
        self._push([])
        return stream_id not in self._unfinished

    def push(self) -> list[Event]:
        """Go on with what has not gone out, as the socket takes more."""
        events: list[Event] = []
        if not self._over:
            self._push(events)
        return events

    def _room(self, stream_id: int) -> int:
        engine = self._engine
        try:
            return min(engine.stream_remote_window_size(stream_id), engine.remote_window_size)
        except ngh2.NGH2Error:
            return 0

    def _push(self, events: list[Event]) -> None:
        """Give each unfinished message a turn, until nothing more goes."""
        self._stuck = False
        moved = True
        while moved and self._unfinished:
            moved = False
            for stream_id in list(self._unfinished):
                if self.blocked or self._out_bytes >= OUT_BYTES_HIGH:
                    self._stuck = True
                    return
                call = self._calls[stream_id]
                if not self._chunk(stream_id, call):
                    continue
                moved = True
                if not call.pending:
                    del self._unfinished[stream_id]
                    events.append(Went(stream_id))

    def _chunk(self, stream_id: int, call: _Call) -> bool:
        room = min(self._room(stream_id), CHUNK_BYTES)
        if room <= 0:
            return False
        pieces: list[memoryview] = []
        while room and call.pending:
            piece = memoryview(call.pending[0])[call.offset : call.offset + room]
            pieces.append(piece)
            room -= len(piece)
            call.offset += len(piece)
            if call.offset == len(call.pending[0]):
                call.pending, call.offset = call.pending[1:], 0
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._on_engine(self._engine.send_data, stream_id, data)
        self._collect()
        return True

    @property
    def goes_on(self) -> bool:
        """Whether there is more to send as soon as the socket takes it."""
        return self._stuck and not self.blocked

    def finish(self, stream_id: int, trailers: Headers) -> None:
        """End a call by its trailers. What has not gone out of a message is
        dropped, which an error says by itself."""
        call = self._calls.get(stream_id)
        if call is None:
            return
        engine = self._engine
        if call.answered:
            self._on_engine(engine.send_trailers, stream_id, trailers)
        else:
            self._on_engine(engine.send_response, stream_id, (*wire.OK_HEADERS, *trailers), end_stream=True)
        self._close(stream_id, call)

    def _answer_http(self, stream_id: int, call: _Call) -> None:
        """Answer what is no call of gRPC, when it has come whole. The body waits
        for the client's window, and counts as an open call until then."""
        engine = self._engine
        headers = ((b":status", b"%d" % call.http_status), *wire.HTTP_HEADERS)
        if self._on_engine(engine.send_response, stream_id, headers):
            self._on_engine(engine.send_data, stream_id, wire.HTTP_BODY, end_stream=True)
        self._collect()

    def _close(self, stream_id: int, call: _Call) -> None:
        """The answer has ended; the request need not come to its end."""
        self._let_go(stream_id, call)
        call.pending = ()
        self._unfinished.pop(stream_id, None)
        if call.reader is not None:
            self._count(-call.reader.unfinished)
            call.reader = None
        self._collect()
        if not call.asked:
            self._on_engine(self._engine.reset_stream, stream_id, _NO_ERROR)
        del self._calls[stream_id]
        self._collect()

    def take(self) -> bytes:
        """The bytes to send now."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._out_bytes = 0
        return data

    def _collect(self) -> None:
        data = self._engine.data_to_send()
        if data:
            self._out.append(data)
            self._out_bytes += len(data)

    def _forget(self, stream_id: int) -> bool:
        """A stream is over; says whether its call was not."""
        call = self._calls.pop(stream_id, None)
        if call is None:
            return False
        self._unfinished.pop(stream_id, None)
        self._let_go(stream_id, call)
        if call.reader is None:
            return False
        self._count(-call.reader.unfinished)
        return True

    def tick(self, now: float) -> list[Event]:
        """Time has passed."""
        limits = self._limits
        if self._over:
            return []
        if now >= self._age_ends + limits.age_grace_seconds:
            return [self._break(_NO_ERROR, "the connection is too old")]
        if now >= self._age_ends:
            self.leave()
        silent = now - self._heard
        if self._pinged == NEVER and silent >= limits.ping_seconds:
            self._pinged = now
            self._on_engine(self._engine.ping)
            self._collect()
        elif now - self._pinged >= limits.ping_timeout_seconds:
            return [self._break(_NO_ERROR, "the client does not answer")]
        if not self._calls:
            first = self._quiet_since == self._opened
            if self._quiet_since == NEVER:
                self._quiet_since = now
            allowed = limits.handshake_seconds if first else limits.idle_seconds
            if self._leaving or now - self._quiet_since >= allowed:
                return [self._break(_NO_ERROR, "the connection is idle")]
            return []
        return self._late(now)

    def _late(self, now: float) -> list[Event]:
        """End calls whose requests do not come whole."""
        events: list[Event] = []
        for stream_id, call in list(self._calls.items()):
            if now - call.began < self._limits.request_seconds:
                continue
            if call.reader is None:
                self._on_engine(self._engine.reset_stream, stream_id, CALM)
                self._close(stream_id, call)
            elif call.reader.unfinished:
                late = CallError(code_pb2.DEADLINE_EXCEEDED, "the request did not come whole in time")
                self._refuse(stream_id, call, late, events)
        return events

    def leave(self) -> None:
        """Tell the client to send no new calls here; those that run go on."""
        if not self._leaving and not self._over:
            self._leaving = True
            self._on_engine(self._engine.send_shutdown_notice)
            self._collect()

    def close(self, reason: str) -> Over:
        """End the connection, and all of its calls."""
        return self._break(_NO_ERROR, reason)

    def _break(self, code: int, reason: str) -> Over:
        if not self._over:
            try:
                self._engine.terminate_connection(code)
                self._collect()
            except ngh2.NGH2Error:
                # After a flood the engine says nothing more.
                self._out.append(_goaway(code))
        return self._end(reason)

    def _end(self, reason: str) -> Over:
        self._over = True
        self._budget.give(self._counted)
        self._counted = 0
        self._calls.clear()
        self._unfinished.clear()
        return Over(reason)


def _goaway(code: int) -> bytes:
    return b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0" + code.to_bytes(4, "big")
