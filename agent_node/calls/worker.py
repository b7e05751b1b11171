"""The node's calls: taken from LiveKit, healed, and ended when the node stops.

How it stops, each step for a time at most:

1. drain: nothing new is taken, and calls end by themselves;
2. goodbye: what still runs is told to end, after a last word;
3. close: the jobs are shut down, whether their calls have ended or not;
4. kill: what is left.

In a hurry the first two are left out. LiveKit's own shutdown has been seen to
hang, so that every step has a bound of its own.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
from livekit.agents import JobRequest
from livekit.agents.utils.hw import CPUMonitor, get_cpu_monitor

from agent_node.calls.gate import Gate, Permission
from agent_node.calls.healing import Desk as HealingDesk
from agent_node.calls.healing import Healer, Lost
from agent_node.calls.load import LoadMeter, ReadCpu, measure
from agent_node.calls.rooms import Announcer, livekit_rooms
from agent_node.calls.server import SHUTDOWN_SECONDS_MAX, CallServer, JobEnd
from agent_node.calls.slots import Slots
from agent_node.job.relay_client import RELAY_SOCKET_ENV
from agent_node.job.voice_request import caller_of
from agent_node.relay import Orphan
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError

CPU_SAMPLE_SECONDS = 0.5
DRAIN_SECONDS_MAX = 3600.0
GOODBYE_SECONDS_MAX = 10.0
CLOSE_SECONDS_MAX = 10.0
KILLED_SECONDS_MAX = 2.0
HURRY_SECONDS_MAX = 3.0
"""For jobs to close in a hurry."""
AWAY_SECONDS = 30.0
"""Without LiveKit from which on the node complains."""
RESTART_SECONDS_MIN = 1.0
RESTART_SECONDS_MAX = 60.0
ATTACH_GRACE_SECONDS = 0.5
STOPPING = "the node is stopping"

_log = structlog.stdlib.get_logger(__name__)


class Desk(HealingDesk, Protocol):
    """Who has the node's sessions; relay.SessionDesk is the real one."""

    @property
    def orphans(self) -> asyncio.Queue[Orphan]:
        """Calls that have lost their process."""
        ...

    def attached(self, job_id: str) -> bool:
        """Whether a job has ever been known here, so that its death is the desk's affair."""
        ...

    def end_all(self, reason: str) -> int:
        """Tell the calls that run to end, after a last word; how many they
        are."""
        ...


@dataclass(frozen=True, slots=True)
class CallSettings:
    """How the node takes calls. Times are in seconds.

    sessions_max, tenant_max: most calls at once, and of one tenant; 0 means no limit for tenants.
    cpu_max: share of the processors from which new calls are refused; above 1 means never.
    idle: job processes that wait for a call.
    memory_limit_mb: memory (PSS) from which a job is killed; 0 means no limit.
    drain, goodbye, close: see above.
    """

    sessions_max: int = 100
    tenant_max: int = 0
    cpu_max: float = 0.7
    idle: int = 2
    memory_limit_mb: int = 0
    drain_seconds: float = DRAIN_SECONDS_MAX
    goodbye_seconds: float = GOODBYE_SECONDS_MAX
    close_seconds: float = CLOSE_SECONDS_MAX


class Stop(Protocol):
    """The wish to end: first gently, then now."""

    @property
    def asked(self) -> asyncio.Event:
        """Set when the node is to stop."""
        ...

    @property
    def hurry(self) -> asyncio.Event:
        """Set when it is not to wait for calls any more."""
        ...


