"""What a stream's error says to its client."""

from __future__ import annotations

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs]

from agent_node.upstream.events import NO_TENANT, Ended
from voxplane.names import ALL_TENANTS

TENANT_METADATA = "tenant"
REPLACED = "NODE_REPLACED"
STATUS_DETAILS = "grpc-status-details-bin"
REASON_CHARS_MAX = 500

_REFUSED = {grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.INVALID_ARGUMENT}
"""The server does not take what the request declares."""


def ended_by(error: grpc.aio.AioRpcError, closing: str, now: float) -> Ended:
    """The stream's end. `closing` is why this side has ended it, if it has.

    A request that is refused as such is not repeated: the tenant that the
    error names, or else every tenant, is not declared the next time.
    """
    info, delay = _details(error)
    refused: str = NO_TENANT
    # gRPC itself refuses a request that is too large, and gives no reason.
    too_large = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and not info.reason
    if (error.code() in _REFUSED or too_large) and not closing:
        refused = info.metadata.get(TENANT_METADATA, "") or ALL_TENANTS
    reason = closing or f"{error.code().name}: {error.details()}"[:REASON_CHARS_MAX]
    return Ended(reason, now, delay, refused, replaced=info.reason == REPLACED and not closing)


def _details(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, float | None]:
    """What the error says in its details; whatever cannot be read says nothing."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    delay: float | None = None
    for key, value in error.trailing_metadata() or ():
        if key != STATUS_DETAILS or not isinstance(value, bytes):
            continue
        try:
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(retry):
                    delay = retry.retry_delay.ToNanoseconds() / 1e9
                else:
                    detail.Unpack(info)
        except DecodeError:
            continue
    return info, delay
