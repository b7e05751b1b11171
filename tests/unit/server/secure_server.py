"""A control plane whose listeners speak TLS, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from control_plane.server import ControlPlane, build
from control_plane.settings import Settings
from control_plane.store.memory import MemoryStore
from tests.certificates import Authority, Identity
from tests.virtual_clock import VirtualClock
from voxplane.clock import SystemClock


@dataclass(frozen=True, slots=True)
class SecureServer:
    """`grpc` and `edge` are the addresses of its listeners."""

    control_plane: ControlPlane
    grpc: str
    edge: str


@asynccontextmanager
async def secure_server(
    identity: Identity | None, client_ca: Path | None = None, clock: VirtualClock | None = None
) -> AsyncIterator[SecureServer]:
    """Serve for as long as the block runs; in plain without an identity."""
    settings = Settings(
        grpc_listen="127.0.0.1:0",
        edge_listen="127.0.0.1:0",
        drain_seconds=0,
        tls_cert=identity.cert if identity else None,
        tls_key=identity.key if identity else None,
        tls_client_ca=client_ca,
    )
    control_plane = build(settings, MemoryStore(), clock or SystemClock())
    address = await control_plane.start()
    try:
        yield SecureServer(control_plane, address, control_plane.edge_address)
    finally:
        stopping = control_plane.stop()
        await (clock.finish(stopping) if clock else stopping)


def credentials(authority: Authority, client: Identity | None = None) -> grpc.ChannelCredentials:
    """What a client shows and trusts."""
    return grpc.ssl_channel_credentials(
        authority.ca.read_bytes(),
        client.key.read_bytes() if client else None,
        client.cert.read_bytes() if client else None,
    )
