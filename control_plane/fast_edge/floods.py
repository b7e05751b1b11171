"""Counts frames as they come, and says when there are too many. Pure.

Frames that carry no request are cheap to send and cost the server work: PING,
SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM, CONTINUATION, DATA without a
byte, and those that nobody knows. Each kind of flood that is known in the field
is one of them, so all draw on one bucket of tokens, and RST_STREAM, which also
makes the server begin work in vain, on a smaller one besides. A frame with a
request's bytes brings a token back: who really sends may also control.
"""

from __future__ import annotations

from control_plane.fast_edge.limits import Limits

FRAME_HEAD_BYTES = 9
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM = 0, 1, 3


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


class FrameCount:
    """Reads the frames' heads out of what a client sends, in any pieces."""

    __slots__ = ("_control", "_head", "_resets", "_skip")

    def __init__(self, limits: Limits, now: float) -> None:
        self._control = Bucket(limits.control_frames_burst, limits.control_frames_per_second, now)
        self._resets = Bucket(limits.resets_burst, limits.resets_per_second, now)
        self._skip = len(PREFACE)
        self._head: bytes = b""

    def look(self, data: bytes, now: float) -> str:
        """Look at the next bytes; says what there is too much of, if anything."""
        at = self._skip
        if self._head:
            data = self._head + data
            self._head = b""
        size = len(data)
        while at + FRAME_HEAD_BYTES <= size:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            kind = data[at + 3]
            if kind > _HEADERS or (kind == _DATA and not length):
                if not self._control.take(now):
                    return "frames that carry nothing"
                if kind == _RST_STREAM and not self._resets.take(now):
                    return "streams that are reset"
            elif kind == _DATA:
                self._control.give()
            at += FRAME_HEAD_BYTES + length
        if at < size:
            self._head = data[at:]
            self._skip = 0
        else:
            self._skip = at - size
        return ""
