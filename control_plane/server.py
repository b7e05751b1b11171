"""The control plane put together, and the command that runs it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvloop
from pydantic import ValidationError

from control_plane.edge import interceptors, layers
from control_plane.edge.health import Health, add_reflection
from control_plane.edge.listen import ListenError, listen, make_server
from control_plane.edge.logs import configure
from control_plane.edge.tls import Certificate
from control_plane.fast_edge import FastEdge, Limits
from control_plane.fleet import Fleet
from control_plane.services.agents import AgentService
from control_plane.services.config_sync import SERVICE, ConfigSyncService, add_to_server, methods
from control_plane.services.nodes import NodeService
from control_plane.services.sessions import SessionService
from control_plane.sessions import Sessions
from control_plane.settings import UNIX, Settings, load_settings
from control_plane.state import Tenants
from control_plane.store import Store, StoreError
from control_plane.store.memory import MemoryStore
from control_plane.store.sqlite import SqliteStore
from control_plane.watch import Hub
from control_plane.watch.encoder import encode_offer
from voxplane.clock import Clock, SystemClock
from voxplane.tls import TlsError
from voxplane.v1 import (
    agent_service_pb2,
    config_sync_service_pb2,
    node_service_pb2,
    session_service_pb2,
)
from voxplane.v1.agent_service_pb2_grpc import add_AgentServiceServicer_to_server
from voxplane.v1.node_service_pb2_grpc import add_NodeServiceServicer_to_server
from voxplane.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server

DATABASE = Path("control_plane") / "voxplane.db"
GC_YOUNG_OBJECTS = 20_000
GC_YOUNG_OBJECTS_MAX = 100_000
GC_SECONDS = 5.0
GC_YOUNG, GC_OLDER = 20, 100
"""Young collections before an older one, and those before a full one."""
_SERVICES = (
    agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name,
    config_sync_service_pb2.DESCRIPTOR.services_by_name["ConfigSyncService"].full_name,
    node_service_pb2.DESCRIPTOR.services_by_name["NodeService"].full_name,
    session_service_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name,
)
_log = structlog.get_logger(__name__)


class ControlPlane:
    """One replica: `start`, then `stop`, once each."""

    def __init__(self, settings: Settings, store: Store, clock: Clock) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self.tenants = Tenants(store, clock, settings.history_entries_max)
        self.fleet = Fleet(clock)
        self.hub = Hub(self.tenants, self.fleet, clock, settings.watch)
        self.sessions = Sessions(store.sessions, clock, settings.sessions)
        tracing = settings.tracing or bool(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))
        self._server = make_server(interceptors(tracing=tracing))
        add_AgentServiceServicer_to_server(AgentService(self.tenants), self._server)
        add_to_server(ConfigSyncService(self.hub, self._greeting), self._server)
        add_NodeServiceServicer_to_server(NodeService(self.fleet, self.tenants, clock), self._server)
        add_SessionServiceServicer_to_server(SessionService(self.sessions, self.tenants), self._server)
        self._certificate: Certificate | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._edge: FastEdge | None = None
        self._offer = b""
        self._health = Health(self._server, _SERVICES)
        add_reflection(self._server, _SERVICES)

    @property
    def edge_address(self) -> str:
        """Where the fast edge listens; empty if it does not."""
        return self._edge.address if self._edge is not None else ""

    async def start(self) -> str:
        """Serve, and return gRPC's address. Raises ListenError, TlsError."""
        await self._health.not_ready()
        credentials = None
        if self._settings.tls is not None:
            self._certificate = Certificate(self._settings.tls)
            credentials = self._certificate.credentials()
            self._renewing = asyncio.create_task(self._certificate.renew(self._clock))
        address = listen(self._server, self._settings.grpc_listen, credentials)
        await self.start_edge()
        await self._server.start()
        self.sessions.start()
        await self._health.ready()
        return address

    async def start_edge(self) -> None:
        """Serve the fast edge, and offer it to nodes. Raises ListenError."""
        settings = self._settings
        if not settings.edge:
            return
        edge = FastEdge(
            SERVICE,
            methods(ConfigSyncService(self.hub)),
            layers(),
            self._clock,
            limits=Limits(connections_max=settings.edge_connections_max),
            tls=self._certificate.context if self._certificate else None,
        )
        try:
            await edge.start(settings.edge)
        except ListenError as error:
            if settings.edge_listen:
                raise
            _log.warning("no fast edge", reason=str(error))
            return
        self._edge = edge
        reached = settings.edge_advertise or edge.address
        if not settings.edge_advertise and not reached.startswith(UNIX):
            # Nodes know by which name they reach this machine; it does not.
            reached = f":{reached.rpartition(':')[2]}"
        self._offer = encode_offer(reached, tls=settings.tls is not None)

    async def stop_edge(self) -> None:
        """Serve no edge any more; its streams end after `drain_seconds`, and
        their nodes come to gRPC."""
        edge, self._edge, self._offer = self._edge, None, b""
        if edge is not None:
            await edge.stop(self._settings.drain_seconds)

    def _greeting(self) -> bytes:
        return self._offer

    def counts(self) -> dict[str, int]:
        """What the process holds, for an operator who looks for a leak."""
        return {
            "streams": self.hub.streams,
            "edge_connections": self._edge.connections if self._edge else 0,
            "edge_refused": self._edge.refused if self._edge else 0,
            "certificates_taken": self._certificate.taken if self._certificate else 0,
            "certificates_refused": self._certificate.refused if self._certificate else 0,
            "stalled_streams": self.hub.stalled,
            "session_streams": self.sessions.links.count,
            "session_watchers": self.sessions.watchers.count,
            "tasks": len(asyncio.all_tasks()),
            "objects": len(gc.get_objects()),
        }

    async def stop(self) -> None:
        """Drain the streams, take no new call, give the calls that run
        `drain_seconds`, and close the store."""
        if self._renewing is not None:
            self._renewing.cancel()
        await self._health.leaving()
        await self.hub.drain(self._settings.drain_seconds)
        await self.hub.close()
        await self.sessions.close()
        await asyncio.gather(self._server.stop(self._settings.drain_seconds), self.stop_edge())
        await self.tenants.close()
        await self._store.close()


