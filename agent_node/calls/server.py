"""LiveKit's worker as the node uses it.

It overrides what livekit-agents 1.8.9 would decide by itself, and reads of it
what that does not tell: the version is pinned for this reason.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from livekit.agents import AgentServer, JobExecutorType
from livekit.agents.ipc.job_executor import JobExecutor
from livekit.agents.ipc.proc_pool import ProcPool
from livekit.agents.ipc.supervised_proc import SupervisedProc
from livekit.agents.utils.aio import ChanClosed
from livekit.protocol import agent
from typing_extensions import override

from agent_node.calls.gate import AGENT_NAME, Gate
from agent_node.calls.load import LIVEKIT_FULL, LoadMeter
from agent_node.job import voice

SHUTDOWN_SECONDS_MAX = 8.0
"""For a job to end when it is told to, before it is killed."""
MEMORY_WARN_SHARE = 0.8
MEMORY_WARN_MB = 1000
"""Where there is no limit."""


@dataclass(frozen=True, slots=True)
class JobEnd:
    """A job's process is gone. `exit_code` is negative for a signal."""

    job_id: str
    room: str
    metadata: str
    exit_code: int | None


class CallServer(AgentServer):
    """A worker that asks the gate for every job and tells the meter's load."""

    def __init__(
        self,
        *,
        gate: Gate,
        meter: LoadMeter,
        idle: int,
        memory_limit_mb: int,
        ended: Callable[[JobEnd], None],
        shutdown_seconds: float = SHUTDOWN_SECONDS_MAX,
    ) -> None:
        super().__init__(
            job_executor_type=JobExecutorType.PROCESS,
            host="127.0.0.1",
            port=0,
            load_threshold=LIVEKIT_FULL,
            load_fnc=meter.told,
            num_idle_processes=idle,
            preload_modules=list(voice.PRELOADED_MODULES),
            setup_fnc=voice.prepare,
            max_retry=sys.maxsize,  # a server that is away must not end the text sessions of the node
            shutdown_process_timeout=shutdown_seconds,
            job_memory_warn_mb=memory_limit_mb * MEMORY_WARN_SHARE or MEMORY_WARN_MB,
            job_memory_limit_mb=memory_limit_mb,
        )
        logging.getLogger("livekit.agents").addFilter(_name_error)
        self._told = meter.told
        self._ended = ended
        self.rtc_session(voice.entrypoint, agent_name=AGENT_NAME, on_request=gate.answer)
        self.on("worker_started", self._watch_jobs)  # pyright: ignore[reportUnknownMemberType]

    @property
    def registered(self) -> bool:
        """Whether LiveKit has this worker and is heard."""
        # _connecting holds from the loss of a connection to the next registration
        return self.id != "unregistered" and not self._connecting and not self._closed

    @property
    def pool(self) -> ProcPool | None:
        """The job processes; None before it has run."""
        return getattr(self, "_proc_pool", None)

    def tells_otherwise(self, load: float) -> bool:
        """Whether LiveKit was last told the contrary of a load: full or not."""
        return (load >= LIVEKIT_FULL) != (self._previous_status == agent.WorkerStatus.WS_FULL)

    async def tell_load(self) -> None:
        """Tell LiveKit the load at once, and not with the next beat."""
        if self.registered:
            self._worker_load = self._told()
            with suppress(ChanClosed):
                await self._update_worker_status()

    def kill(self, job_id: str) -> None:
        """Kill a job's process, if there is one."""
        executor = self.pool.get_by_job_id(job_id) if self.pool else None
        if executor is not None:
            _kill(executor)

    def kill_all(self) -> None:
        """Kill all job processes."""
        for executor in self.pool.processes if self.pool else ():
            _kill(executor)

    @override  # pyright tells if LiveKit has it no more
    async def _invoke_load_fnc(self) -> float:
        # not in a thread: those of the loop may all be taken, and the server waits for an answer
        return self._told()

    @override
    def _is_available(self) -> bool:
        return True  # the gate refuses, and says why

    @override
    def _get_effective_load(self) -> float:
        return self._worker_load  # it counts what was accepted and does not run yet

    def _watch_jobs(self) -> None:
        assert self.pool is not None
        self.pool.on("process_closed", self._on_closed)  # pyright: ignore[reportUnknownMemberType]

    def _on_closed(self, executor: JobExecutor) -> None:
        info = executor.running_job
        if info is None:
            return
        code = executor.exitcode if isinstance(executor, SupervisedProc) else None
        job = info.job
        self._ended(JobEnd(job.id, job.room.name, job.metadata, code))


def _name_error(record: logging.LogRecord) -> bool:
    """Say why LiveKit cannot be reached: its own field for that is not shown,
    as it may hold anything."""
    error: object = getattr(record, "error", None)
    if isinstance(error, Exception):
        status: object = getattr(error, "status", "")
        record.connection_error = f"{type(error).__name__} {status}".rstrip()
    return True


def _kill(executor: JobExecutor) -> None:
    if isinstance(executor, SupervisedProc) and executor.pid is not None and executor.exitcode is None:
        with suppress(ProcessLookupError):
            os.kill(executor.pid, signal.SIGKILL)
