"""`voxplane watch`: the stream of configs, for people."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from voxplane.cli.connect import DEFAULT_SERVER, Client, Json, Server, call
from voxplane.cli.output import out, print_json, to_dict
from voxplane.v1 import config_sync_service_pb2 as pb2

INTENT_PREFIX = "TRANSFER_INTENT_"


def command(
    agents: Annotated[
        list[str] | None, typer.Argument(metavar="[AGENT]...", help="Only these agents.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=0, help="End after so many transfers. [never]")] = 0,
    server: Server = DEFAULT_SERVER,
    tenant: Annotated[
        str, typer.Option("--tenant", "-t", envvar="VOXPLANE_TENANT", help="The tenant; - for all.")
    ] = "demo",
    as_json: Json = False,
) -> None:
    """Show every change of the tenant's agents as it is made.

    Example: voxplane watch --tenant demo --json
    """

    async def use(client: Client) -> None:
        request = pb2.WatchConfigRequest(tenant_id=tenant, agent_ids=agents or [])
        seen = 0
        async for message in client.sync.WatchConfig(request):
            if as_json:
                print_json(to_dict(message))
            else:
                _print(message)
            seen += message.transfer.HasField("synced")
            if count and seen >= count:
                return

    call(server, as_json, use)


def _print(message: pb2.WatchConfigResponse) -> None:
    if message.HasField("heartbeat"):
        levels = ", ".join(f"{t}@{r.number}" for t, r in sorted(message.heartbeat.revisions.items()))
        out.print(f"[dim]heartbeat {levels}[/]")
        return
    transfer = message.transfer
    if transfer.HasField("start"):
        intent = pb2.TransferIntent.Name(transfer.start.intent).removeprefix(INTENT_PREFIX)
        out.print(
            f"[bold]{transfer.tenant_id}[/] revision {transfer.revision.number} [cyan]{intent}[/]"
            f" [dim]{escape(transfer.start.reason)}[/]"
        )
    for bundle in transfer.bundles:
        aliases = " ".join(f"{name}=v{number}" for name, number in sorted(bundle.aliases.items()))
        out.print(f"  [green]~[/] {bundle.name} {aliases} [dim]etag {bundle.etag[:8]}[/]")
    for name in transfer.removed:
        out.print(f"  [red]-[/] {name}")
    if transfer.HasField("synced"):
        synced = transfer.synced
        out.print(f"  [dim]synced: {synced.bundle_count} agents, digest {synced.digest[:8]}[/]")