def build(settings: Settings, store: Store, clock: Clock) -> ControlPlane:
    """All parts of a replica, wired; nothing runs yet. It owns the store."""
    return ControlPlane(settings, store, clock)


async def open_store(settings: Settings) -> Store:
    """The store that the settings name. Raises StoreError, OSError."""
    if settings.store == "memory":
        return MemoryStore()
    path = settings.data_dir / DATABASE
    path.parent.mkdir(parents=True, exist_ok=True)
    return await SqliteStore.open(path)


async def _collect_between_bursts(clock: Clock) -> None:
    """Leave what lives as long as the process out of every collection, and
    collect rarely: a full one walks all streams, 0.1 s at 1,000 of them. When a
    fleet comes back, each stream brings 60 objects, and a collection in its
    midst looks at them all and finds nothing: a fifth of the time it takes. So
    collections are every GC_SECONDS, or past GC_YOUNG_OBJECTS_MAX."""
    gc.collect()
    gc.freeze()
    while True:
        gc.set_threshold(GC_YOUNG_OBJECTS_MAX, GC_YOUNG, GC_OLDER)
        await clock.sleep(GC_SECONDS)
        gc.set_threshold(GC_YOUNG_OBJECTS, GC_YOUNG, GC_OLDER)
        list[object]()  # at a new object the collector looks whether it is time


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; SIGUSR1 logs what the process holds.
    Raises ListenError, TlsError, StoreError, OSError."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    store = await open_store(settings)
    control_plane = build(settings, store, SystemClock())
    try:
        address = await control_plane.start()
        collecting = loop.create_task(_collect_between_bursts(SystemClock()))
        loop.add_signal_handler(signal.SIGUSR1, lambda: _log.info("counts", **control_plane.counts()))
        _log.info(
            "ready",
            grpc=address,
            edge=control_plane.edge_address,
            tls=settings.tls is not None,
            store=settings.store,
            data_dir=str(settings.data_dir),
        )
        await stopping.wait()
        collecting.cancel()
        _log.info("stopping", drain_seconds=settings.drain_seconds)
    finally:
        await control_plane.stop()
    _log.info("stopped")


EdgeListen = Annotated[
    str | None,
    typer.Option(
        help="Address of the fast edge, for nodes: HOST:PORT, unix:/PATH or none. "
        "Default: 127.0.0.1:50052 if gRPC has its default too, otherwise none."
    ),
]
EdgeAdvertise = Annotated[
    str | None, typer.Option(help="HOST:PORT by which nodes reach the fast edge, if it is another.")
]
TlsCert = Annotated[
    Path | None, typer.Option(help="PEM file with the certificate of all listeners, and its chain.")
]
TlsKey = Annotated[Path | None, typer.Option(help="PEM file with its private key.")]
TlsClientCa = Annotated[
    Path | None, typer.Option(help="PEM file of the authorities of clients; others are not let in then.")
]


def command(
    grpc_listen: Annotated[
        str | None, typer.Option(help="Address for gRPC: HOST:PORT or unix:/PATH. Default: 127.0.0.1:50051.")
    ] = None,
    edge_listen: EdgeListen = None,
    edge_advertise: EdgeAdvertise = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the database. Default: .voxplane.")] = None,
    store: Annotated[
        str | None, typer.Option(help="sqlite, or memory to keep nothing. Default: sqlite.")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="json or console. Default: json.")] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error. Default: info.")
    ] = None,
    drain_seconds: Annotated[
        float | None, typer.Option(help="How long running calls may go on at the end. Default: 10.")
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure", help="Listen beyond this machine without TLS and authentication."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings, such as data_dir.")] = None,
) -> None:
    """Run the control plane.

    A flag goes before the environment (VOXPLANE_GRPC_LISTEN, VOXPLANE_DATA_DIR
    and so on), and that before the file of --config. Logs go to stderr.

    Example: voxplane serve --grpc-listen 127.0.0.1:50051 --data-dir ./data
    """
    flags = {
        "grpc_listen": grpc_listen,
        "edge_listen": edge_listen,
        "edge_advertise": edge_advertise,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "tls_client_ca": tls_client_ca,
        "data_dir": data_dir,
        "store": store,
        "log_format": log_format,
        "log_level": log_level,
        "drain_seconds": drain_seconds,
        "insecure": insecure,
    }
    try:
        settings = load_settings(flags, config)
    except ValidationError as error:
        raise _refusal("\n".join(_explain(error)), code=2) from error
    except (OSError, ValueError) as error:
        raise _refusal(f"cannot read {config}: {error}", code=2) from error
    configure(settings.log_format, settings.log_level)
    try:
        with suppress(KeyboardInterrupt):
            uvloop.run(serve(settings))
    except (ListenError, TlsError, StoreError, OSError) as error:
        raise _refusal(str(error), code=1) from error


def _explain(error: ValidationError) -> list[str]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        ": ".join(part for part in (".".join(map(str, one["loc"])), _reason(one["msg"])) if part)
        for one in found
    ]


def _reason(message: str) -> str:
    return message.removeprefix("Value error, ")


def _refusal(message: str, *, code: int) -> typer.Exit:
    typer.echo(f"voxplane serve: {message}", err=True)
    return typer.Exit(code)
