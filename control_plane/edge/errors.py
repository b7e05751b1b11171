"""Turns what a handler raises into google.rpc.Status."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import grpc
import structlog
from grpc_status import rpc_status

from control_plane.edge.around import Around, Context, Proceed
from control_plane.edge.calls import REQUEST_ID
from control_plane.services.call import CALL
from voxplane.errors import VoxplaneError, to_status
from voxplane.v1 import error_reason_pb2 as reason_pb2

_log = structlog.get_logger(__name__)


class Errors(Around):
    """VoxplaneError keeps its reason and details. A call whose client went is
    cancelled. Anything else is a fault of ours: the caller learns the call's
    id, the log the rest."""

    async def around(self, method: str, request: Any, context: Context, proceed: Proceed) -> Any:
        """See Around."""
        served = proceed(request, context)
        del request
        try:
            return await served
        except VoxplaneError as error:
            await _abort(context, error)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except grpc.aio.InternalError as gone:
            # gRPC could not send: the client went, and its cancellation is on
            # the way.
            raise asyncio.CancelledError from gone
        except Exception:
            _log.exception("a handler failed", method=method.lstrip("/"), request_id=_call_id())
            fault = VoxplaneError(
                reason_pb2.ERROR_REASON_INTERNAL,
                "a fault of the server; its log has the request_id",
                metadata={"request_id": _call_id()},
            )
            await _abort(context, fault)


async def _abort(context: Context, error: VoxplaneError) -> NoReturn:
    status: grpc.Status = rpc_status.to_status(to_status(error))  # pyright: ignore[reportUnknownMemberType]
    trailers = ((REQUEST_ID, _call_id()), *(status.trailing_metadata or ()))
    await context.abort(status.code, status.details or "", trailers)


def _call_id() -> str:
    call = CALL.get()
    return call.request_id if call else ""
