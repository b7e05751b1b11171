"""`voxplane node`: every part of the node, put together here."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import grpc
import structlog
import typer
from pydantic import ValidationError

from agent_node.logs import configure_logs
from agent_node.relay import (
    Admission,
    Board,
    Check,
    NodeStatus,
    RelayService,
    SessionDesk,
    SocketTaken,
    Stager,
    TextPool,
    bind,
    claim,
)
from agent_node.sessions import SessionUplink, Spool
from agent_node.settings import NodeSettings, load_settings
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
from voxplane.names import ALL_TENANTS
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc
from voxplane.v1 import session_service_pb2_grpc as session_grpc

if TYPE_CHECKING:  # the metrics are an extra of the node
    from prometheus_client.registry import Collector

RELAY_SOCKET_ENV = "VOXPLANE_RELAY_SOCKET"
NODE_ID_ENV = "VOXPLANE_NODE_ID"
LOG_FORMAT_ENV = "VOXPLANE_LOG_FORMAT"
LIVEKIT_ENV = ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")
RELAY_GRACE_SECONDS = 0.5
RELAY_MESSAGE_BYTES_MAX = 64 * 1024 * 1024
VOICE_CLOSE_SECONDS_MAX = 8.0
STOP_SECONDS_MAX = 15.0
"""From the end of the drain to the end of the process, at the longest."""

Voice = Callable[[Path, asyncio.Event], Coroutine[None, None, None]]
"""Serves voice calls, given the relay's socket, until the event is set."""

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
    are served with the node's own."""

    def __init__(self, settings: NodeSettings, check: Check) -> None:
        self.collectors: list[Collector] = []
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
            clock=clock,
        )
        self._relay = grpc.aio.server(options=[("grpc.max_receive_message_length", RELAY_MESSAGE_BYTES_MAX)])
        relay_grpc.add_RelayServiceServicer_to_server(
            RelayService(
                self._board, self._pool, clock, admission=self._admission, desk=self.desk, status=status.now
            ),
            self._relay,
        )
        for cached in restored:
            self._board.restore(cached.snapshot, cached.held)
        self._restored = len(restored)

    def drain(self) -> None:
        """Take no new text sessions, and replace no process that dies."""
        self._pool.refuse()
        self.desk.drain()

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
                port = await held.enter_async_context(serving(metrics, *address))
            except OSError as error:
                said = f"metrics_listen: {self._settings.metrics_listen}: {error.strerror or error}"
                raise ConfigurationError(said) from error
            _log.info("metrics served", host=address[0], port=port)
            yield


def _open_cache(folder: Path) -> DiskCache:
    try:
        return DiskCache(folder)
    except OSError as error:
        raise ConfigurationError(f"data_dir: the cache cannot be made: {error}") from error


def _connect(settings: NodeSettings, address: str) -> grpc.aio.Channel:
    try:
        return connect(address, tls=settings.tls)
    except OSError as error:
        raise ConfigurationError(f"tls: a file cannot be read: {error}") from error


def _text_pool(settings: NodeSettings, clock: Clock, jitter: Callable[[], float]) -> TextPool:
    return TextPool(
        (sys.executable, "-m", settings.text_job_module),
        {
            RELAY_SOCKET_ENV: str(settings.socket),
            NODE_ID_ENV: settings.node_id,
            LOG_FORMAT_ENV: settings.log_format,
            **secrets_environment(settings),
        },
        idle=settings.idle_jobs if settings.max_text_sessions else 0,
        sessions_max=settings.max_text_sessions,
        clock=clock,
        jitter=jitter,
    )


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
    with claim(settings.socket):
        node = Node(settings, check)
        async with node.running():
            worker = asyncio.create_task(voice(settings.socket, stop.asked)) if voice else None
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
    worker.cancel()
    await asyncio.wait({worker}, timeout=VOICE_CLOSE_SECONDS_MAX)


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
    from agent_node.job.voice import WorkerSettings, run_worker  # heavy, and only for voice

    async def voice(socket: Path, stop: asyncio.Event) -> None:
        worker = WorkerSettings(settings.drain_seconds, VOICE_CLOSE_SECONDS_MAX)
        await run_worker(relay_socket=socket, stop=stop, settings=worker)

    return voice


