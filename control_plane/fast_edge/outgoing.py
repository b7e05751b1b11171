"""What goes to a client: messages in DATA frames, as its windows take them. Pure.

The engine keeps the state of streams and makes all other frames. DATA is made
here, because it is what a fleet is sent all day: a message is a reference to
bytes that all streams share and a few of the stream's own, and only what a
window takes of it is copied, once, into the frame. So the windows are kept here
too; the engine never hears of them.

- No byte goes beyond the window of its stream, or that of the connection.
- While the socket takes nothing, nothing is made for it.
- Messages that wait have turns, of CHUNK_BYTES each.
"""

from __future__ import annotations

from collections.abc import Iterator

from control_plane.fast_edge import wire
from control_plane.fast_edge.guard import FLOW_CONTROL_ERROR, Breach

CHUNK_BYTES = 64 * 1024
OUT_BYTES_HIGH = 256 * 1024
"""Bytes made to be sent after which the socket is asked first."""
FRAME_BYTES_MAX = 16_384
WINDOW_BYTES_FIRST = 65_535
WINDOW_BYTES_MAX = 2**31 - 1
_HEAD_BYTES = 9
_LENGTH_SHIFT = 48
"""A DATA frame's head is its length and its stream; type and flags are 0."""
_HEADS_BYTES = _HEAD_BYTES + wire.PREFIX_BYTES
_WHOLE_SHIFT, _STREAM_SHIFT = _LENGTH_SHIFT + 8 * wire.PREFIX_BYTES, 8 * wire.PREFIX_BYTES
"""The head of a message that is one frame, and of that frame, as one number."""


class Sending:
    """One stream's end of it."""

    __slots__ = ("_outgoing", "begun", "offset", "over", "pending", "stream_id", "window")

    def __init__(self, outgoing: Outgoing, stream_id: int, window: int) -> None:
        self._outgoing = outgoing
        self.stream_id = stream_id
        self.window = window
        self.over = False
        """Whether nothing more may be sent."""
        self.begun = False
        """Whether headers have gone out."""
        self.pending: tuple[bytes, ...] = ()
        """The message that has not gone out whole."""
        self.offset = 0
        """Bytes of its first piece that have gone."""

    def frames(self, shared: bytes, own: bytes) -> bytes:
        """A message as the frames that it is, to go behind what is made; nothing
        if it is large, or has to wait for others, or for the client."""
        outgoing = self._outgoing
        size = len(shared) + len(own)
        whole = size + wire.PREFIX_BYTES
        if (
            whole > self.window
            or whole > outgoing.window
            or whole > CHUNK_BYTES
            or outgoing.turns
            or outgoing.blocked
            or not self.begun
            or self.over
        ):
            return b""
        self.window -= whole
        outgoing.window -= whole
        if whole > FRAME_BYTES_MAX:
            return b"".join(_split(self.stream_id, size, shared, own))
        head = whole << _WHOLE_SHIFT | self.stream_id << _STREAM_SHIFT | size
        return b"".join((head.to_bytes(_HEADS_BYTES, "big"), shared, own))


