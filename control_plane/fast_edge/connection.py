"""The server's end of one connection: bytes in, events out, and bytes to send.

It is pure: no socket, no clock, no task. HTTP/2 itself (frames, HPACK, states)
is libnghttp2's, by ngh2, and no other file knows of that. What is added here
are the rules of gRPC and of a server that trusts no client:

- Frames are looked at before the engine sees them (guard.py).
- Messages go out as the client's windows and the socket take them, and what
  waits is no copy (outgoing.py).
- What a client may send ahead is what its windows allow; they are opened when a
  call has taken its messages. What has come of unfinished messages is bounded
  for the connection, and for all connections together.
- A connection ends: without a first request in time, without a call for long,
  without a sign of life, at its age and when the server goes (leaving.py), and at
  the first breach of the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

import ngh2
from google.rpc import code_pb2

from control_plane.fast_edge import leaving, wire
from control_plane.fast_edge.events import Asked, Began, Came, Event, Gone, Over, Refused, Went
from control_plane.fast_edge.guard import CALM, FLOW_CONTROL_ERROR, PROTOCOL_ERROR, Breach, Guard, Windows
from control_plane.fast_edge.leaving import Leaving
from control_plane.fast_edge.limits import AGE_JITTER, CONTINUATIONS_MAX, SETTINGS_ENTRIES_MAX, Budget, Limits
from control_plane.fast_edge.outgoing import WINDOW_BYTES_FIRST, Outgoing, Sending
from control_plane.fast_edge.wire import CallError, Headers, MessageReader

NEVER = float("inf")
REOPENED_SHARE = 0.25
"""A window is opened again when so much of it is used up. The engine, which has
the windows' other part, waits for a half: together they leave room for a frame."""
P = ParamSpec("P")
_NO_ERROR, _CANCEL = 0, 8


