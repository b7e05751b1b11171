"""Readers that do not read, and what has been committed for them meanwhile.

A stream that waits in one write for `seconds` is stalled. What it holds is
bounded all the same: the transfer that is being sent, and the level before it.
But a stream that has been stalled while more than `bytes_max` of newer config
came up is given up, as its client will not catch up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from control_plane.state import Change
from voxplane.errors import VoxplaneError
from voxplane.names import ALL_TENANTS
from voxplane.v1 import error_reason_pb2 as reason_pb2

STALL_SECONDS = 5.0
PENDING_BYTES_MAX = 16 * 1024 * 1024


class Reader(Protocol):
    """A stream, as it is seen from here. `writing_since` is None while it
    does not write, `unsent_bytes` is what it has begun to send."""

    tenant_id: str
    writing_since: float | None
    unsent_bytes: int

    def interrupt(self) -> None:
        """End the write, and the stream, if it is to end."""
        ...

    def end(self, error: VoxplaneError) -> None:
        """End the stream."""
        ...


_Reader = TypeVar("_Reader", bound=Reader)


@dataclass(slots=True)
class _Stall:
    since: float
    bytes: int


class Stalls:
    """The stalled ones of all streams."""

    def __init__(self, seconds: float = STALL_SECONDS, bytes_max: int = PENDING_BYTES_MAX) -> None:
        self._seconds = seconds
        self._bytes_max = bytes_max
        self._pending: dict[Reader, _Stall] = {}

    @property
    def count(self) -> int:
        """Streams that are stalled now."""
        return len(self._pending)

    def look(
        self, readers: Iterable[_Reader], now: float, why_end: Callable[[_Reader], VoxplaneError | None]
    ) -> None:
        """Find who is stalled, by a monotonic clock; those that are to end
        anyway, or have a reason to, are interrupted."""
        before, self._pending = self._pending, {}
        for reader in readers:
            since = reader.writing_since
            if since is None or now - since < self._seconds:
                continue
            stall = before.get(reader)
            if stall is None or stall.since != since:
                stall = _Stall(since, reader.unsent_bytes)
            self._pending[reader] = stall
            if (reason := why_end(reader)) is not None:
                reader.end(reason)
            reader.interrupt()

    def committed(self, change: Change) -> None:
        """Count a change for the stalled streams that watch its tenant."""
        if not self._pending:
            return
        size: int | None = None
        for reader, stall in list(self._pending.items()):
            if reader.writing_since != stall.since:
                del self._pending[reader]
                continue
            if reader.tenant_id not in (ALL_TENANTS, change.after.tenant_id):
                continue
            size = _bytes_of(change) if size is None else size
            stall.bytes += size
            if stall.bytes > self._bytes_max:
                del self._pending[reader]
                reader.end(_too_slow(self._bytes_max))
                reader.interrupt()

    def forget(self, reader: Reader) -> None:
        """The stream is over."""
        self._pending.pop(reader, None)


def _bytes_of(change: Change) -> int:
    before, after = change.before, change.after
    bundles = sum(len(r.encoded) for name, r in after.bundles.items() if before.bundles.get(name) is not r)
    return bundles + sum(len(c) for digest, c in after.contents.items() if digest not in before.contents)


def _too_slow(bytes_max: int) -> VoxplaneError:
    return VoxplaneError(
        reason_pb2.ERROR_REASON_READER_TOO_SLOW,
        f"the client does not read, and is more than {bytes_max} bytes behind",
    )
