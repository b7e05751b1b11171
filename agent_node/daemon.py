"""The node: every part of it, put together here."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import structlog

from agent_node.processes import kill_descendants
from agent_node.relay import (
    Admission,
    Board,
    Check,
    NodeStatus,
    RelayService,
    SessionDesk,
    Stager,
    TextPool,
    bind,
    claim,
)
from agent_node.sessions import SessionUplink, Spool
from agent_node.settings import NodeSettings
from agent_node.upstream import (
    CacheWriter,
    DiskCache,
    EdgeWay,
    Reporter,
    Routes,
    Upstream,
    WatchProtocol,
    WordKeeper,
    boot_id,
    connect,
)
from voxplane.clock import Clock, SystemClock
from voxplane.names import ALL_TENANTS, TenantId, agent_name
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc
from voxplane.node.v1.relay_service_pb2 import CallerContext
from voxplane.tls import TlsError
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc
from voxplane.v1 import session_service_pb2_grpc as session_grpc

if TYPE_CHECKING:  # the metrics are an extra of the node
    from prometheus_client.registry import Collector

RELAY_SOCKET_ENV = "VOXPLANE_RELAY_SOCKET"
NODE_ID_ENV = "VOXPLANE_NODE_ID"
LOG_FORMAT_ENV = "VOXPLANE_LOG_FORMAT"
LOG_LEVEL_ENV = "VOXPLANE_LOG_LEVEL"
LIVEKIT_ENV = ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")
RELAY_GRACE_SECONDS = 0.5
RELAY_MESSAGE_BYTES_MAX = 64 * 1024 * 1024
VOICE_HURRY_SECONDS_MAX = 8.0
"""For the voice worker to end in a hurry, before it is cancelled."""
VOICE_CANCEL_SECONDS_MAX = 3.0
CALLS_STOP_SECONDS_MAX = 45.0
"""From the end of the drain to the end of the process, if all of it hangs."""
STOP_SECONDS_MAX = 15.0
"""From the end of the calls to the end of the process, at the longest."""

Voice = Callable[["Node", "Stop"], Coroutine[None, None, None]]
"""Serves the node's voice calls until asked to stop, and then lets them end
within a time that it bounds itself, and soon in a hurry."""

_log = structlog.stdlib.get_logger(__name__)


class ConfigurationError(Exception):
    """The node cannot start as it was told to; the message says why."""


class Stop:
    """The wish to end: first gently, then now."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurry = asyncio.Event()

    def ask(self) -> None:
        """Stop; asked twice, without waiting for calls to end."""
        (self.hurry if self.asked.is_set() else self.asked).set()


