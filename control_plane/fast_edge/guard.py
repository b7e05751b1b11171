"""Looks at the heads of frames as they come, before HTTP/2's engine does. Pure.

Two things are seen to here that the engine leaves to its user:

- Frames that carry no request are cheap to send and cost the server work: PING,
  SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM, CONTINUATION, DATA without a
  byte, and those that nobody knows. Each kind of flood that is known in the
  field is one of them, so all draw on one bucket of tokens, and RST_STREAM,
  which also makes the server begin work in vain, on a smaller one besides. A
  frame with a request's bytes brings a token back: who really sends may also
  control.
- A stream that its client has ended or reset does not begin again. To find
  that, the ids of those that it has not ended are kept, also when the server
  has, as what is on its way then is no error.
"""

from __future__ import annotations

from control_plane.fast_edge.limits import Limits

FRAME_HEAD_BYTES = 9
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FORGOTTEN_FACTOR = 4
"""So many times as many streams as may be open are remembered."""

DATA, HEADERS, PRIORITY, RST_STREAM = 0, 1, 2, 3
PROTOCOL_ERROR, STREAM_CLOSED, CALM = 1, 5, 11
_END_STREAM = 0x1


class Breach(Exception):
    """The client has done what ends its connection; `code` is one of HTTP/2."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Bucket:
    """`burst` tokens, and so many more each second."""

    __slots__ = ("_at", "_burst", "_left", "_per_second")

    def __init__(self, burst: float, per_second: float, now: float) -> None:
        self._burst = burst
        self._left = burst
        self._per_second = per_second
        self._at = now

    def take(self, now: float) -> bool:
        """Take a token; False if there is none."""
        if self._left < 1:
            self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
            self._at = now
            if self._left < 1:
                return False
        self._left -= 1
        return True

    def give(self) -> None:
        """Bring a token back."""
        self._left = min(self._burst, self._left + 1)


class Guard:
    """Reads the heads out of what a client sends, in any pieces."""

    __slots__ = ("_control", "_going", "_going_max", "_head", "_newest", "_resets", "_skip")

    def __init__(self, limits: Limits, now: float) -> None:
        self._control = Bucket(limits.control_frames_burst, limits.control_frames_per_second, now)
        self._resets = Bucket(limits.resets_burst, limits.resets_per_second, now)
        self._skip = len(PREFACE)
        self._head: bytes = b""
        self._newest = 0
        self._going: dict[int, None] = {}
        """Streams that the client has not ended."""
        self._going_max = FORGOTTEN_FACTOR * limits.streams_max

    def look(self, data: bytes, now: float) -> None:
        """Look at the next bytes. Raises Breach."""
        at = self._skip
        if self._head:
            data = self._head + data
            self._head = b""
        size = len(data)
        while at + FRAME_HEAD_BYTES <= size:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            kind = data[at + 3]
            if kind > HEADERS or not length:
                self._count(kind, now)
            else:
                self._control.give()
            if kind <= RST_STREAM:
                stream_id = int.from_bytes(data[at + 5 : at + FRAME_HEAD_BYTES], "big") & 0x7FFF_FFFF
                self._follow(kind, data[at + 4], stream_id)
            at += FRAME_HEAD_BYTES + length
        if at < size:
            self._head = data[at:]
            self._skip = 0
        else:
            self._skip = at - size

    def _count(self, kind: int, now: float) -> None:
        if not self._control.take(now):
            raise Breach(CALM, "too many frames that carry nothing")
        if kind == RST_STREAM and not self._resets.take(now):
            raise Breach(CALM, "too many streams that are reset")

    def _follow(self, kind: int, flags: int, stream_id: int) -> None:
        """Keep to the life of a stream, as far as the client decides it."""
        if not stream_id:
            raise Breach(PROTOCOL_ERROR, "a frame of a stream names none")
        if kind == PRIORITY:
            return
        if stream_id not in self._going:
            if kind == RST_STREAM and stream_id <= self._newest:
                return
            if stream_id <= self._newest:
                raise Breach(STREAM_CLOSED, "a stream goes on that its client has ended")
            if kind != HEADERS:
                return  # the engine knows what to say of streams that have not begun
            self._newest = stream_id
            self._going[stream_id] = None
            if len(self._going) > self._going_max:
                del self._going[next(iter(self._going))]
        if kind == RST_STREAM or flags & _END_STREAM:
            del self._going[stream_id]
