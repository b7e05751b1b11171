"""One text job process as the node sees it."""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum

from agent_node.relay.pipe import Pipe
from voxplane.clock import Clock
from voxplane.node.v1 import relay_service_pb2 as relay_pb2

INPUTS_MAX = 16
OUTPUTS_MAX = 256
JOB_EXIT_SECONDS_MAX = 5.0
JOB_KILL_SECONDS = 2.0


class JobState(Enum):
    """Where a text job is: it serves one session and then ends."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    ENDED = "ended"


class TextJob:
    """A process, and the two bounded pipes between it and a chat."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.state = JobState.STARTING
        self.inputs: Pipe[relay_pb2.ChatInput] = Pipe(INPUTS_MAX)
        self.outputs: Pipe[relay_pb2.ChatResponse] = Pipe(OUTPUTS_MAX)
        self._caller: asyncio.Future[relay_pb2.CallerContext | None]
        self._caller = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def open(self, caller: relay_pb2.CallerContext) -> None:
        """Give the idle job its session."""
        if not self._caller.done():
            self._caller.set_result(caller)

    async def caller(self) -> relay_pb2.CallerContext | None:
        """The session, when it comes; None if there will be none."""
        return await asyncio.shield(self._caller)

    def finish(self) -> None:
        """The session is over, from whichever side."""
        self.inputs.close()
        self.outputs.close()
        if not self._caller.done():
            self._caller.set_result(None)

    async def exited(self, clock: Clock) -> int | None:
        """The exit code, or None if the process does not end by itself within
        JOB_EXIT_SECONDS_MAX."""
        waiting = asyncio.create_task(self.process.wait())
        limit = asyncio.create_task(clock.sleep(JOB_EXIT_SECONDS_MAX))
        try:
            await asyncio.wait({waiting, limit}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            limit.cancel()
        return self.process.returncode

    async def end(self, clock: Clock) -> None:
        """End the process: SIGTERM, and SIGKILL after JOB_KILL_SECONDS."""
        self.finish()
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            killing = asyncio.create_task(self._kill_later(clock))
            try:
                await self.process.wait()
            finally:
                killing.cancel()

    async def _kill_later(self, clock: Clock) -> None:
        await clock.sleep(JOB_KILL_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
