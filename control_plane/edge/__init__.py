"""What every call passes before a handler sees it."""

from __future__ import annotations

from typing import Any, cast

import grpc

from control_plane.edge.around import Around, Chain
from control_plane.edge.calls import Calls
from control_plane.edge.errors import Errors
from control_plane.edge.validation import Validation

__all__ = ["interceptors", "layers"]


def layers() -> list[Around]:
    """What a call passes on every transport, from the outside in.

    Authentication, tenant scope and role, then quota and rate limit belong
    between Errors and Validation: they raise VoxplaneError like any handler,
    and nobody pays for the validation of a call that is not permitted.
    """
    return [Calls(), Errors(), Validation()]


def interceptors(*, tracing: bool) -> list[grpc.aio.ServerInterceptor]:
    """What a call passes on gRPC."""
    chain = Chain(layers(), generators=tracing)
    return [_tracing(), chain] if tracing else [chain]


def _tracing() -> grpc.aio.ServerInterceptor:
    # Untyped, and worth its import time only where it is used.
    import opentelemetry.instrumentation.grpc as instrumentation  # pyright: ignore[reportMissingTypeStubs]

    made: Any = instrumentation.aio_server_interceptor()  # pyright: ignore[reportUnknownMemberType]
    return cast("grpc.aio.ServerInterceptor", made)
