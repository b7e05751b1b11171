"""`voxplane nodes local`: the node of this machine, as it sees itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import grpc
import typer
from google.protobuf import duration_pb2
from rich.markup import escape
from rich.table import Table

from voxplane.cli.chat.session import relay_socket
from voxplane.cli.connect import DEFAULT_DATA_DIR, Json, run
from voxplane.cli.failures import CommandError
from voxplane.cli.output import out, print_json, to_dict
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc

STATUS_SECONDS_MAX = 10.0
_NO_NODE = "start one by `voxplane dev` (or `voxplane node`), or name another's socket by --node-socket"


def command(
    data_dir: Annotated[
        Path, typer.Option("--data-dir", envvar="VOXPLANE_DATA_DIR", help="Folder of the node.")
    ] = DEFAULT_DATA_DIR,
    node_socket: Annotated[
        Path | None,
        typer.Option("--node-socket", envvar="VOXPLANE_NODE_SOCKET", help="The node's socket, elsewhere."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the node of this machine: what it has, and how old it may be.

    Example: voxplane nodes local
    """
    status = run(_ask(relay_socket(data_dir, node_socket)), as_json=as_json)
    if as_json:
        print_json(to_dict(status))
    else:
        _show(status)


async def _ask(socket: Path) -> relay_pb2.GetNodeStatusResponse:
    if not socket.is_socket():  # noqa: ASYNC240 - no wait: the file is local
        raise CommandError(f"no node runs here: there is no socket {socket}", _NO_NODE)
    options = [("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=options) as channel:
        stub = relay_grpc.RelayServiceStub(channel)
        try:
            return await stub.GetNodeStatus(relay_pb2.GetNodeStatusRequest(), timeout=STATUS_SECONDS_MAX)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise CommandError(f"no node answers on {socket}", _NO_NODE) from None
            raise


def _show(status: relay_pb2.GetNodeStatusResponse) -> None:
    state = "[red]STALE[/]" if status.HasField("stale") else "[green]in step[/]"
    out.print(f"[bold]{status.node_id}[/] {state} with {escape(status.server)}, {status.sessions} sessions")
    _show_sessions(status)
    if status.HasField("stale"):
        age = _age(status.stale.age) if status.stale.HasField("age") else "an unknown time"
        out.print(f"  for {age}: {escape(status.stale.reason)}")
    if status.HasField("next_stream"):
        out.print(f"  tries again in {_age(status.next_stream)}")
    if status.replaced:
        out.print(
            f"  [red]another node has the id {status.node_id}[/] and took over {status.replaced} times: "
            "give each its own by --node-id"
        )
    table = Table(box=None, pad_edge=False)
    for column in ("TENANT", "REVISION", "AGENTS", "LEVEL", "LAST LEVEL"):
        table.add_column(column)
    for tenant in status.tenants:
        table.add_row(
            tenant.tenant_id,
            str(tenant.revision.number),
            str(tenant.agents),
            "[green]yes[/]" if tenant.level else "[yellow]no[/]",
            _last_level(tenant),
        )
    if status.tenants:
        out.print(table)
    if status.tenant_count > len(status.tenants):
        out.print(f"  and {status.tenant_count - len(status.tenants)} more tenants")
    for refused in status.refused:
        runs = (
            f"goes on with revision {refused.runs_revision}" if refused.runs_revision else "cannot be called"
        )
        out.print(
            f"[red]refused[/] {refused.name} revision {refused.refused_revision}, {runs}: "
            f"{escape(refused.error.message)}"
        )


def _show_sessions(status: relay_pb2.GetNodeStatusResponse) -> None:
    if status.voice_sessions or status.text_sessions:
        out.print(f"  {status.voice_sessions} by voice, {status.text_sessions} by text")
    if status.untold_sessions and not status.reports_connected:
        spool = f"{status.spool_bytes / 1e6:.1f} MB on disk"
        out.print(f"  reports of {status.untold_sessions} sessions wait for the control plane, {spool}")


def _last_level(tenant: relay_pb2.LocalTenant) -> str:
    if tenant.level:
        return "now"
    return f"{_age(tenant.age)} ago" if tenant.HasField("age") else "unknown"


def _age(age: duration_pb2.Duration) -> str:
    """Such as 3 s, 5 min, 2 h or 4 days."""
    seconds = age.ToSeconds()
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
