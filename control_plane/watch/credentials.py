"""Ends the streams of credentials that end.

A stream is warned CREDENTIAL_WARNING_SECONDS before, by a drain, so that its
client can come again with a new credential; at the end it is ended.
"""

from __future__ import annotations

from collections.abc import Callable

from control_plane.watch.rights import Rights
from control_plane.watch.serving import Stream
from voxplane.errors import VoxplaneError
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

CREDENTIAL_WARNING_SECONDS = 60.0
CREDENTIAL_SPREAD_SHARE = 0.8
"""Clients are told to come back within this share of what is left."""


class Credentials:
    """The streams whose credential ends at some time. `jitter` returns 0 to 1;
    times are in seconds since 1970."""

    def __init__(self, rights: Rights, jitter: Callable[[], float]) -> None:
        self._rights = rights
        self._jitter = jitter
        self._unwarned: dict[Stream, float] = {}
        self._warned: dict[Stream, float] = {}

    def open(self, stream: Stream) -> None:
        """A stream begins."""
        expires = self._rights.expires(stream.principal)
        if expires is not None:
            self._unwarned[stream] = expires

    def again(self, stream: Stream) -> None:
        """The stream's credential may end at another time."""
        expires = self._rights.expires(stream.principal)
        if stream not in self._warned:
            self._unwarned.pop(stream, None)
            self.open(stream)
        elif expires is not None:
            self._warned[stream] = min(expires, self._warned[stream])

    def close(self, stream: Stream) -> None:
        """A stream is over."""
        self._unwarned.pop(stream, None)
        self._warned.pop(stream, None)

    def look(self, now: float) -> None:
        """Warn and end those whose time has come."""
        for stream, expires in list(self._unwarned.items()):
            left = expires - now
            if left <= CREDENTIAL_WARNING_SECONDS:
                del self._unwarned[stream]
                self._warned[stream] = expires
                spread = max(left, 0.0) * CREDENTIAL_SPREAD_SHARE * self._jitter()
                stream.drain(sync_pb2.DRAIN_REASON_CREDENTIAL, spread)
        for stream, expires in list(self._warned.items()):
            if expires > now:
                continue
            del self._warned[stream]
            renewed = self._rights.expires(stream.principal)
            if renewed is None or renewed > now:
                self.open(stream)
            else:
                stream.end(_expired())
                stream.interrupt()


def _expired() -> VoxplaneError:
    return VoxplaneError(
        reason_pb2.ERROR_REASON_CREDENTIAL_EXPIRED,
        "the credential that the stream came with has ended; connect again with a new one",
    )
