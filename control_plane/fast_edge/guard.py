"""Looks at the frames as they come, before HTTP/2's engine does. Pure.

What is seen to here is what the engine leaves to its user, or would do at a
higher cost:

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
- WINDOW_UPDATE is taken out: the windows are ours (outgoing.py). One that comes
  where no frame but another may come is left in, for the engine to refuse.
- So are frames of messages on a client's stream, where they are what comes
  first and nothing is odd about them: that is what a fleet reports with all
  day.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from control_plane.fast_edge.limits import Limits

FRAME_HEAD_BYTES = 9
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FORGOTTEN_FACTOR = 4
"""So many times as many streams as may be open are remembered."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 8, 9
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, CALM = 1, 3, 5, 6, 11
_END_STREAM = 0x1
_END_HEADERS = 0x4
_STREAM_BITS = 0x7FFF_FFFF
DATA_BYTES_MAX = 16_384

Bodies = list[tuple[int, bytes]]
"""Streams, and bytes of their requests."""
Windows = list[tuple[int, int]]
"""Streams, or 0 for the connection, and by how much their windows grow."""


class Looked(NamedTuple):
    """What has come: `bodies` before what is for the engine, `windows` beside
    it."""

    bodies: Bodies
    rest: bytes
    windows: Windows


class Breach(Exception):
    """The client has done what ends its connection, or the stream if there is
    one; `code` is one of HTTP/2."""

    def __init__(self, code: int, message: str, stream_id: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.stream_id = stream_id


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
    """Reads the frames' heads out of what a client sends, in any pieces.
    `calls` has the streams that are being served, and `streaming` those of
    which the engine need not see the bodies."""

    __slots__ = (
        "_begun",
        "_calls",
        "_control",
        "_going",
        "_going_max",
        "_newest",
        "_open_block",
        "_resets",
        "_rest",
        "_skip",
        "_streaming",
    )

    def __init__(self, limits: Limits, now: float, calls: Container[int], streaming: Container[int]) -> None:
        self._calls = calls
        self._streaming = streaming
        self._control = Bucket(limits.control_frames_burst, limits.control_frames_per_second, now)
        self._resets = Bucket(limits.resets_burst, limits.resets_per_second, now)
        self._skip = len(PREFACE)
        """Bytes that belong to a frame whose head was seen."""
        self._rest: bytes = b""
        """The beginning of a frame, too short to be judged."""
        self._begun = False
        """Whether the client's first frame, its SETTINGS, has come."""
        self._open_block = False
        """Whether headers have begun that only CONTINUATION may follow."""
        self._newest = 0
        self._going: set[int] = set()
        """Streams that the client has not ended."""
        self._going_max = FORGOTTEN_FACTOR * limits.streams_max

    def look(self, data: bytes, now: float) -> Looked:
        """Look at the next bytes. Raises Breach."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at, kept, size = self._skip, 0, len(data)
        parts: list[bytes] = []
        bodies: Bodies = []
        windows: Windows = []
        while at + FRAME_HEAD_BYTES <= size:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            kind = data[at + 3]
            stream_id = int.from_bytes(data[at + 5 : at + FRAME_HEAD_BYTES], "big") & _STREAM_BITS
            end = at + FRAME_HEAD_BYTES + length
            ours = kind == WINDOW_UPDATE and self._begun and not self._open_block
            if ours and length == 4 and end > size:
                break
            self._judge(kind, data[at + 4], stream_id, length, now)
            if ours:
                windows.append((stream_id, self._growth(stream_id, data[at + FRAME_HEAD_BYTES : end])))
                parts.append(data[kept:at])
                kept = end
            elif (
                kind == DATA
                and not data[at + 4]
                and 0 < length <= DATA_BYTES_MAX
                and kept == at
                and end <= size
                and not self._open_block
                and stream_id in self._streaming
                and not any(parts)
            ):
                bodies.append((stream_id, data[at + FRAME_HEAD_BYTES : end]))
                kept = end
            at = end
        if at < size:
            self._rest = data[at:]
            self._skip = 0
            parts.append(data[kept:at])
        else:
            self._skip = at - size
            parts.append(data[kept:] if kept else data)
        return Looked(bodies, parts[0] if len(parts) == 1 else b"".join(parts), windows)

    def reset(self, now: float) -> None:
        """The client resets a stream, or has made the server do it. Raises
        Breach."""
        if not self._resets.take(now):
            raise Breach(CALM, "too many streams that are reset")

    def _judge(self, kind: int, flags: int, stream_id: int, length: int, now: float) -> None:
        self._begun = True
        if kind <= HEADERS and length:
            self._control.give()
        elif not self._control.take(now):
            raise Breach(CALM, "too many frames that carry nothing")
        if kind in (HEADERS, CONTINUATION):
            self._open_block = not flags & _END_HEADERS
        if kind <= RST_STREAM:
            self._follow(kind, flags, stream_id, now)

    def _follow(self, kind: int, flags: int, stream_id: int, now: float) -> None:
        """Keep to the life of a stream, as far as the client decides it."""
        if kind == RST_STREAM:
            self.reset(now)
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
            self._going.add(stream_id)
            if len(self._going) > self._going_max:
                self._going.remove(min(each for each in self._going if each not in self._calls))
        if kind == RST_STREAM or flags & _END_STREAM:
            self._going.discard(stream_id)

    def _growth(self, stream_id: int, payload: bytes) -> int:
        """By how much a window grows. Raises Breach."""
        if len(payload) != 4:
            raise Breach(FRAME_SIZE_ERROR, "a WINDOW_UPDATE of another size")
        if stream_id > self._newest:
            raise Breach(PROTOCOL_ERROR, "the window of a stream that has not begun")
        more = int.from_bytes(payload, "big") & _STREAM_BITS
        if not more:
            raise Breach(PROTOCOL_ERROR, "a window that grows by nothing", stream_id)
        return more
