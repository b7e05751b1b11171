"""What one listener takes from its clients, and from each of them."""

from __future__ import annotations

from dataclasses import dataclass

CONNECTIONS_MAX = 25_000
STREAMS_PER_CONNECTION_MAX = 256
HEADER_BYTES_MAX = 16 * 1024
HEADERS_MAX = 64
CONTINUATIONS_MAX = 4
SETTINGS_ENTRIES_MAX = 16
MESSAGE_BYTES_MAX = 16 * 1_048_576
WINDOW_BYTES = 256 * 1024
"""What a client may send on a stream before the server has taken it."""
REQUEST_BYTES_MAX_TOTAL = 256 * 1_048_576
"""Of all requests of all connections that have begun to come and have not
come whole."""
CONTROL_FRAMES_BURST = 2_000
CONTROL_FRAMES_PER_SECOND = 200.0
RESETS_BURST = 200
RESETS_PER_SECOND = 20.0
UNSENT_BYTES_HIGH = 64 * 1024
"""Bytes in the socket's own buffer from which on nothing more is given to it."""
HANDSHAKE_SECONDS = 10.0
REQUEST_SECONDS = 60.0
IDLE_SECONDS = 300.0
PING_SECONDS = 30.0
PING_TIMEOUT_SECONDS = 20.0
AGE_SECONDS_MAX = 3_600.0
AGE_JITTER = 0.1
AGE_GRACE_SECONDS = 3_600.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Times are in seconds."""

    connections_max: int = CONNECTIONS_MAX
    streams_max: int = STREAMS_PER_CONNECTION_MAX
    header_bytes_max: int = HEADER_BYTES_MAX
    headers_max: int = HEADERS_MAX
    message_bytes_max: int = MESSAGE_BYTES_MAX
    window_bytes: int = WINDOW_BYTES
    request_bytes_max_total: int = REQUEST_BYTES_MAX_TOTAL
    control_frames_burst: int = CONTROL_FRAMES_BURST
    control_frames_per_second: float = CONTROL_FRAMES_PER_SECOND
    resets_burst: int = RESETS_BURST
    resets_per_second: float = RESETS_PER_SECOND
    handshake_seconds: float = HANDSHAKE_SECONDS
    request_seconds: float = REQUEST_SECONDS
    idle_seconds: float = IDLE_SECONDS
    ping_seconds: float = PING_SECONDS
    ping_timeout_seconds: float = PING_TIMEOUT_SECONDS
    age_seconds_max: float = AGE_SECONDS_MAX
    age_grace_seconds: float = AGE_GRACE_SECONDS


class Budget:
    """Bytes that all connections share."""

    def __init__(self, bytes_max: int) -> None:
        self._left = bytes_max

    @property
    def left(self) -> int:
        """Bytes that can be taken."""
        return self._left

    def take(self, size: int) -> bool:
        """Take bytes, unless there are too few."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self._left += size
