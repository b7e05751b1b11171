"""The node's stream of session reports to the control plane."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import structlog

from agent_node.sessions.endings import Ending, EndingKind, Pauses, ending_of
from agent_node.sessions.frames import SessionId
from agent_node.sessions.reports import SessionReports
from agent_node.sessions.spool import Spool
from voxplane.clock import Clock
from voxplane.v1 import session_service_pb2 as pb2
from voxplane.v1 import session_service_pb2_grpc as session_grpc

QUIET_SECONDS = 0.2
"""A report waits so long for others to go with it."""
REPORTS_AT_ONCE = 100
"""So many do not wait."""
ACKNOWLEDGED_SECONDS_MAX = 30.0
SAVE_SECONDS = 0.5
SAVE_RETRY_SECONDS = 5.0
CLOSE_SECONDS_MAX = 1.5
"""At the end of the node, for what is not yet acknowledged."""
RESULTS_MAX = 1_000
LOSS_LOG_SECONDS = 60.0

ReportCall = grpc.aio.StreamStreamCall[pb2.ReportSessionsRequest, pb2.ReportSessionsResponse]

_log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class UplinkFigures:
    """Counts since the node started."""

    opens: int = 0
    back_offs: int = 0
    batches: int = 0
    save_failures: int = 0


class SessionUplink:
    """Tells the control plane of the node's sessions, and takes its commands.

    `report` and `result` never wait. What was reported outlives an outage of
    the control plane and the end of the node, within the bound of the spool.
    `connected` says whether there is a stream, `pause` how long the last wait
    for one was, in seconds.
    """

    def __init__(
        self,
        node_id: str,
        stub: session_grpc.SessionServiceAsyncStub,
        spool: Spool,
        clock: Clock,
        jitter: Callable[[], float],
    ) -> None:
        self.figures = UplinkFigures()
        self.connected = False
        self.pause = 0.0
        self._node_id = node_id
        self._stub = stub
        self._spool = spool
        self._clock = clock
        self._state = SessionReports(spool.content_bytes_max)
        self._pauses = Pauses(jitter)
        self._results: deque[pb2.SessionCommandResult] = deque(maxlen=RESULTS_MAX)
        self._wake = asyncio.Event()
        self._to_save = asyncio.Event()
        self._whole = True
        self._flush_at = 0.0
        self._greeted = False
        self._closing = False
        self._losses_logged_at = -LOSS_LOG_SECONDS
        frames, written = spool.load()
        self._state.restore(frames, written or clock.time())
        if self._state.unsent:
            _log.info("session spool restored", sessions=self._state.unsent)

    @property
    def state(self) -> SessionReports:
        """What is to be told."""
        return self._state

    @property
    def unacknowledged(self) -> int:
        """Count of sessions of which the control plane does not have the
        newest yet."""
        return self._state.unacknowledged

    @property
    def spool_bytes(self) -> int:
        """What the spool takes on disk."""
        return self._spool.size

    @property
    def unsaved(self) -> bool:
        """Whether the spool is not up to date."""
        return self._to_save.is_set() or self._whole

    def report(self, report: pb2.SessionReport) -> None:
        """How a session stands, and turns that are new."""
        if not self._state.unsent:
            self._flush_at = self._clock.monotonic() + QUIET_SECONDS
        self._state.report(report)
        self._to_save.set()
        self._wake.set()

    def result(self, result: pb2.SessionCommandResult) -> None:
        """What became of a command. Without a stream nobody waits for it."""
        self._results.append(result)
        self._wake.set()

    def moved(self, tenant_id: str, session_id: str) -> None:
        """A session is another node's from now on."""
        self._state.moved(SessionId(tenant_id, session_id))
        self._to_save.set()

    @asynccontextmanager
    async def running(self, command: Callable[[pb2.SessionCommand], None]) -> AsyncGenerator[None]:
        """Report for the block, and pass on commands. At its end what is left
        has CLOSE_SECONDS_MAX to be acknowledged."""
        with ThreadPoolExecutor(1, "session-spool") as thread:
            holding = asyncio.create_task(self._hold(command), name="session reports")
            saving = asyncio.create_task(self._keep_saved(thread), name="session spool")
            try:
                yield
            finally:
                self._closing = True
                self._wake.set()
                if self.connected:
                    await asyncio.wait({holding}, timeout=CLOSE_SECONDS_MAX)
                for task in (holding, saving):
                    task.cancel()
                await asyncio.wait({holding, saving})
                await self._save(thread)
                await asyncio.get_running_loop().run_in_executor(thread, self._spool.close)

    async def _hold(self, command: Callable[[pb2.SessionCommand], None]) -> None:
        while not self._all_told():
            ending = await self._stream(command)
            self.connected = False
            if ending.kind is EndingKind.INVALID and self._greeted:
                self._state.refused()
            if self._all_told():
                return
            self.pause = self._pauses.after(ending, self._clock.monotonic())
            self.figures.back_offs += 1
            seconds = round(self.pause, 3)
            _log.warning("session reports interrupted", reason=ending.reason, retry_seconds=seconds)
            await self._clock.sleep(self.pause)

    def _all_told(self) -> bool:
        """Whether the node ends, and everything is acknowledged."""
        return self._closing and not self._state.unsent and not self._state.on_way

    async def _stream(self, command: Callable[[pb2.SessionCommand], None]) -> Ending:
        self.figures.opens += 1
        self._greeted = False
        self._results.clear()  # nobody waits for them any more
        call: ReportCall = self._stub.ReportSessions()
        reading = asyncio.create_task(self._read(call, command))
        reading.add_done_callback(lambda _: self._wake.set())
        try:
            await call.write(pb2.ReportSessionsRequest(hello=self._hello()))
            self._state.opened()
            self._greeted = True
            return await self._write(call, reading)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            if isinstance(error, asyncio.InvalidStateError):
                await asyncio.wait({reading})
                return _ending_of_reading(reading)
            return ending_of(error)
        except Exception as error:
            # a fault in reporting must not end the node, and the calls that it serves
            _log.exception("session reports broke")
            return Ending(EndingKind.FAILED, f"a fault of the node: {type(error).__name__}")
        finally:
            reading.cancel()
            call.cancel()

    async def _write(self, call: ReportCall, reading: asyncio.Task[None]) -> Ending:
        """Send what there is, until the stream is over."""
        sent_at = self._flush_at = self._clock.monotonic()
        while not reading.done():
            now = self._clock.monotonic()
            if self._results:
                await call.write(pb2.ReportSessionsRequest(result=self._results.popleft()))
            elif self._is_due(now) and (batch := self._state.next_batch()) is not None:
                sent_at = now
                self.figures.batches += 1
                await call.write(pb2.ReportSessionsRequest(batch=batch))
            elif self._all_told():
                return Ending(EndingKind.FAILED, "the node ends")
            elif self._state.on_way and now >= sent_at + ACKNOWLEDGED_SECONDS_MAX:
                said = f"nothing was acknowledged for {ACKNOWLEDGED_SECONDS_MAX:g} s"
                return Ending(EndingKind.FAILED, said)
            elif self._state.on_way:
                await self._woken(sent_at + ACKNOWLEDGED_SECONDS_MAX - now)
            else:
                await self._woken(self._flush_at - now if self._state.unsent else None)
        return _ending_of_reading(reading)

    def _is_due(self, now: float) -> bool:
        return now >= self._flush_at or self._state.unsent >= REPORTS_AT_ONCE or self._closing

    async def _woken(self, seconds: float | None) -> None:
        """Until something happens, at most for so long."""
        waits: list[asyncio.Task[object]] = [asyncio.create_task(self._wake.wait())]
        if seconds is not None:
            waits.append(asyncio.create_task(self._clock.sleep(seconds)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._wake.clear()

    def _hello(self) -> pb2.SessionReporter:
        hello = pb2.SessionReporter(node_id=self._node_id)
        for tenant_id, session_id in self._state.running():
            hello.running.add(tenant_id=tenant_id, session_id=session_id)
        return hello

    async def _read(self, call: ReportCall, command: Callable[[pb2.SessionCommand], None]) -> None:
        await call.initial_metadata()
        if not call.done():  # it returns also when there was no server
            self.connected = True
            _log.info("session reports opened")
        async for response in call:
            match response.WhichOneof("event"):
                case "stored_sequence":
                    if self._state.stored(response.stored_sequence):
                        self._pauses.start_over()
                        self._to_save.set()
                        self._wake.set()
                case "command":
                    command(response.command)
                case _:
                    pass

    async def _keep_saved(self, thread: ThreadPoolExecutor) -> None:
        while True:
            await self._to_save.wait()
            await self._clock.sleep(SAVE_SECONDS)
            self._to_save.clear()
            self._log_losses()
            if not await self._save(thread):
                self._to_save.set()
                await self._clock.sleep(SAVE_RETRY_SECONDS)

    async def _save(self, thread: ThreadPoolExecutor) -> bool:
        """Bring the spool up to date; False if that failed."""
        frames = self._state.changes()
        if not frames and not self._whole:
            return True
        whole = self._whole or not self._spool.has_room(frames)
        frames = self._state.whole() if whole else frames
        self._whole = True  # until this is written nobody knows what is
        work = self._spool.rewrite if whole else self._spool.append
        try:
            await asyncio.get_running_loop().run_in_executor(thread, work, frames)
        except OSError as error:
            self.figures.save_failures += 1
            _log.error("session spool not written", reason=str(error))
            return False
        self._whole = False
        return True

    def _log_losses(self) -> None:
        losses, now = self._state.losses, self._clock.monotonic()
        if (losses.turns or losses.records) and now - self._losses_logged_at >= LOSS_LOG_SECONDS:
            self._losses_logged_at = now
            _log.error(
                "session reports were dropped, as the spool is full",
                turns=losses.turns,
                records=losses.records,
            )


def _ending_of_reading(reading: asyncio.Task[None]) -> Ending:
    error = None if reading.cancelled() else reading.exception()
    if isinstance(error, grpc.aio.AioRpcError):
        return ending_of(error)
    if error is not None:
        _log.error("a command could not be taken", exc_info=error)
    return Ending(EndingKind.FAILED, "the control plane ended the stream")
