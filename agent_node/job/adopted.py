"""Voxplane's calls in a worker of somebody else's.

The worker keeps its own entrypoint, and hands it on which calls go here. The
config comes from a `voxplane node` on the same machine, over the socket that
VOXPLANE_RELAY_SOCKET names. Import it at the top of the worker's module:
plugins register on the main thread.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence

import structlog
from livekit.agents import JobContext
from livekit.agents.llm import Tool

from agent_node.job import voice_session
from agent_node.job.relay_client import RELAY_SOCKET_ENV, RelayClosedError
from agent_node.job.voice_request import caller_of
from voxplane.errors import VoxplaneError

NODE_SECONDS_MAX = 1.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def run_call(
    ctx: JobContext,
    *,
    tenant: str,
    agent: str,
    user: str = "",
    alias: str = "",
    variables: Mapping[str, str] | None = None,
    tools: Sequence[Tool] = (),
) -> bool:
    """Have the call answered by an agent of the control plane. `tools` are
    functions of the worker's own that the model may call beside the config's;
    they find the session's SessionData in their context.

    True when the agent has begun; the job then ends with the session. False,
    with the reason in the log, if it cannot begin: there is no node or no such
    agent, or its config cannot be used here. The caller has heard nothing then,
    and the worker's own agent can take the call.
    """
    _log_with_the_worker()
    try:
        caller = caller_of(_metadata(tenant, agent, user, alias, variables), ctx.job.id)
        await _find_node()
        await voice_session.run_call(ctx, caller, tools=tools)
    except (VoxplaneError, RelayClosedError, TimeoutError, OSError) as error:
        why = error.message if isinstance(error, VoxplaneError) else str(error) or type(error).__name__
        _log.error("voxplane does not take the call", tenant_id=tenant, agent=agent, reason=why)
        return False
    return True


def _metadata(tenant: str, agent: str, user: str, alias: str, variables: Mapping[str, str] | None) -> str:
    given = {"tenant": tenant, "agent": agent, "user": user, "alias": alias}
    return json.dumps(given | {"variables": dict(variables or {})})


async def _find_node() -> None:
    """Raises OSError or TimeoutError if no node listens: to wait for one would be silence for the caller."""
    socket = os.environ.get(RELAY_SOCKET_ENV, "")
    if not socket:
        raise OSError(f"{RELAY_SOCKET_ENV} is not set; it names the socket of `voxplane node`")
    try:
        async with asyncio.timeout(NODE_SECONDS_MAX):
            _, writer = await asyncio.open_unix_connection(socket)
    except OSError as error:
        raise OSError(f"{RELAY_SOCKET_ENV}: no `voxplane node` listens on {socket}") from error
    writer.close()


def _log_with_the_worker() -> None:
    """Our lines go where the worker's do, unless it uses structlog itself."""
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.render_to_log_kwargs,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
