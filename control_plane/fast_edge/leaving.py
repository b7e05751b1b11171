"""How a connection is left (RFC 9113, 6.8).

A client may have sent a request that has not come yet. So GOAWAY first names no
stream, with a PING behind it: what the client has sent before its answer was sent
before it knew. Then GOAWAY names the last stream that was taken.
"""

from __future__ import annotations

PING = b"last one"
ANSWER_SECONDS_MAX = 2.0
"""Who has not answered until then is told the last stream all the same."""
_NEVER = float("inf")


class Leaving:
    """Where a connection is on its way out."""

    __slots__ = ("_since", "told")

    def __init__(self) -> None:
        self._since = _NEVER
        self.told = False
        """Whether the client has been told the last stream."""

    def begin(self, now: float) -> bool:
        """The connection is to be left; whether that is news."""
        if self._since < _NEVER:
            return False
        self._since = now
        return True

    def answered(self, ping: bytes) -> bool:
        """A PING was answered; whether to tell the last stream."""
        return ping == PING and self._tell()

    def late(self, now: float) -> bool:
        """Time has passed; whether to tell the last stream."""
        return now - self._since >= ANSWER_SECONDS_MAX and self._tell()

    def _tell(self) -> bool:
        news = self._since < _NEVER and not self.told
        self.told = self.told or news
        return news
