"""The connection of a command to the control plane, and its common options."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Annotated, TypeVar

import grpc
import typer
from google.rpc import code_pb2, status_pb2

from voxplane.cli.output import EXIT_SERVER, EXIT_USAGE, print_error, status_of
from voxplane.errors import VoxplaneError, to_status
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc
from voxplane.v1 import node_service_pb2_grpc as nodes_grpc

CALL_SECONDS_MAX = 15.0
DEFAULT_SERVER = "127.0.0.1:50051"
DEFAULT_DATA_DIR = Path(".voxplane")

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


class UsageError(Exception):
    """What was asked cannot be asked; the message says why."""


def call(server: str, as_json: bool, use: Callable[[Client], Awaitable[T]]) -> T:
    """Connect, use the client, and end with the error's exit code if it fails."""

    async def connected() -> T:
        async with grpc.aio.insecure_channel(server) as channel:
            return await use(Client(channel))

    return run(connected(), as_json=as_json, server=server)


def run(work: Coroutine[None, None, T], *, as_json: bool = False, server: str = "") -> T:
    """Run it; errors are printed and become exit codes, Ctrl-C is quiet."""
    try:
        return asyncio.run(work)
    except grpc.RpcError as error:
        print_error(status_of(error), as_json=as_json, server=server)
        raise typer.Exit(EXIT_SERVER) from None
    except VoxplaneError as error:
        print_error(to_status(error), as_json=as_json)
        raise typer.Exit(EXIT_USAGE) from None
    except UsageError as error:
        print_error(
            status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=str(error)), as_json=as_json
        )
        raise typer.Exit(EXIT_USAGE) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