class CallWorker:
    """`jitter` returns 0 to 1; `monitor` measures the processors."""

    def __init__(
        self,
        settings: CallSettings,
        *,
        node_id: str,
        relay_socket: Path,
        permission: Permission,
        desk: Desk,
        clock: Clock,
        jitter: Callable[[], float],
        monitor: CPUMonitor | None = None,
        make_server: type[CallServer] = CallServer,
    ) -> None:
        self._settings = settings
        self._node_id = node_id
        self._relay_socket = relay_socket
        self._permission = permission
        self._desk = desk
        self._clock = clock
        self._jitter = jitter
        self._monitor = monitor or get_cpu_monitor()
        self._make_server = make_server
        self._server: CallServer | None = None
        self._healer: Healer | None = None
        self._announcer: Announcer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.slots = Slots(settings.sessions_max, settings.tenant_max)
        self.meter = LoadMeter(self.slots, clock, cpu_max=settings.cpu_max, cores=self._monitor.cpu_count())
        self.gate = Gate(
            node_id=node_id,
            slots=self.slots,
            meter=self.meter,
            permission=permission,
            clock=clock,
            announce=self._announce,
            unlaunched=self._unlaunched,
            changed=self._changed,
        )
        self.ends: Counter[str] = Counter()
        self.restarts = 0

    @property
    def registered(self) -> bool:
        """Whether LiveKit has this worker and is heard."""
        return self._server is not None and self._server.registered

    @property
    def healer(self) -> Healer | None:
        """Who heals the calls; None before it runs."""
        return self._healer

    @property
    def unannounced(self) -> int:
        """Count of refusals of which nobody in the room could be told."""
        return self._announcer.dropped if self._announcer else 0

    async def run(self, stop: Stop) -> None:
        """Serve LiveKit's jobs until asked to stop, then stop as said above.

        LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET say where. A worker
        that breaks is started again, after a time. Returns when the steps of a
        stop have had their time, and a moment.
        """
        os.environ[RELAY_SOCKET_ENV] = str(self._relay_socket)  # the fork server keeps what it starts with
        async with AsyncExitStack() as held:
            rooms = await held.enter_async_context(livekit_rooms())
            self._announcer = Announcer(rooms, self._clock)
            held.callback(self._announcer.close)
            self._healer = Healer(
                node_id=self._node_id,
                rooms=rooms,
                gate=self.gate,
                desk=self._desk,
                clock=self._clock,
                kill=self._kill,
                tell=self._tell_load,
                dispatch_of=self.gate.dispatch_of,
            )
            beside = (
                self._healer.run(self._desk.orphans),
                measure(self.meter, self._read_cpu(held), self._clock),
                self._complain(),
            )
            for work in beside:
                held.callback(asyncio.create_task(work).cancel)
            await self._serve(stop)

    async def _serve(self, stop: Stop) -> None:
        failures = 0
        asked = asyncio.create_task(stop.asked.wait())
        try:
            while True:
                began = self._clock.monotonic()
                if not await self._run_server(asked, stop):
                    return
                self.restarts += 1
                failures = 1 if self._clock.monotonic() - began > RESTART_SECONDS_MAX else failures + 1
                pause = asyncio.create_task(self._clock.sleep(self._pause(failures)))
                await asyncio.wait({pause, asked}, return_when=asyncio.FIRST_COMPLETED)
                pause.cancel()
                if asked.done():
                    return
        finally:
            asked.cancel()

    async def _run_server(self, asked: asyncio.Task[bool], stop: Stop) -> bool:
        """Run one worker; whether another is wanted after it."""
        server = self._server = self._make_server(
            gate=self.gate,
            meter=self.meter,
            idle=self._settings.idle,
            memory_limit_mb=self._settings.memory_limit_mb,
            ended=self._job_ended,
            shutdown_seconds=min(SHUTDOWN_SECONDS_MAX, self._settings.close_seconds),
        )
        running = asyncio.create_task(server.run(), name="livekit worker")
        try:
            await asyncio.wait((running, asked), return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                if not running.done():
                    await self._let_finish(server, stop)
                return False
            error = None if running.cancelled() else running.exception()
            _log.error(
                "the LiveKit worker ended; calls are not taken until it runs again",
                error=f"{type(error).__name__}: {error}",
            )
            return True
        finally:
            await self._close(server, running, stop)
            for slot in self.slots:
                self.gate.ended(slot.job_id)

    async def _let_finish(self, server: CallServer, stop: Stop) -> None:
        """Drain and goodbye, until there is no call or no time."""
        self.gate.drain()
        await self._within(self._settings.drain_seconds, _drained(server), stop)
        calls = len(self.slots)
        if calls and not stop.hurry.is_set():
            told = self._desk.end_all(STOPPING)
            _log.warning("the drain is over; calls are told to end", calls=calls, told=told)
            await self._within(self._settings.goodbye_seconds, _drained(server), stop)

    async def _within(self, seconds: float, work: Coroutine[None, None, None], stop: Stop) -> None:
        """Wait for work, but not too long and not in a hurry."""
        tasks = (
            asyncio.create_task(work),
            asyncio.create_task(_when(stop.hurry)),
            asyncio.create_task(self._clock.sleep(seconds)),
        )
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _close(self, server: CallServer, running: asyncio.Task[None], stop: Stop) -> None:
        """Close the worker, by force if it takes too long: it has been seen to hang."""
        closing = asyncio.create_task(server.aclose(), name="livekit worker close")
        works = {closing, running}
        try:
            await self._within(self._settings.close_seconds, _all(works), stop)
            if not _done(works) and stop.hurry.is_set():
                await asyncio.wait(works, timeout=HURRY_SECONDS_MAX)
        finally:
            if not _done(works):
                _log.error("the LiveKit worker did not close; its jobs are killed", jobs=len(self.slots))
                server.kill_all()
                # without its jobs the worker closes by itself, if anything of it still works
                await asyncio.wait(works, timeout=KILLED_SECONDS_MAX)
            for task in works:
                task.cancel()

    def _job_ended(self, end: JobEnd) -> None:
        held = self.gate.ended(end.job_id) is not None
        self.ends["ok" if end.exit_code == 0 else "died"] += 1
        if end.exit_code == 0 or self.gate.draining:
            return
        with suppress(VoxplaneError):
            lost = Lost(caller_of(end.metadata, end.job_id), end.room, end.job_id)
            _log.error(
                "the process of a call died",
                exit_code=end.exit_code,
                job_id=end.job_id,
                tenant_id=lost.caller.tenant_id,
                agent=lost.caller.agent_id,
                session_id=lost.caller.session_id,
            )
            # without a slot the healer was here first, and keeps the place itself
            self._spawn(self._look_after(lost, self.gate.keep(lost.caller) if held else None))

    def _unlaunched(self, request: JobRequest) -> None:
        job = request.job
        with suppress(VoxplaneError):
            lost = Lost(caller_of(job.metadata, job.id), job.room.name, job.id)
            self._spawn(self._look_after(lost, self.gate.keep(lost.caller)))

    async def _look_after(self, lost: Lost, kept: asyncio.Future[str] | None) -> None:
        """Heal what the desk has never known, in the place that is kept for it;
        the rest is the desk's affair."""
        await self._clock.sleep(ATTACH_GRACE_SECONDS)
        came = kept is not None and kept.done()
        if self._healer is not None and not came and not self._desk.attached(lost.job_id):
            self._healer.unbegun(lost)
        if kept is not None:
            self.gate.give_up(lost.caller, kept)

    def _announce(self, tenant_id: str, room: str, data: bytes, *, final: bool) -> None:
        if self._announcer is not None:
            self._announcer.announce(tenant_id, room, data, final=final)

    def _kill(self, job_id: str) -> None:
        if self._server is not None:
            self._server.kill(job_id)

    def _changed(self) -> None:
        """Calls came or went: LiveKit hears at once of a node that is full, or not any more."""
        server = self._server
        if server is not None and server.registered and server.tells_otherwise(self.meter.told()):
            self._spawn(server.tell_load())

    async def _tell_load(self) -> None:
        if self._server is not None:
            await self._server.tell_load()

    async def _complain(self) -> None:
        """Say that LiveKit is away, once each time."""
        heard, said = self._clock.monotonic(), False
        while True:
            await self._clock.sleep(1.0)
            now = self._clock.monotonic()
            if self.registered:
                if said:
                    _log.warning("LiveKit is back", away_seconds=round(now - heard, 1))
                heard, said = now, False
            elif not said and now - heard >= AWAY_SECONDS and not self.gate.draining:
                said = True
                _log.error("LiveKit cannot be reached; calls are not taken, text sessions go on")

    def _pause(self, failures: int) -> float:
        bound = min(RESTART_SECONDS_MIN * 2.0 ** min(failures - 1, 16), RESTART_SECONDS_MAX)
        return RESTART_SECONDS_MIN + self._jitter() * (bound - RESTART_SECONDS_MIN)

    def _read_cpu(self, held: AsyncExitStack) -> ReadCpu:
        """By a thread of its own: a measurement lasts, and those of the loop may all be taken."""
        pool = ThreadPoolExecutor(1, "cpu")
        held.callback(pool.shutdown, wait=False)
        loop = asyncio.get_running_loop()

        async def read() -> float:
            return await loop.run_in_executor(pool, self._monitor.cpu_percent, CPU_SAMPLE_SECONDS)

        return read

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _drained(server: CallServer) -> None:
    """Take nothing new, and wait for the jobs that run."""
    await server.drain(timeout=None)
    while jobs := [each for each in (server.pool.processes if server.pool else ()) if each.running_job]:
        await jobs[0].join()


async def _when(event: asyncio.Event) -> None:
    await event.wait()


async def _all(works: set[asyncio.Task[None]]) -> None:
    # asyncio.wait, not gather: it leaves the works alone when it is cancelled
    await asyncio.wait(works)


def _done(works: set[asyncio.Task[None]]) -> bool:
    return all(work.done() for work in works)
