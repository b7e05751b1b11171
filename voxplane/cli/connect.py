"""The connection of a command to the control plane, and its common options."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import grpc
import typer
from rich.console import Console

from voxplane.channel import RenewedChannel
from voxplane.cli.failures import UsageError, failure_of, show
from voxplane.cli.handshake import handshake_failure
from voxplane.tls import ClientTls, TlsError
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc
from voxplane.v1 import node_service_pb2_grpc as nodes_grpc
from voxplane.v1 import session_service_pb2_grpc as sessions_grpc

CALL_SECONDS_MAX = 15.0
EXIT_INTERRUPTED = 130
DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_DATA_DIR = Path(".voxplane")
TLS_ENV = ("VOXPLANE_TLS_CA", "VOXPLANE_TLS_CERT", "VOXPLANE_TLS_KEY")
_LOOPBACK = ("127.", "localhost:", "[::1]:", "unix:")

Tenant = Annotated[str, typer.Option("--tenant", "-t", envvar="VOXPLANE_TENANT", help="The tenant.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, by the names of the contract.")]
_OPTIONS: dict[str, tuple[Any, Any]] = {
    "address": (
        Annotated[
            str, typer.Option("--server", envvar="VOXPLANE_SERVER", help="Address of the control plane.")
        ],
        DEFAULT_ADDRESS,
    ),
    "tls_ca": (
        Annotated[
            Path | None,
            typer.Option(
                "--tls-ca",
                envvar=TLS_ENV[0],
                help="PEM file of the control plane's authority; turns TLS on.",
            ),
        ],
        None,
    ),
    "tls_cert": (
        Annotated[
            Path | None,
            typer.Option("--tls-cert", envvar=TLS_ENV[1], help="PEM file with a certificate of yours."),
        ],
        None,
    ),
    "tls_key": (
        Annotated[
            Path | None, typer.Option("--tls-key", envvar=TLS_ENV[2], help="PEM file with its private key.")
        ],
        None,
    ),
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Server:
    """Where the control plane is; `tls` is None if it is spoken to in plain."""

    address: str = DEFAULT_ADDRESS
    tls: ClientTls | None = None


DEFAULT_SERVER = Server()


class Client:
    """The services of one control plane."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.agents = agents_grpc.AgentServiceStub(channel)
        self.sync = sync_grpc.ConfigSyncServiceStub(channel)
        self.nodes = nodes_grpc.NodeServiceStub(channel)
        self.sessions = sessions_grpc.SessionServiceStub(channel)


def connecting(command: Callable[..., T]) -> Callable[..., T]:
    """A command for typer: its parameter `server`, a Server, becomes the options
    that say where the control plane is and how it is reached."""

    @wraps(command)
    def connected(**given: Any) -> T:
        address, ca, cert, key = (given.pop(name) for name in _OPTIONS)
        try:
            tls = ClientTls.of(ca, cert, key)
        except ValueError as error:
            flags = str(error).replace("tls_", "--tls-")
            raise typer.BadParameter(flags, param_hint="--tls-cert") from error
        return command(server=Server(address, tls), **given)

    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name != "server":
            parameters.append(parameter)
            continue
        parameters += [
            inspect.Parameter(name, parameter.kind, default=default, annotation=kind)
            for name, (kind, default) in _OPTIONS.items()
        ]
    cast("Any", connected).__signature__ = signature.replace(parameters=parameters)
    return connected


def open_channel(server: Server) -> grpc.aio.Channel:
    """A channel; what is on this machine is never asked through a proxy. Raises
    UsageError if a file of its TLS cannot be used."""
    local = server.address.startswith(_LOOPBACK)
    options = [("grpc.enable_http_proxy", 0)] if local else None
    if server.tls is None:
        return grpc.aio.insecure_channel(server.address, options=options)
    try:
        return RenewedChannel(
            server.tls, lambda credentials: grpc.aio.secure_channel(server.address, credentials, options)
        )
    except TlsError as error:
        raise UsageError(f"TLS: {error}") from error


def call(server: Server, as_json: bool, use: Callable[[Client], Awaitable[T]]) -> T:
    """Connect, use the client, and end with the error's exit code if it fails."""

    async def connected() -> T:
        async with open_channel(server) as channel:
            return await use(Client(channel))

    return run(connected(), as_json=as_json, server=server)


def run(work: Coroutine[None, None, T], *, as_json: bool = False, server: Server | None = None) -> T:
    """Run it; errors are printed and become exit codes, Ctrl-C is quiet."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except Exception as error:
        failure = failure_of(error, server.address if server else "")
        if failure is None:
            raise
        if server is not None and failure.code == grpc.StatusCode.UNAVAILABLE.name:
            failure = handshake_failure(server.address, server.tls) or failure
        show(failure, Console(stderr=True), as_json=as_json)
        raise typer.Exit(failure.exit_code) from None
