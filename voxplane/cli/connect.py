"""The connection of a command to the control plane, and its common options."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Annotated, TypeVar

import grpc
import typer
from rich.console import Console

from voxplane.cli.failures import failure_of, show
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc
from voxplane.v1 import node_service_pb2_grpc as nodes_grpc
from voxplane.v1 import session_service_pb2_grpc as sessions_grpc

CALL_SECONDS_MAX = 15.0
EXIT_INTERRUPTED = 130
DEFAULT_SERVER = "127.0.0.1:50051"
DEFAULT_DATA_DIR = Path(".voxplane")
_LOOPBACK = ("127.", "localhost:", "[::1]:", "unix:")

Server = Annotated[
    str, typer.Option("--server", envvar="VOXPLANE_SERVER", help="Address of the control plane.")
]
Tenant = Annotated[str, typer.Option("--tenant", "-t", envvar="VOXPLANE_TENANT", help="The tenant.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, by the names of the contract.")]

T = TypeVar("T")


class Client:
    """The services of one control plane."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.agents = agents_grpc.AgentServiceStub(channel)
        self.sync = sync_grpc.ConfigSyncServiceStub(channel)
        self.nodes = nodes_grpc.NodeServiceStub(channel)
        self.sessions = sessions_grpc.SessionServiceStub(channel)


def open_channel(server: str) -> grpc.aio.Channel:
    """A channel; what is on this machine is never asked through a proxy."""
    local = server.startswith(_LOOPBACK)
    return grpc.aio.insecure_channel(server, options=[("grpc.enable_http_proxy", 0)] if local else None)


def call(server: str, as_json: bool, use: Callable[[Client], Awaitable[T]]) -> T:
    """Connect, use the client, and end with the error's exit code if it fails."""

    async def connected() -> T:
        async with open_channel(server) as channel:
            return await use(Client(channel))

    return run(connected(), as_json=as_json, server=server)


def run(work: Coroutine[None, None, T], *, as_json: bool = False, server: str = "") -> T:
    """Run it; errors are printed and become exit codes, Ctrl-C is quiet."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except Exception as error:
        failure = failure_of(error, server)
        if failure is None:
            raise
        show(failure, Console(stderr=True), as_json=as_json)
        raise typer.Exit(failure.exit_code) from None