class Outgoing:
    """Everything that one connection is sent, in order."""

    __slots__ = ("_bytes", "_first_window", "_stuck", "blocked", "made", "turns", "window")

    def __init__(self) -> None:
        self.made: list[bytes] = []
        self._bytes = 0
        self.window = WINDOW_BYTES_FIRST
        """Bytes that the client takes on all of its streams together."""
        self._first_window = WINDOW_BYTES_FIRST
        self.turns: dict[int, Sending] | None = None
        self._stuck = False
        self.blocked = False
        """Whether the socket takes nothing more now."""

    @property
    def waits(self) -> bool:
        """Whether a message has not gone out whole."""
        return bool(self.turns)

    @property
    def has_some(self) -> bool:
        """Whether there are bytes to send."""
        return bool(self.made)

    @property
    def goes_on(self) -> bool:
        """Whether more can be made as soon as this is taken."""
        return self._stuck and not self.blocked

    def open(self, stream_id: int) -> Sending:
        """A stream that may be sent to."""
        return Sending(self, stream_id, self._first_window)

    def put(self, data: bytes) -> None:
        """Send bytes as they are."""
        if data:
            self.made.append(data)
            self._bytes += len(data)

    def take(self) -> bytes:
        """The bytes to send now."""
        out = self.made
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._bytes = 0
        return data

    def begin(self, sending: Sending, head: bytes) -> None:
        """Send an answer's headers, unless they have gone."""
        if not sending.begun:
            sending.begun = True
            self.put(wire.headers_frame(sending.stream_id, head))

    def message(self, sending: Sending, shared: bytes, own: bytes) -> bool:
        """Send a message; False if it does not go whole now."""
        if data := sending.frames(shared, own):
            self.put(data)
            return True
        size = len(shared) + len(own)
        self.body(sending, (size.to_bytes(wire.PREFIX_BYTES, "big"), shared, own))
        return not sending.pending

    def body(self, sending: Sending, pieces: tuple[bytes, ...]) -> None:
        """Send bytes in DATA frames, as the windows allow. Nothing else may be
        able to go, as nobody is told of it."""
        self.wait(sending, pieces)
        self.push()

    def wait(self, sending: Sending, pieces: tuple[bytes, ...]) -> None:
        """Send bytes in DATA frames at the next push."""
        sending.pending = tuple(piece for piece in pieces if piece)
        sending.offset = 0
        if self.turns is None:
            self.turns = {}
        self.turns[sending.stream_id] = sending

    def drop(self, sending: Sending) -> None:
        """A stream is over: what has not gone out of a message never will."""
        sending.over = True
        sending.pending = ()
        if self.turns:
            self.turns.pop(sending.stream_id, None)

    def push(self) -> list[Sending]:
        """Give each message that waits a turn, until nothing more goes; returns
        the streams whose messages have gone whole."""
        self._stuck = False
        went: list[Sending] = []
        turns, moved = self.turns, True
        while moved and turns:
            moved = False
            for sending in list(turns.values()):
                if self.blocked or self._bytes >= OUT_BYTES_HIGH:
                    self._stuck = True
                    return went
                if self._turn(sending):
                    moved = True
                    if not sending.pending:
                        del turns[sending.stream_id]
                        went.append(sending)
        return went

    def _turn(self, sending: Sending) -> bool:
        """Make frames of what the windows take of a message, up to a bound."""
        room = min(sending.window, self.window, CHUNK_BYTES)
        if room <= 0:
            return False
        made: list[bytes | memoryview] = []
        while room and sending.pending:
            pieces, size = _cut(sending, min(room, FRAME_BYTES_MAX))
            made.append((size << _LENGTH_SHIFT | sending.stream_id).to_bytes(_HEAD_BYTES, "big"))
            made += pieces
            room -= size
            sending.window -= size
            self.window -= size
        self.put(b"".join(made))
        return True

    def grown(self, sending: Sending | None, more: int) -> None:
        """The client opens the window of a stream, or of the connection. Raises
        Breach if it is wider than can be."""
        if sending is None:
            self.window += more
            if self.window > WINDOW_BYTES_MAX:
                raise Breach(FLOW_CONTROL_ERROR, "a window of the connection that cannot be")
        else:
            sending.window += more
            if sending.window > WINDOW_BYTES_MAX:
                raise Breach(FLOW_CONTROL_ERROR, "a window that cannot be", sending.stream_id)

    def resize(self, first_window: int, all_sending: list[Sending]) -> None:
        """The client changes the window that its streams begin with, which holds
        for those that are open too. Raises Breach."""
        more = first_window - self._first_window
        self._first_window = first_window
        for sending in all_sending:
            sending.window += more
            if sending.window > WINDOW_BYTES_MAX:
                raise Breach(FLOW_CONTROL_ERROR, "a window that cannot be")


def _split(stream_id: int, size: int, shared: bytes, own: bytes) -> Iterator[bytes | memoryview]:
    """A message that does not go into one frame."""
    full = (FRAME_BYTES_MAX << _LENGTH_SHIFT | stream_id).to_bytes(_HEAD_BYTES, "big")
    pieces = memoryview(shared)
    prefix = size.to_bytes(wire.PREFIX_BYTES, "big")
    room = FRAME_BYTES_MAX - wire.PREFIX_BYTES
    while len(pieces) >= room:
        yield full
        yield prefix
        yield pieces[:room]
        pieces, prefix, room = pieces[room:], b"", FRAME_BYTES_MAX
    rest = b"".join((prefix, pieces, own))
    for start in range(0, len(rest), FRAME_BYTES_MAX):
        piece = rest[start : start + FRAME_BYTES_MAX]
        yield (len(piece) << _LENGTH_SHIFT | stream_id).to_bytes(_HEAD_BYTES, "big")
        yield piece


def _cut(sending: Sending, most: int) -> tuple[list[memoryview], int]:
    """The next bytes of a message, at most so many."""
    pieces: list[memoryview] = []
    size = 0
    while size < most and sending.pending:
        first = sending.pending[0]
        piece = memoryview(first)[sending.offset : sending.offset + most - size]
        pieces.append(piece)
        size += len(piece)
        sending.offset += len(piece)
        if sending.offset == len(first):
            sending.pending, sending.offset = sending.pending[1:], 0
    return pieces, size
