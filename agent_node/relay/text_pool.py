"""A pool of text job processes: some wait warm, each serves one session.

- A session gets a process of its own, so tenants never share memory.
- `idle` processes wait; one that is taken is replaced at once, one that died
  before its session after a back-off with full jitter.
- A job's standard input is a pipe that this process holds and never writes to:
  a job that reads its end knows that the node is gone, however it went.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence

import structlog

from agent_node.relay.text_job import JobState, TextJob
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2

STARTING_MAX = 2
JOB_START_SECONDS_MAX = 60.0
START_BACK_OFF_SECONDS_MIN = 0.5
START_BACK_OFF_SECONDS_MAX = 30.0

_log = structlog.stdlib.get_logger(__name__)


class TextPool:
    """Text jobs by process id. `command` starts one; `environment` is added to
    this process's own; `jitter` returns 0 to 1."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        idle: int,
        sessions_max: int,
        clock: Clock,
        jitter: Callable[[], float],
    ) -> None:
        self._command = tuple(command)
        self._environment = dict(environment)
        self._idle_wanted = idle
        self._sessions_max = sessions_max
        self._clock = clock
        self._jitter = jitter
        self._jobs: dict[int, TextJob] = {}
        self._idle: deque[TextJob] = deque()
        self._waiters: deque[asyncio.Future[TextJob]] = deque()
        self._sessions = 0
        self._failures = 0
        self._refusing = False
        self._stopping = False
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def sessions(self) -> int:
        """Count of sessions that run or are about to."""
        return self._sessions

    @property
    def pids(self) -> list[int]:
        """The processes that run."""
        return list(self._jobs)

    async def run(self) -> None:
        """Keep enough processes until cancelled, then end all of them within
        JOB_KILL_SECONDS and a moment."""
        try:
            while True:
                while self._missing() > 0:
                    if self._failures:
                        await self._clock.sleep(self._back_off())
                    await self._start()
                self._wake.clear()
                await self._wake.wait()
        finally:
            await asyncio.shield(self._end_all())

    async def take(self) -> TextJob:
        """A job of one's own; `give_back` it. Raises VoxplaneError with
        LIMIT_REACHED or SHUTTING_DOWN, and TimeoutError if none starts."""
        if self._refusing:
            raise _stopping()
        if self._sessions >= self._sessions_max:
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_LIMIT_REACHED,
                f"the node runs {self._sessions} text sessions, as many as it may",
                metadata={"limit": "max_text_sessions"},
            )
        self._sessions += 1
        try:
            job = self._idle.popleft() if self._idle else await self._wait_for_one()
        except BaseException:
            self._sessions -= 1
            raise
        finally:
            self._wake.set()
        job.state = JobState.BUSY
        return job

    def refuse(self) -> None:
        """Take no new sessions from now on."""
        self._refusing = True

    def give_back(self, job: TextJob) -> None:
        """The session is over. The process ends by itself, or is ended."""
        self._sessions -= 1
        job.finish()
        self._spawn(self._see_off(job))

    def ready(self, pid: int) -> TextJob | None:
        """A process has loaded and waits for a session. None if it is no job
        of this pool."""
        job = self._jobs.get(pid)
        if job is None or job.state is not JobState.STARTING:
            return None
        job.state = JobState.IDLE
        self._failures = 0
        self._put(job)
        self._wake.set()
        return job

    def _put(self, job: TextJob) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(job)
                return
        self._idle.append(job)

    async def _wait_for_one(self) -> TextJob:
        waiter: asyncio.Future[TextJob] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake.set()
        try:
            async with asyncio.timeout(JOB_START_SECONDS_MAX):
                return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._put(waiter.result())
            waiter.cancel()
            raise

    def _missing(self) -> int:
        starting = sum(job.state is JobState.STARTING for job in self._jobs.values())
        waiting = sum(not waiter.done() for waiter in self._waiters)
        wanted = min(self._idle_wanted + waiting, self._idle_wanted + self._sessions_max)
        return min(wanted - starting - len(self._idle), STARTING_MAX - starting)

    def _back_off(self) -> float:
        bound = START_BACK_OFF_SECONDS_MIN * 2.0 ** min(self._failures - 1, 16)
        return self._jitter() * min(bound, START_BACK_OFF_SECONDS_MAX)

    async def _start(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            env={**os.environ, **self._environment},
            start_new_session=True,
        )
        job = TextJob(process)
        self._jobs[job.pid] = job
        self._spawn(self._watch(job))
        self._spawn(self._limit_start(job))

    async def _limit_start(self, job: TextJob) -> None:
        await self._clock.sleep(JOB_START_SECONDS_MAX)
        if job.state is JobState.STARTING:
            _log.error("text job did not become ready", pid=job.pid)
            await job.end(self._clock)

    async def _watch(self, job: TextJob) -> None:
        code = await job.process.wait()
        if job.state in (JobState.STARTING, JobState.IDLE) and not self._stopping:
            self._failures += 1
            _log.error("text job died before its session", pid=job.pid, exit_code=code)
        job.state = JobState.ENDED
        job.finish()
        del self._jobs[job.pid]
        if job in self._idle:
            self._idle.remove(job)
        self._wake.set()

    async def _see_off(self, job: TextJob) -> None:
        if await job.exited(self._clock) is None:
            _log.warning("text job did not end by itself", pid=job.pid)
            await job.end(self._clock)

    async def _end_all(self) -> None:
        self._stopping = self._refusing = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(_stopping())
        await asyncio.gather(*(job.end(self._clock) for job in list(self._jobs.values())))
        for task in list(self._tasks):
            task.cancel()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _stopping() -> VoxplaneError:
    return VoxplaneError(reason_pb2.ERROR_REASON_SHUTTING_DOWN, "the node is stopping")
