"""Which way the node's stream takes: to the first address, or to the edge that
the control plane offers there. Pure; times are in seconds of a monotonic clock.

The rules that it keeps:

- The first address is told to the node, and always there to go back to. The
  offer comes on a stream there, and only there; one that does not come any more
  is withdrawn.
- An offer is taken a while after the stream is in step, at a random time, so
  that a fleet does not move at once. Before the node leaves a good stream for
  the edge, it sees whether the edge takes connections.
- The next stream takes the edge again if the last one there was in step, and
  stayed so for a while or ended by plan. Any other sends the node back to the
  first address, and the edge is tried again after a wait that doubles with each
  failure, until one there has stayed.
- What is not as safe as the first address is not taken: no offer without TLS
  where the node speaks TLS, and none without TLS to another machine.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from dataclasses import dataclass

from voxplane.v1 import config_sync_service_pb2 as sync_pb2

MOVE_SECONDS_MIN = 2.0
MOVE_SECONDS_MAX = 10.0
RETRY_SECONDS_MIN = 30.0
RETRY_SECONDS_MAX = 1_800.0
DOUBLINGS_MAX = 10
STEADY_SECONDS = 60.0
"""How long a stream of the edge is in step before its end is no failure of the
edge. What stands between may let streams begin and cut them all."""
NEVER = math.inf
UNIX = "unix:"
ADDRESS_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge, as it is reached."""

    address: str
    tls: bool


class Routes:
    """`server` is the first address, `tls` whether TLS is spoken there;
    `jitter` returns 0 to 1."""

    def __init__(self, server: str, *, tls: bool, jitter: Callable[[], float]) -> None:
        self._server = server
        self._tls = tls
        self._jitter = jitter
        self._offer: Edge | None = None
        self._on_edge = False
        self._take_edge = False
        self._in_step = False
        self._in_step_since = 0.0
        self._failures = 0
        self._due = NEVER

    @property
    def offer(self) -> Edge | None:
        """What the control plane offers, if it can be taken."""
        return self._offer

    @property
    def due(self) -> float:
        """When to see whether the edge takes connections."""
        return self._due

    def begin(self) -> Edge | None:
        """A stream is opened: the edge that it takes, or None."""
        self._on_edge = self._take_edge and self._offer is not None
        self._in_step = False
        self._due = NEVER
        return self._offer if self._on_edge else None

    def told(self, offer: sync_pb2.EdgeOffer | None) -> None:
        """The first message of a stream to the first address has come."""
        found = None if offer is None else self._usable(offer)
        if found != self._offer:
            self._failures = 0
        self._offer = found

    def in_step(self, now: float) -> None:
        """The stream is in step."""
        if self._in_step:
            return
        self._in_step, self._in_step_since = True, now
        if not self._on_edge and self._offer is not None:
            self._due = now + self._wait()

    def ready(self) -> None:
        """The edge takes connections: the next stream takes the edge."""
        self._due = NEVER
        self._take_edge = True

    def not_ready(self, now: float) -> None:
        """The edge takes no connections."""
        self._failures += 1
        self._due = now + self._wait()

    def unreached(self) -> None:
        """There is no way to the edge: the stream takes the first address."""
        self._on_edge = self._take_edge = False
        self._failures += 1

    def ended(self, now: float, *, planned: bool) -> bool:
        """The stream has ended, as either side has planned or else broken; says
        whether that was a failure of the edge."""
        if not self._on_edge:
            return False
        steady = self._in_step and now - self._in_step_since >= STEADY_SECONDS
        self._take_edge = steady or (self._in_step and planned)
        if steady:
            self._failures = 0
        self._failures += not self._take_edge
        return not self._take_edge

    def _wait(self) -> float:
        if not self._failures:
            return MOVE_SECONDS_MIN + (MOVE_SECONDS_MAX - MOVE_SECONDS_MIN) * self._jitter()
        bound = min(RETRY_SECONDS_MIN * 2.0 ** min(self._failures - 1, DOUBLINGS_MAX), RETRY_SECONDS_MAX)
        return bound * (1 + self._jitter()) / 2

    def _usable(self, offer: sync_pb2.EdgeOffer) -> Edge | None:
        address = offer.address
        if not address or len(address) > ADDRESS_CHARS_MAX or offer.tls != self._tls:
            return None
        if address.startswith(":"):
            address = self._own_host() + address
        if not offer.tls and not _is_here(address):
            return None
        return Edge(address, offer.tls)

    def _own_host(self) -> str:
        """The host of the first address."""
        if self._server.startswith(UNIX):
            return "127.0.0.1"
        return self._server.rpartition(":")[0] or "127.0.0.1"


def _is_here(address: str) -> bool:
    if address.startswith(UNIX):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