def _check() -> Check:
    from agent_node.job import staging  # heavy; plugins register on the main thread

    return lambda config: staging.check(config, None)


async def _main(settings: NodeSettings) -> None:
    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.ask)
    os.environ.update(secrets_environment(settings))  # for checks here, and for voice jobs
    await run_node(settings, _check(), _voice(settings), stop, _exit_at_the_latest)


def _exit_at_the_latest() -> None:
    """Whatever a library holds must not keep the process."""
    timer = threading.Timer(STOP_SECONDS_MAX, os._exit, (1,))
    timer.daemon = True
    timer.start()


def command(
    server: Annotated[str | None, typer.Option(help="Address of the control plane.")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="PEM file of the control plane's authority; turns TLS on.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file with the node's certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file with its private key.")] = None,
    node_id: Annotated[str | None, typer.Option(help="Unique name; the host's name if not given.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of cache and socket.")] = None,
    node_socket: Annotated[Path | None, typer.Option(help="The relay's socket, elsewhere.")] = None,
    only_tenant: Annotated[str | None, typer.Option(help="Serve this tenant alone.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="A label, as key=value; repeatable.")] = None,
    max_text_sessions: Annotated[int | None, typer.Option(help="Most text sessions at once.")] = None,
    idle_jobs: Annotated[int | None, typer.Option(help="Warm text processes.")] = None,
    drain_seconds: Annotated[float | None, typer.Option(help="Longest wait for calls to end.")] = None,
    log_format: Annotated[str | None, typer.Option(help="json or console.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    session_spool_mb: Annotated[
        int | None,
        typer.Option(help="Most disk for reports that the control plane does not have yet, in MiB."),
    ] = None,
    metrics_listen: Annotated[str | None, typer.Option(help="HOST:PORT of Prometheus metrics.")] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Let others reach the metrics, without authentication.")
    ] = None,
    secret_env_names: Annotated[
        str | None, typer.Option(help="Variables that configs may refer to, as A,B.")
    ] = None,
    secret_env_suffixes: Annotated[
        str | None, typer.Option(help="Ends of the names of others that they may, as _API_KEY,_TOKEN.")
    ] = None,
    secret_dirs: Annotated[
        str | None, typer.Option(help="Folders of files that configs may refer to, as /a,/b.")
    ] = None,
    tool_private_hosts: Annotated[
        str | None, typer.Option(help="Private hosts that tools may call, as HOST,HOST:PORT.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings, such as data_dir.")] = None,
) -> None:
    """Run an agent node.

    Flags win over VOXPLANE_* in the environment, these over the file. Voice
    calls are served when LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET
    are set.
    """
    flags: dict[str, object] = {
        "server": server,
        "tls_ca": tls_ca,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "node_id": node_id,
        "data_dir": data_dir,
        "node_socket": node_socket,
        "only_tenant": only_tenant,
        "labels": label or None,
        "max_text_sessions": max_text_sessions,
        "idle_jobs": idle_jobs,
        "drain_seconds": drain_seconds,
        "log_format": log_format,
        "log_level": log_level,
        "session_spool_mb": session_spool_mb,
        "metrics_listen": metrics_listen,
        "insecure": insecure,
        "secret_env_names": secret_env_names,
        "secret_env_suffixes": secret_env_suffixes,
        "secret_dirs": secret_dirs,
        "tool_private_hosts": tool_private_hosts,
    }
    try:
        settings = load_settings(flags, config)
        livekit_wanted(os.environ)
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        _fail("; ".join(lines))
    except (ConfigurationError, OSError, ValueError) as error:
        _fail(str(error))
    configure_logs(settings.log_format, settings.node_id, settings.log_level)
    try:
        asyncio.run(_main(settings))
    except (SocketTaken, ConfigurationError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except ExceptionGroup:
        _log.exception("node failed")
        raise typer.Exit(1) from None


def _fail(message: str) -> NoReturn:
    typer.echo(f"voxplane node: {message}", err=True)
    raise typer.Exit(2)
