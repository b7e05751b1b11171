"""The call that is being served: who asks, and what its log line will say."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

ANONYMOUS = "anonymous"


@dataclass(slots=True)
class Call:
    """One call. `request_id` is the id of the call itself, for logs, and not
    the request's own request_id. What is not known is empty."""

    method: str
    request_id: str
    principal: str = ANONYMOUS
    tenant_id: str = ""
    agent: str = ""
    revision: int = 0


CALL: ContextVar[Call | None] = ContextVar("voxplane_call", default=None)
"""Set by the edge for the time of the call."""


def principal() -> str:
    """Who makes the present call."""
    call = CALL.get()
    return call.principal if call else ANONYMOUS
