"""`voxplane watch`: the stream of configs, for people."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from typing import Annotated

import grpc
import typer
from rich.console import Console
from rich.markup import escape

from voxplane.cli.connect import DEFAULT_SERVER, Client, Json, Server, call, connecting
from voxplane.cli.output import out, print_json, to_dict
from voxplane.v1 import config_sync_service_pb2 as pb2
from voxplane.v1 import revision_pb2

INTENT_PREFIX = "TRANSFER_INTENT_"
DRAIN_PREFIX = "DRAIN_REASON_"
BACK_OFF_SECONDS_MIN = 0.25
BACK_OFF_SECONDS_MAX = 5.0
_COME_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class Held:
    """What the watcher has been shown, so that it goes on where it was."""

    def __init__(self, tenant: str, agents: Iterable[str], labels: dict[str, str]) -> None:
        self._about = pb2.WatchConfigRequest(tenant_id=tenant, agent_ids=agents, agent_labels=labels)
        self._revisions: dict[str, revision_pb2.Revision] = {}
        self._etags: dict[str, dict[str, str]] = {}
        self._contents: set[str] = set()

    def request(self) -> pb2.WatchConfigRequest:
        """The request that goes on."""
        request = pb2.WatchConfigRequest()
        request.CopyFrom(self._about)
        for tenant, revision in self._revisions.items():
            request.start_revisions[tenant].CopyFrom(revision)
            request.known.update(self._etags.get(tenant, {}))
        request.known_contents.extend(self._contents)
        return request

    def take(self, message: pb2.WatchConfigResponse) -> None:
        """Note what a message brings. A transfer counts at its end."""
        for tenant, revision in message.heartbeat.revisions.items():
            self._revisions[tenant] = revision
        transfer = message.transfer
        if not message.HasField("transfer"):
            return
        if transfer.start.intent == pb2.TRANSFER_INTENT_FULL:
            self._etags.pop(transfer.tenant_id, None)
        etags = self._etags.setdefault(transfer.tenant_id, {})
        etags.update((bundle.name, bundle.etag) for bundle in transfer.bundles)
        for name in transfer.removed:
            etags.pop(name, None)
        self._contents.update(content.content_hash for content in transfer.contents)
        self._revisions.pop(transfer.tenant_id, None)
        if transfer.HasField("synced") and not transfer.tenant_removed:
            self._revisions[transfer.tenant_id] = transfer.revision


@connecting
def command(
    agents: Annotated[
        list[str] | None, typer.Argument(metavar="[AGENT]...", help="Only these agents.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", help="Only agents with the label KEY=VALUE.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=0, help="End after so many transfers. [never]")] = 0,
    server: Server = DEFAULT_SERVER,
    tenant: Annotated[
        str, typer.Option("--tenant", "-t", envvar="VOXPLANE_TENANT", help="The tenant; - for all.")
    ] = "demo",
    as_json: Json = False,
) -> None:
    """Show every change of the tenant's agents as it is made.

    When the server goes away the watch comes back, and goes on where it was.

    Example: voxplane watch --tenant demo --label team=blue --json
    """
    held = Held(tenant, agents or [], _labels(label or []))

    async def use(client: Client) -> None:
        seen = 0
        async for message in _messages(client, held):
            if as_json:
                print_json(to_dict(message))
            else:
                _print(message)
            seen += message.transfer.HasField("synced")
            if count and seen >= count:
                return

    call(server, as_json, use)


async def _messages(client: Client, held: Held) -> AsyncIterator[pb2.WatchConfigResponse]:
    """The messages of one stream after the other. Raises what the server has
    against the first, or against a later one for good."""
    notes = Console(stderr=True, highlight=False)
    attempt, served = 0, False
    while True:
        try:
            async for message in client.sync.WatchConfig(held.request()):
                held.take(message)
                attempt, served = 0, True
                yield message
        except grpc.aio.AioRpcError as error:
            if not served or error.code() not in _COME_AGAIN:
                raise
            notes.print(f"[dim]{escape(error.details() or error.code().name)}[/]")
        longest = min(BACK_OFF_SECONDS_MAX, BACK_OFF_SECONDS_MIN * 2**attempt)
        attempt += 1
        await asyncio.sleep(random.uniform(0, longest))


def _labels(given: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if any(not key or not mark for key, mark, _ in pairs):
        raise typer.BadParameter("a label is given as key=value", param_hint="--label")
    return {key: value for key, _, value in pairs}


def _print(message: pb2.WatchConfigResponse) -> None:
    match message.WhichOneof("event"):
        case "transfer":
            _print_transfer(message.transfer)
        case "heartbeat":
            levels = ", ".join(f"{t}@{r.number}" for t, r in sorted(message.heartbeat.revisions.items()))
            out.print(f"[dim]heartbeat {levels}[/]")
        case "drain":
            reason = pb2.DrainReason.Name(message.drain.reason).removeprefix(DRAIN_PREFIX).lower()
            out.print(f"[dim]the stream is going to end: {reason}[/]")
        case _:
            pass


def _print_transfer(transfer: pb2.ConfigTransfer) -> None:
    if transfer.HasField("start"):
        intent = pb2.TransferIntent.Name(transfer.start.intent).removeprefix(INTENT_PREFIX)
        skipped = transfer.start.skipped_revisions
        over = f", over {skipped} more" if skipped else ""
        out.print(
            f"[bold]{transfer.tenant_id}[/] revision {transfer.revision.number} [cyan]{intent}[/]"
            f" [dim]{escape(transfer.start.reason)}{over}[/]"
        )
    for bundle in transfer.bundles:
        aliases = " ".join(f"{name}=v{number}" for name, number in sorted(bundle.aliases.items()))
        out.print(f"  [green]~[/] {bundle.name} {aliases} [dim]etag {bundle.etag[:8]}[/]")
    for name in transfer.removed:
        out.print(f"  [red]-[/] {name}")
    if transfer.tenant_removed:
        out.print("  [red]the tenant is gone from the watch[/]")
    elif transfer.HasField("synced"):
        synced = transfer.synced
        out.print(f"  [dim]synced: {synced.bundle_count} agents, digest {synced.digest[:8]}[/]")
