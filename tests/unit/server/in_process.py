"""A control plane in the test's own process, on a Unix socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.rpc import status_pb2
from grpc_status import rpc_status

from control_plane.server import ControlPlane, build
from control_plane.settings import Settings
from control_plane.store import LogStore
from control_plane.store.memory import MemoryStore
from voxplane.clock import SystemClock
from voxplane.errors import reason_of, violations_of
from voxplane.v1 import agent_service_pb2_grpc as service_grpc


@dataclass(frozen=True, slots=True)
class Served:
    """A running control plane, and a client of it."""

    control_plane: ControlPlane
    channel: grpc.aio.Channel
    agents: service_grpc.AgentServiceAsyncStub


@asynccontextmanager
async def served(
    folder: Path, store: LogStore | None = None, *, tracing: bool = False
) -> AsyncIterator[Served]:
    """Serve from `folder`/s.sock, for as long as the block runs."""
    settings = Settings(grpc_listen=f"unix:{folder}/s.sock", drain_seconds=1, tracing=tracing)
    control_plane = build(settings, store or MemoryStore(), SystemClock())
    address = await control_plane.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield Served(control_plane, channel, service_grpc.AgentServiceStub(channel))
    finally:
        await control_plane.stop()


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a call was refused with."""

    code: grpc.StatusCode
    reason: str
    fields: dict[str, str]
    status: status_pb2.Status
    trailers: dict[str, str | bytes]


async def refusal(call: grpc.aio.Call) -> Refusal:
    """Await a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call  # type: ignore[misc]
    error = raised.value
    status = rpc_status.from_call(error)
    assert status is not None
    fields = {violation.field: violation.description for violation in violations_of(status)}
    return Refusal(error.code(), reason_of(status), fields, status, dict(error.trailing_metadata() or ()))
