"""grpc.health.v1 and reflection. Their libraries are untyped; this is the one
place that knows."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection


class Health:
    """The server's health, as a whole and by service."""

    def __init__(self, server: grpc.aio.Server, services: Sequence[str]) -> None:
        self._services = ("", *services)
        self._servicer: Any = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def ready(self) -> None:
        """Say that calls are served."""
        for service in self._services:
            await self._servicer.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def not_ready(self) -> None:
        """Say that calls are not served yet."""
        for service in self._services:
            await self._servicer.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)

    async def leaving(self) -> None:
        """Say that calls are no longer served, for good."""
        await self._servicer.enter_graceful_shutdown()


def add_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Let clients ask what the server has."""
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
