"""Gives each call an id, and writes its one line of log."""

from __future__ import annotations

import asyncio
import random
import re
import time
from typing import Any

import grpc
import structlog

from control_plane.edge.around import Around, Context, Proceed
from control_plane.services.call import CALL, Call
from voxplane.names import agent_name

REQUEST_ID = "x-request-id"
REQUEST_ID_BITS = 128
OURS = "/voxplane."

_ACCEPTED = re.compile(r"[A-Za-z0-9_.:/+=-]{1,128}")
_ID = re.compile(r"[a-z][a-z0-9_-]{0,62}|-")
_log = structlog.get_logger("control_plane.calls")


class Calls(Around):
    """The outermost of our interceptors. A call's id is the client's, from the
    metadata x-request-id, or a new one; it goes back in the trailing
    metadata, and to all that the call logs."""

    async def around(self, method: str, request: Any, context: Context, proceed: Proceed) -> Any:
        """See Around."""
        call = Call(method, _request_id(context))
        _note_request(call, request)
        context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
        began = time.perf_counter()
        token = CALL.set(call)
        outcome = "OK"
        try:
            served = proceed(request, context)
            del request  # a stream lasts for hours, and does not need what it was asked for with
            response = await served
            _note_response(call, response)
            return response
        except asyncio.CancelledError:
            outcome = "CANCELLED"
            raise
        except grpc.aio.AbortError:
            outcome = _code_name(context)
            raise
        finally:
            CALL.reset(token)
            _write(call, outcome, (time.perf_counter() - began) * 1e3)


def _request_id(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID and isinstance(value, str) and _ACCEPTED.fullmatch(value):
            return value
    return f"{random.getrandbits(REQUEST_ID_BITS):0{REQUEST_ID_BITS // 4}x}"


def _note_request(call: Call, request: Any) -> None:
    """Of ids that are valid: the request is not judged yet, and what else stands
    there may be anything, of any length."""
    call.tenant_id = _valid_id(request, "tenant_id")
    agent_id = _valid_id(request, "agent_id") if call.tenant_id else ""
    call.agent = agent_name(call.tenant_id, agent_id) if agent_id else ""


def _valid_id(request: Any, field: str) -> str:
    value = getattr(request, field, "")
    return value if _ID.fullmatch(value) else ""


def _note_response(call: Call, response: Any) -> None:
    revision = getattr(response, "revision", None)
    call.revision = getattr(revision, "number", 0)


def _code_name(context: Context) -> str:
    # grpc.aio gives the number where the types say StatusCode.
    code: Any = context.code()
    return next((known.name for known in grpc.StatusCode if code in (known, known.value[0])), "UNKNOWN")


def _write(call: Call, outcome: str, milliseconds: float) -> None:
    line: dict[str, Any] = {
        "method": call.method.lstrip("/"),
        "code": outcome,
        "ms": round(milliseconds, 2),
        "request_id": call.request_id,
    }
    if call.tenant_id:
        line["tenant_id"] = call.tenant_id
    if call.agent:
        line["agent"] = call.agent
    if call.revision:
        line["revision"] = call.revision
    if call.method.startswith(OURS):
        _log.info("call", **line)
    else:
        _log.debug("call", **line)
