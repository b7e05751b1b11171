"""The fast edge: a listener for fleets of nodes."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import structlog

from control_plane.edge.around import Around as Layer
from control_plane.edge.around import bind
from control_plane.edge.listen import UNIX, ListenError, claim
from control_plane.fast_edge.connection import Connection, configuration
from control_plane.fast_edge.limits import Budget, Limits
from control_plane.fast_edge.protocol import Around, EdgeProtocol
from control_plane.services.config_sync import Method
from voxplane.clock import Clock

BACKLOG = 4_096
"""Connections that wait to be accepted. With few a herd that comes back is
told to try again in a second."""
TICK_SECONDS = 1.0
POLL_SECONDS = 0.05

_log = structlog.get_logger(__name__)


class FastEdge:
    """Serves the methods of one service, each with the layers around it, the
    first outermost. `start`, then `stop`, once each."""

    def __init__(
        self,
        service: str,
        methods: Mapping[str, Method],
        layers: list[Layer],
        clock: Clock,
        *,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._limits = limits = limits or Limits()
        self._clock = clock
        self._tls = tls
        self._protocols: set[EdgeProtocol] = set()
        self.address = ""
        """Where it listens, with its real port."""
        self._refused = 0
        self._leaving = False
        self._server: asyncio.Server | None = None
        self._ticking: asyncio.Task[None] | None = None
        config, budget = configuration(limits), Budget(limits.request_bytes_max_total)
        inside_out = tuple(reversed(layers))
        self._around = Around(
            {
                f"/{service}/{name}": (method, bind(inside_out, f"/{service}/{name}", method.handler))
                for name, method in methods.items()
            },
            lambda: Connection(limits, config, budget, clock.monotonic(), jitter),
            clock.monotonic,
            self._enter,
            self._protocols.discard,
            tls is not None,
        )

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._protocols)

    @property
    def refused(self) -> int:
        """Connections that there was no room for."""
        return self._refused

    async def start(self, address: str) -> str:
        """Serve at HOST:PORT or unix:PATH, and return the address with its real
        port. Raises ListenError."""
        claim(address)
        loop = asyncio.get_running_loop()
        make = partial(EdgeProtocol, self._around)
        # A client that does not get on with it is counted by nobody until it has.
        handshake = self._limits.handshake_seconds if self._tls is not None else None
        try:
            if address.startswith(UNIX):
                path = str(Path(address.removeprefix(UNIX).removeprefix("//")))
                self._server = await loop.create_unix_server(
                    make, path, backlog=BACKLOG, ssl=self._tls, ssl_handshake_timeout=handshake
                )
            else:
                host, _, port = address.rpartition(":")
                self._server = await loop.create_server(
                    make,
                    host.strip("[]"),
                    int(port),
                    backlog=BACKLOG,
                    ssl=self._tls,
                    ssl_handshake_timeout=handshake,
                )
        except OSError as error:
            raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from error
        self._ticking = loop.create_task(self._tick())
        self.address = address
        if not address.startswith(UNIX):
            self.address = f"{address.rpartition(':')[0]}:{_port(self._server)}"
        return self.address

    async def stop(self, seconds: float) -> None:
        """Take no new connections and calls, give the calls that run so many
        seconds, and end what is left."""
        if self._server is None or self._ticking is None:
            return
        self._leaving = True
        self._server.close()
        for protocol in list(self._protocols):
            protocol.go_away()
        ends = self._clock.monotonic() + seconds
        while any(protocol.busy for protocol in self._protocols) and self._clock.monotonic() < ends:
            await self._clock.sleep(POLL_SECONDS)
        for protocol in list(self._protocols):
            protocol.close()
        self._ticking.cancel()
        await asyncio.wait([self._ticking])

    def _enter(self, protocol: EdgeProtocol) -> bool:
        if self._leaving:
            # Its handshake has ended after that, and nobody would see to it.
            return False
        if len(self._protocols) >= self._limits.connections_max:
            if not self._refused:
                _log.warning("connections refused", connections=len(self._protocols))
            self._refused += 1
            return False
        self._protocols.add(protocol)
        return True

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(TICK_SECONDS)
            for protocol in list(self._protocols):
                try:
                    protocol.tick()
                except Exception:
                    # The others' time goes on.
                    _log.exception("a connection fails")
                    protocol.abort()


def _port(server: asyncio.Server) -> int:
    found: socket.socket = server.sockets[0]
    return int(found.getsockname()[1])
