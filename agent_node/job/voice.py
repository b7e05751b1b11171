"""The LiveKit worker of the node.

One generic agent name serves all tenants: the caller comes in the job's
metadata. Each call runs in a process of its own, which gets its config from
the node's relay and so takes changes while it runs.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from livekit.agents import AgentServer, JobContext, JobExecutorType, JobProcess, JobRequest
from livekit.agents.ipc.proc_pool import ProcPool
from livekit.agents.ipc.supervised_proc import SupervisedProc

# plugins register on the main thread, when they are imported
import agent_node.providers as _providers
from agent_node.job import voice_session
from agent_node.job.library_logs import quieten_libraries
from agent_node.job.relay_client import RELAY_SOCKET_ENV, RelayClosedError
from agent_node.job.voice_request import caller_of
from agent_node.logs import configure_logs
from agent_node.providers.context import ssl_context
from voxplane.errors import VoxplaneError

AGENT_NAME = "voxplane"
NODE_ID_ENV = "VOXPLANE_NODE_ID"
LOG_FORMAT_ENV = "VOXPLANE_LOG_FORMAT"
PRELOADED_MODULES = (_providers.__name__, "agent_node.job.voice")

DRAIN_SECONDS_MAX = 3600.0
CLOSE_SECONDS_MAX = 20.0
KILLED_SECONDS_MAX = 2.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How the worker runs.

    drain_seconds: longest wait for calls to end by themselves once it stops.
    close_seconds: longest wait for the rest to be closed, before its processes are killed.
    load_threshold: CPU load, 0 to 1, from which new calls are refused.
    idle_processes: job processes that wait for a call.
    """

    drain_seconds: float = DRAIN_SECONDS_MAX
    close_seconds: float = CLOSE_SECONDS_MAX
    load_threshold: float = 0.7
    idle_processes: int = 1


async def run_worker(
    *, relay_socket: Path, stop: asyncio.Event, settings: WorkerSettings = WorkerSettings()
) -> None:
    """Serve LiveKit's jobs until `stop` is set, then drain and close.

    LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET say where. Returns
    within drain_seconds + close_seconds of `stop`, and KILLED_SECONDS_MAX, at the
    latest. Raises
    RuntimeError if LiveKit cannot be reached any more: restart the process.
    """
    os.environ[RELAY_SOCKET_ENV] = str(relay_socket)  # the fork server keeps the environment it starts with
    server = _server(settings)
    running = asyncio.create_task(server.run(), name="livekit worker")
    stopping = asyncio.create_task(stop.wait(), name="livekit worker stop")
    try:
        await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            await _drain(server, settings.drain_seconds)
    finally:
        stopping.cancel()
        await _close(server, running, settings.close_seconds)
    if running.done() and not running.cancelled():
        running.result()


async def accept(request: JobRequest) -> None:
    """Take the job if its metadata says who calls whom; else end it, for no
    other worker can do better."""
    try:
        caller = caller_of(request.job.metadata, request.id)
    except VoxplaneError as error:
        _log.warning("voice job refused", session_id=request.id, reason=error.message)
        await request.reject(terminate=True)
        return
    _log.info("voice job accepted", session_id=request.id, tenant_id=caller.tenant_id, agent=caller.agent_id)
    await request.accept(name=AGENT_NAME)


def prepare(process: JobProcess) -> None:
    """Make an idle job process ready for its call."""
    log_format = "console" if os.environ.get(LOG_FORMAT_ENV) == "console" else "json"
    configure_logs(log_format, os.environ.get(NODE_ID_ENV, ""))
    quieten_libraries()
    ssl_context()


async def entrypoint(ctx: JobContext) -> None:
    """Run one call, in its own process. A call that cannot start ends its job."""
    try:
        await voice_session.run_call(ctx, caller_of(ctx.job.metadata, ctx.job.id))
    except (VoxplaneError, RelayClosedError, TimeoutError) as error:
        why = error.reason_name if isinstance(error, VoxplaneError) else str(error) or type(error).__name__
        _log.error("the call cannot start", session_id=ctx.job.id, reason=why)
        ctx.shutdown(reason=f"the call cannot start: {why}")


def _server(settings: WorkerSettings) -> AgentServer:
    server = AgentServer(
        job_executor_type=JobExecutorType.PROCESS,
        host="127.0.0.1",
        port=0,
        load_threshold=settings.load_threshold,
        num_idle_processes=settings.idle_processes,
        preload_modules=list(PRELOADED_MODULES),
        setup_fnc=prepare,
    )
    server.rtc_session(entrypoint, agent_name=AGENT_NAME, on_request=accept)
    return server


async def _drain(server: AgentServer, seconds: float) -> None:
    """Take no new calls and wait for the running ones."""
    try:
        await asyncio.wait_for(server.drain(timeout=None), seconds)
    except TimeoutError:
        _log.warning("voice calls still ran when the drain ended", calls=len(server.active_jobs))


async def _close(server: AgentServer, running: asyncio.Task[None], seconds: float) -> None:
    """Close the worker, by force if it takes too long: it has been seen to hang."""
    # asyncio.wait, not wait_for: it returns in time even if the task ignores its cancellation
    closing = asyncio.create_task(server.aclose(), name="livekit worker close")
    try:
        _, late = await asyncio.wait((closing, running), timeout=seconds)
    except asyncio.CancelledError:
        _kill_jobs(server)
        closing.cancel()
        running.cancel()
        raise
    if late:
        _log.error("the LiveKit worker did not close; its jobs are killed", seconds=seconds)
        _kill_jobs(server)
        # without its jobs the worker closes by itself, if anything of it still works
        _, late = await asyncio.wait(late, timeout=KILLED_SECONDS_MAX)
        for task in late:
            task.cancel()


def _kill_jobs(server: AgentServer) -> None:
    """Kill the worker's own job processes, and no others of the node."""
    pool: ProcPool | None = getattr(server, "_proc_pool", None)  # none before it has run
    for executor in pool.processes if pool else ():
        if isinstance(executor, SupervisedProc) and executor.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(executor.pid, signal.SIGKILL)