class Node:
    """The parts of a node, wired. `collectors` may be added to; their metrics
    are served with the node's own. So may `unready`: each says why the node is
    not to be given calls, or nothing."""

    def __init__(self, settings: NodeSettings, check: Check) -> None:
        self.collectors: list[Collector] = []
        self.unready: list[Callable[[], str]] = [self._why_unready]
        self.let_in: Callable[[relay_pb2.JobHello], bool] = lambda hello: False
        self._draining = False
        clock, jitter = SystemClock(), random.random
        self._settings = settings
        self._clock = clock
        cache = _open_cache(settings.cache_folder)
        self._words = WordKeeper(cache, clock, boot_id())
        self._channel = _connect(settings, settings.server)
        self._edge = EdgeWay(
            Routes(settings.server, tls=settings.tls is not None, jitter=jitter),
            lambda edge: connect(edge.address, tls=settings.tls),
            clock,
        )
        stub = sync_grpc.ConfigSyncServiceStub(self._channel)
        restored = [
            cached
            for cached in cache.load()
            if settings.only_tenant in (ALL_TENANTS, cached.snapshot.tenant_id)
        ]
        self._reporter = Reporter(stub, clock, jitter)
        self._stager = Stager(check, clock)
        self._board = Board(self._stager, clock, report=self._reporter.status, forget=self._reporter.removed)
        self._writer = CacheWriter(
            cache,
            clock,
            held=self._board.held,
            written=[
                lambda snapshot, serial: self._reporter.persisted(snapshot.tenant_id, serial),
                lambda snapshot, serial: self._board.persisted(snapshot),
            ],
            removed=[self._reporter.persisted],
        )
        protocol = WatchProtocol(
            node=sync_pb2.NodeInfo(
                node_id=settings.node_id, version=version("voxplane"), labels=settings.labels
            ),
            jitter=jitter,
            now=clock.monotonic(),
            tenant_id=settings.only_tenant,
            snapshots=[cached.snapshot for cached in restored],
            words=self._words.load(),
        )
        self._upstream = Upstream(
            stub,
            protocol,
            listener=self._board,
            reporter=self._reporter,
            writer=self._writer,
            clock=clock,
            edge=self._edge,
        )
        self._pool = _text_pool(settings, clock, jitter)
        self._uplink = SessionUplink(
            settings.node_id,
            session_grpc.SessionServiceStub(self._channel),
            Spool(settings.session_folder, settings.session_spool_mb * 1_048_576),
            clock,
            jitter,
        )
        self.desk = SessionDesk(settings.node_id, clock, self._uplink)
        self._admission = Admission(self._board, protocol.freshness, clock)
        status = NodeStatus(
            node_id=settings.node_id,
            version=version("voxplane"),
            server=settings.server,
            upstream=self._upstream,
            board=self._board,
            desk=self.desk,
            reports=self._uplink,
            clock=clock,
        )
        self._relay = grpc.aio.server(options=[("grpc.max_receive_message_length", RELAY_MESSAGE_BYTES_MAX)])
        relay_grpc.add_RelayServiceServicer_to_server(
            RelayService(
                self._board,
                self._pool,
                clock,
                admission=self._admission,
                desk=self.desk,
                status=status.now,
                let_in=lambda hello: self.let_in(hello),
            ),
            self._relay,
        )
        for cached in restored:
            self._board.restore(cached.snapshot, cached.held)
        self._restored = len(restored)

    def drain(self) -> None:
        """Take no new text sessions, and replace no process that dies."""
        self._draining = True
        self._pool.refuse()
        self.desk.drain()

    async def ask(self, caller: CallerContext) -> None:
        """Whether a call may begin; see calls.Permission."""
        self.desk.check_open(caller)
        await self._board.ready(agent_name(caller.tenant_id, caller.agent_id))
        if not self.desk.is_interrupted(caller):  # else it was let in long ago
            self._admission.check(caller)

    def knows_all(self, tenant_id: TenantId) -> bool:
        """Whether an agent that the node does not know does not exist."""
        ours = self._settings.only_tenant in (ALL_TENANTS, tenant_id)
        return ours and self._upstream.protocol.freshness.is_level(tenant_id)

    def _why_unready(self) -> str:
        if self._draining:
            return "the node is stopping"
        protocol = self._upstream.protocol
        if not protocol.snapshots and not protocol.freshness.in_step:
            return "the node has had no config yet"
        return ""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Serve for the block."""
        bind(self._relay, self._settings.socket)
        await self._relay.start()
        work = (
            self._writer.run,
            self._keep_words,
            self._reporter.run,
            self._upstream.run,
            self._pool.run,
            self.desk.run,
        )
        async with AsyncExitStack() as held:
            held.push_async_callback(self._channel.close)
            held.push_async_callback(self._edge.close)
            held.callback(self._stager.close)
            await held.enter_async_context(self._uplink.running(self.desk.command))
            held.push_async_callback(self._relay.stop, RELAY_GRACE_SECONDS)
            await held.enter_async_context(self._metrics())
            group = await held.enter_async_context(asyncio.TaskGroup())
            tasks = [group.create_task(run()) for run in work]
            _log.info("node ready", socket=str(self._settings.socket), cached_tenants=self._restored)
            try:
                yield
            finally:
                self.desk.stop()
                for task in tasks:
                    task.cancel()

    async def _keep_words(self) -> None:
        await self._words.run(self._upstream.protocol.freshness)

    @asynccontextmanager
    async def _metrics(self) -> AsyncGenerator[None]:
        """Serve the metrics for the block, if they are wanted. Raises
        ConfigurationError."""
        address = self._settings.metrics_address
        if address is None:
            yield
            return
        from agent_node.metrics import NodeMetrics, serving  # only where metrics are wanted

        metrics = NodeMetrics(
            upstream=self._upstream,
            board=self._board,
            stager=self._stager,
            writer=self._writer,
            admission=self._admission,
            desk=self.desk,
            uplink=self._uplink,
            clock=self._clock,
            more=self.collectors,
        )
        async with AsyncExitStack() as held:
            try:
                unready = lambda: "; ".join(filter(None, (why() for why in self.unready)))  # noqa: E731
                port = await held.enter_async_context(serving(metrics, *address, unready))
            except OSError as error:
                said = f"metrics_listen: {self._settings.metrics_listen}: {error.strerror or error}"
                raise ConfigurationError(said) from error
            _log.info("metrics served", host=address[0], port=port)
            yield


@contextmanager
def _own(folder: Path) -> Generator[None]:
    """Own the node's folder for the block: another node would take the sessions
    that run on this one for its own, and end them. Raises ConfigurationError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigurationError(f"data_dir: {folder} cannot be used: {error}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(f"data_dir: another node uses {folder}; each needs its own") from error
        except OSError as error:  # a file system that has no locks
            _log.warning("data_dir cannot be locked", folder=str(folder), reason=str(error))
        yield
    finally:
        os.close(lock)


def _open_cache(folder: Path) -> DiskCache:
    try:
        return DiskCache(folder)
    except OSError as error:
        raise ConfigurationError(f"data_dir: the cache cannot be made: {error}") from error


def _connect(settings: NodeSettings, address: str) -> grpc.aio.Channel:
    try:
        return connect(address, tls=settings.tls)
    except TlsError as error:
        raise ConfigurationError(f"tls: {error}") from error


def _text_pool(settings: NodeSettings, clock: Clock, jitter: Callable[[], float]) -> TextPool:
    return TextPool(
        (sys.executable, "-m", settings.text_job_module),
        {RELAY_SOCKET_ENV: str(settings.socket), **jobs_environment(settings)},
        idle=settings.idle_jobs if settings.max_text_sessions else 0,
        sessions_max=settings.max_text_sessions,
        clock=clock,
        jitter=jitter,
    )


def jobs_environment(settings: NodeSettings) -> dict[str, str]:
    """What all jobs are told of the node's settings."""
    return {
        NODE_ID_ENV: settings.node_id,
        LOG_FORMAT_ENV: settings.log_format,
        LOG_LEVEL_ENV: settings.log_level,
        **secrets_environment(settings),
    }


def secrets_environment(settings: NodeSettings) -> dict[str, str]:
    """How jobs are told which secrets the node hands out, and which private
    hosts tools may call."""
    return {
        "VOXPLANE_SECRET_ENV_NAMES": ",".join(settings.secret_env_names),
        "VOXPLANE_SECRET_ENV_SUFFIXES": ",".join(settings.secret_env_suffixes),
        "VOXPLANE_SECRET_DIRS": ",".join(map(str, settings.secret_dirs)),
        "VOXPLANE_TOOL_PRIVATE_HOSTS": ",".join(settings.tool_private_hosts),
    }


async def run_node(
    settings: NodeSettings,
    check: Check,
    voice: Voice | None,
    stop: Stop,
    stopping: Callable[[], None] = lambda: None,
) -> None:
    """Run a node until it is asked to stop, or its voice worker ends. Raises
    SocketTaken and ConfigurationError. `stopping` is called when calls have
    drained."""
    with claim(settings.socket), _own(settings.folder):
        node = Node(settings, check)
        async with node.running():
            worker = asyncio.create_task(voice(node, stop)) if voice else None
            try:
                await _first_of(worker, stop.asked)
                node.drain()
                if worker is not None:
                    await _first_of(worker, stop.hurry)
            finally:
                _log.info("node stopping")
                stopping()
                if worker is not None:
                    await _end(worker)


async def _first_of(worker: asyncio.Task[None] | None, event: asyncio.Event) -> None:
    """Until the event is set or the worker is done, and raise what it raised."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({waiting, worker} if worker else {waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if worker is not None and worker.done():
        worker.result()


async def _end(worker: asyncio.Task[None]) -> None:
    """In a hurry, then by force."""
    await asyncio.wait({worker}, timeout=VOICE_HURRY_SECONDS_MAX)
    worker.cancel()
    await asyncio.wait({worker}, timeout=VOICE_CANCEL_SECONDS_MAX)


def livekit_wanted(environment: Mapping[str, str]) -> bool:
    """Whether LiveKit is configured. Raises ConfigurationError if it is half."""
    missing = [name for name in LIVEKIT_ENV if not environment.get(name)]
    if missing and len(missing) < len(LIVEKIT_ENV):
        raise ConfigurationError(
            f"LiveKit needs all of {', '.join(LIVEKIT_ENV)}; missing: {', '.join(missing)}"
        )
    return not missing


def _voice(settings: NodeSettings) -> Voice | None:
    if not livekit_wanted(os.environ):
        return None
    from agent_node.calls import CallFigures, CallSettings, CallWorker  # heavy, and only for voice

    async def voice(node: Node, stop: Stop) -> None:
        worker = CallWorker(
            CallSettings(
                sessions_max=settings.max_sessions,
                tenant_max=settings.max_sessions_per_tenant,
                cpu_max=settings.max_cpu_load,
                idle=settings.idle_calls,
                memory_limit_mb=settings.job_memory_limit_mb,
                drain_seconds=settings.drain_seconds,
            ),
            node_id=settings.node_id,
            relay_socket=settings.socket,
            permission=node,
            desk=node.desk,
            clock=SystemClock(),
            jitter=random.random,
        )
        node.collectors.append(CallFigures(worker))
        node.let_in = lambda hello: hello.job_id in worker.slots
        node.unready.append(lambda: "" if worker.registered else "LiveKit does not offer calls to the node")
        await worker.run(stop)

    return voice


def _check() -> Check:
    from agent_node.job import staging  # heavy; plugins register on the main thread

    return lambda config: staging.check(config, None)


async def serve(settings: NodeSettings) -> None:
    """Run a node until SIGTERM or SIGINT; a second one hurries it. Raises
    SocketTaken and ConfigurationError."""
    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.ask)
    os.environ.update(jobs_environment(settings))  # for checks here, and for voice jobs
    stopped = asyncio.create_task(_bound_stop(stop, settings.drain_seconds + CALLS_STOP_SECONDS_MAX))
    try:
        await run_node(
            settings, _check(), _voice(settings), stop, lambda: _exit_at_the_latest(STOP_SECONDS_MAX)
        )
    finally:
        stopped.cancel()
        # LiveKit's fork server, the jobs that it has lost sight of, and what they have started
        if killed := await asyncio.to_thread(kill_descendants):
            _log.info("processes killed", count=killed)


async def _bound_stop(stop: Stop, seconds: float) -> None:
    await stop.asked.wait()
    _exit_at_the_latest(seconds)


def _exit_at_the_latest(seconds: float) -> None:
    """Whatever a library holds must not keep the process, nor leave others behind."""
    timer = threading.Timer(seconds, _exit)
    timer.daemon = True
    timer.start()


def _exit() -> None:
    kill_descendants()
    os._exit(1)