class _Call:
    """A stream, as far as it is not HTTP/2's."""

    __slots__ = (
        "asked",
        "began",
        "beside",
        "counted",
        "empty",
        "held",
        "http_status",
        "inbox",
        "reader",
        "sending",
        "told",
    )

    def __init__(self, message_bytes_max: int, began: float, sending: Sending) -> None:
        self.reader: MessageReader | None = MessageReader(message_bytes_max)
        self.began = began
        """When it began, or the message of a stream that comes now."""
        self.sending = sending
        self.inbox = 0
        """Messages that the call has not taken."""
        self.held = 0
        """Bytes that the call has not taken, so that the windows are not open
        again for them."""
        self.beside = 0
        """How many of them the engine has not seen."""
        self.told = 0
        """Bytes besides for which the window is to be opened, some time."""
        self.counted = False
        """Whether the client has said how long its request is, which the engine
        looks after."""
        self.http_status = 0
        """With what to answer what is no call of gRPC; `reader` is None then."""
        self.asked = False
        """Whether the client has sent all."""
        self.empty = True
        """Whether a message is due, and none has come."""


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
        "_beside",
        "_budget",
        "_calls",
        "_counted",
        "_engine",
        "_guard",
        "_heard",
        "_leaving",
        "_limits",
        "_opened",
        "_over",
        "_pinged",
        "_quiet_since",
        "_streaming",
        "_told",
        "outgoing",
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
        self._calls: dict[int, _Call] = {}
        self._streaming: set[int] = set()
        self._guard = Guard(limits, now, self._calls, self._streaming)
        self._beside = self._told = 0
        """See _Call: of all streams, as the connection's window is for all."""
        self._counted = 0
        """Bytes of unfinished requests that are taken from the budget."""
        self.outgoing = Outgoing()
        self.outgoing.put(self._engine.data_to_send())
        self._opened = self._heard = self._quiet_since = now
        self._pinged = NEVER
        self._age_ends = now + limits.age_seconds_max * (1 + AGE_JITTER * (2 * jitter() - 1))
        self._leaving = Leaving()
        self._over = False

    @property
    def calls(self) -> int:
        """Calls that are open."""
        return len(self._calls)

    @property
    def told(self) -> bool:
        """Whether the client knows which of its calls is the last here."""
        return self._leaving.told

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
        events: list[Event] = []
        try:
            bodies, rest, windows = self._guard.look(data, now)
            for stream_id, body in bodies:
                self._body(stream_id, body, events)
            if rest:
                self._engine.receive_data(rest)
                self._engine_events(events, now)
                # Word that its settings are taken comes before what they allow.
                self._collect()
            if windows:
                self._grow(windows, events, now)
            if self.outgoing.waits:
                self._went(events)
            if rest:
                self._after_engine(events, now)
        except Breach as breach:
            events.append(self._break(breach.code, str(breach)))
        except ngh2.DenialOfServiceError as error:
            events.append(self._break(CALM, str(error)))
        except ngh2.NGH2Error as error:
            events.append(self._break(PROTOCOL_ERROR, str(error)))
        return events

    def _engine_events(self, events: list[Event], now: float) -> None:
        for event in self._engine.events():
            self._event(event, events, now)

    def _after_engine(self, events: list[Event], now: float) -> None:
        """The engine may have something to say, streams that have ended by that,
        or may have ended itself."""
        engine = self._engine
        self._collect()
        self._engine_events(events, now)
        if not (engine.want_read or engine.want_write):
            left = "the client has left, or has broken the protocol"
            events.append(self._end("the server has left" if self._leaving.told else left))

    def _grow(self, windows: Windows, events: list[Event], now: float) -> None:
        """The client has opened windows. Raises Breach."""
        for stream_id, more in windows:
            call = self._calls.get(stream_id)
            if call is None and stream_id:
                continue
            try:
                self.outgoing.grown(call.sending if call else None, more)
            except Breach as breach:
                if not breach.stream_id or call is None:
                    raise
                self._guard.reset(now)
                self._on_engine(self._engine.reset_stream, stream_id, breach.code)
                self._collect()
                self._forget(stream_id)
                events.append(Gone(stream_id))

    def _went(self, events: list[Event]) -> None:
        """Send what waits, as far as it goes."""
        for sending in self.outgoing.push():
            call = self._calls.get(sending.stream_id)
            if call is not None and call.http_status:
                self._end_http(call)
            else:
                events.append(Went(sending.stream_id))

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
                sending = self.outgoing.open(stream_id)
                call = self._calls[stream_id] = _Call(self._limits.message_bytes_max, now, sending)
                call.counted = any(name == b"content-length" for name, _ in headers)
                self._quiet_since = NEVER
                if request.http_status:
                    call.reader, call.http_status = None, request.http_status
                else:
                    events.append(Began(stream_id, request))
                if end:
                    self._asked(stream_id, events)
            case ngh2.SettingsReceived(values) if ngh2.Setting.INITIAL_WINDOW_SIZE in values:
                first = values[ngh2.Setting.INITIAL_WINDOW_SIZE]
                self.outgoing.resize(first, [call.sending for call in self._calls.values()])
            case ngh2.TrailersReceived(stream_id):
                self._asked(stream_id, events)
            case ngh2.StreamClosed(stream_id, code):
                self._closed(stream_id, code, events, now)
            case ngh2.PingAcknowledged(ping) if self._leaving.answered(ping):
                self._tell_last()
            case _:
                pass

    def _closed(self, stream_id: int, code: int, events: list[Event], now: float) -> None:
        """A stream is over for the engine. Raises Breach."""
        if self._forget(stream_id):
            events.append(Gone(stream_id))
            if code not in (_NO_ERROR, _CANCEL):
                # By an error of the client's: as dear as one that it resets.
                self._guard.reset(now)

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

    def _body(self, stream_id: int, data: bytes, events: list[Event]) -> None:
        """A part of a request that the engine has not seen. Raises Breach."""
        call, size = self._calls.get(stream_id), len(data)
        if call is None:
            self._told = self._reopen(0, self._told + size, WINDOW_BYTES_FIRST)
            return
        call.beside += size
        self._beside += size
        if call.held + size > self._limits.window_bytes or self._beside > WINDOW_BYTES_FIRST:
            raise Breach(FLOW_CONTROL_ERROR, "more than the windows are open for")
        self._data(stream_id, data, events)

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
        if not call.empty and (messages or not before):
            call.began = self._heard
        call.held += len(data)
        call.inbox += len(messages)
        call.empty = call.empty and not messages
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

    def streams(self, stream_id: int) -> None:
        """The request is a client's stream: its messages come when they come."""
        call = self._calls.get(stream_id)
        if call is not None:
            call.empty = False
            if not call.counted:
                self._streaming.add(stream_id)

    def taken(self, stream_id: int) -> None:
        """The call has taken a message."""
        call = self._calls.get(stream_id)
        if call is not None and call.inbox:
            call.inbox -= 1
            if not call.inbox:
                self._let_go(stream_id, call)

    def _let_go(self, stream_id: int, call: _Call) -> None:
        """What the call has not taken is of no more concern."""
        if seen := call.held - call.beside:
            self._open_windows(stream_id, seen)
            self._collect()
        if call.beside:
            if stream_id in self._calls:
                call.told = self._reopen(stream_id, call.told + call.beside, self._limits.window_bytes)
            self._told = self._reopen(0, self._told + call.beside, WINDOW_BYTES_FIRST)
            self._beside -= call.beside
        call.held = call.beside = 0

    def _reopen(self, stream_id: int, size: int, window: int) -> int:
        """Open a window by so many bytes, once it is worth a frame; returns
        what is left."""
        if size < window * REOPENED_SHARE:
            return size
        self.outgoing.put(wire.window_frame(stream_id, size))
        return 0

    def _open_windows(self, stream_id: int, size: int) -> None:
        if size:
            self._on_engine(self._engine.acknowledge_received_data, size, stream_id)

    def begin(self, stream_id: int) -> None:
        """Send the headers of an answer."""
        call = self._calls.get(stream_id)
        if call is not None:
            self.outgoing.begin(call.sending, wire.OK_BLOCK)

    def send(self, stream_id: int, shared: bytes, own: bytes = b"") -> bool:
        """Send a message, which is the two together. False if it has not gone
        whole: Went will tell, and until then there must be no other."""
        call = self._calls.get(stream_id)
        if call is None:
            return True
        sending = call.sending
        if not sending.begun:
            self.outgoing.begin(sending, wire.OK_BLOCK)
        return self.outgoing.message(sending, shared, own)

    def sending(self, stream_id: int) -> Sending | None:
        """A call's end of what goes out, if there is such a call."""
        call = self._calls.get(stream_id)
        return call.sending if call is not None else None

    def push(self) -> list[Event]:
        """Go on with what has not gone out, as the socket takes more."""
        events: list[Event] = []
        if not self._over:
            self._went(events)
        return events

    def finish(self, stream_id: int, trailers: Headers) -> None:
        """End a call by its trailers. What has not gone out of a message is
        dropped, which an error says by itself."""
        call = self._calls.get(stream_id)
        if call is None:
            return
        # To the engine an answer is one HEADERS frame that ends it: it does not
        # know what has gone out before.
        fields = trailers if call.sending.begun else (*wire.OK_HEADERS, *trailers)
        self._end_stream(stream_id, fields)
        self._close(stream_id, call)

    def _end_stream(self, stream_id: int, fields: Headers) -> None:
        self._on_engine(self._engine.send_response, stream_id, fields, end_stream=True)

    def _answer_http(self, stream_id: int, call: _Call) -> None:
        """Answer what is no call of gRPC, when it has come whole. The body waits
        for the client's window, and counts as an open call until then."""
        self.outgoing.begin(call.sending, wire.http_block(call.http_status))
        self.outgoing.wait(call.sending, (wire.HTTP_BODY,))

    def _end_http(self, call: _Call) -> None:
        self._end_stream(call.sending.stream_id, wire.HTTP_END)
        self._close(call.sending.stream_id, call)

    def _close(self, stream_id: int, call: _Call) -> None:
        """The answer has ended; the request need not come to its end."""
        del self._calls[stream_id]
        self._streaming.discard(stream_id)
        self._let_go(stream_id, call)
        self.outgoing.drop(call.sending)
        if call.reader is not None:
            self._count(-call.reader.unfinished)
            call.reader = None
        self._collect()
        if not call.asked:
            self._on_engine(self._engine.reset_stream, stream_id, _NO_ERROR)
        self._collect()

    def _collect(self) -> None:
        self.outgoing.put(self._engine.data_to_send())

    def _forget(self, stream_id: int) -> bool:
        """A stream is over; says whether its call was not."""
        call = self._calls.pop(stream_id, None)
        if call is None:
            return False
        self._streaming.discard(stream_id)
        self.outgoing.drop(call.sending)
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
            self.leave(now)
        if self._leaving.late(now):
            self._tell_last()
            self._collect()
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
            if self._leaving.told or now - self._quiet_since >= allowed:
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
            elif call.reader.unfinished or (call.empty and not call.asked):
                late = CallError(code_pb2.DEADLINE_EXCEEDED, "the request did not come whole in time")
                self._refuse(stream_id, call, late, events)
        return events

    def leave(self, now: float) -> None:
        """Tell the client to send no new calls here. Those that run go on, and
        those that it sends before it knows are taken."""
        if not self._over and self._leaving.begin(now):
            self._on_engine(self._engine.send_shutdown_notice)
            # The engine would send a PING first.
            self._collect()
            self._on_engine(self._engine.ping, leaving.PING)
            self._collect()

    def _tell_last(self) -> None:
        self._on_engine(self._engine.send_goaway)

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
                self.outgoing.put(_goaway(code))
        return self._end(reason)

    def _end(self, reason: str) -> Over:
        self._over = True
        self._budget.give(self._counted)
        self._counted = 0
        for call in self._calls.values():
            self.outgoing.drop(call.sending)
        self._calls.clear()
        self._streaming.clear()
        return Over(reason)


def _goaway(code: int) -> bytes:
    return b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0" + code.to_bytes(4, "big")
