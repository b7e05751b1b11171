"""`voxplane nodes fleet`: of each agent, how many nodes have it and run it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import nullcontext
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from voxplane.cli.connect import (
    CALL_SECONDS_MAX,
    DEFAULT_SERVER,
    Client,
    Json,
    Server,
    Tenant,
    call,
    connecting,
)
from voxplane.cli.failures import EXIT_NOT_CONVERGED
from voxplane.cli.output import out, print_json, to_dict
from voxplane.errors import violations_of
from voxplane.names import split_agent_name
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import node_pb2
from voxplane.v1 import node_service_pb2 as pb2

PAGE = 250
REFRESH_SECONDS = 0.5
REFRESH_PAUSE_SHARE = 4.0
"""A watch rests so many times as long as it took to ask, at least."""
LAGGING_SHOWN_MAX = 5
"""Nodes that are shown of one agent."""

REFUSED = (sync_pb2.CONFIG_PHASE_FAILED, sync_pb2.CONFIG_PHASE_REVERTED)


@connecting
def command(
    agents: Annotated[
        list[str] | None, typer.Argument(metavar="[AGENT]...", help="Only these agents.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Refresh until every node runs every agent.")
    ] = False,
    fail_if_behind: Annotated[
        bool,
        typer.Option(
            "--fail-if-behind", help="Exit 3 if a node does not run an agent, or too few are there."
        ),
    ] = False,
    min_nodes: Annotated[
        int, typer.Option("--min-nodes", min=0, help="Fewest nodes that must be there.")
    ] = 1,
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    as_json: Json = False,
) -> None:
    """Show how many nodes were sent each agent, have acknowledged it, run it or
    have refused it, and which ones lag and why.

    With --watch it ends when every node runs every agent; with --fail-if-behind
    also when those that do not have all refused.

    Example: voxplane nodes fleet --tenant demo --watch

    In CI: voxplane nodes fleet support --fail-if-behind --json
    """

    async def use(client: Client) -> pb2.GetFleetStatusResponse:
        request = pb2.GetFleetStatusRequest(tenant_id=tenant, agent_ids=agents or [], page_size=PAGE)
        if not watch:
            return await _fetch(client, request)
        status = pb2.GetFleetStatusResponse()
        refreshed = _refreshed(client, request, tenant, as_json=as_json)
        async for status in refreshed:
            if not is_behind(status, min_nodes) or (fail_if_behind and has_refused(status)):
                break
        await refreshed.aclose()
        return status

    status = call(server, as_json, use)
    if not watch:
        _print(status, tenant, as_json=as_json)
    if fail_if_behind and is_behind(status, min_nodes):
        raise typer.Exit(EXIT_NOT_CONVERGED)


def is_behind(status: pb2.GetFleetStatusResponse, min_nodes: int) -> bool:
    """Whether a node does not run an agent, or too few nodes are there."""
    return status.nodes < min_nodes or any(agent.effective < agent.nodes for agent in status.agents)


def has_refused(status: pb2.GetFleetStatusResponse) -> bool:
    """Whether nodes have refused agents, and all others run them."""
    lagging = sum(agent.nodes - agent.effective for agent in status.agents)
    return 0 < lagging == sum(agent.refused for agent in status.agents)


async def _fetch(client: Client, request: pb2.GetFleetStatusRequest) -> pb2.GetFleetStatusResponse:
    """All pages as one."""
    status = pb2.GetFleetStatusResponse()
    request.page_token = ""
    while True:
        page = await client.nodes.GetFleetStatus(request, timeout=CALL_SECONDS_MAX)
        # A later page knows better; `agents` are added up.
        status.MergeFrom(page)
        status.nodes, status.connected = page.nodes, page.connected
        request.page_token = page.next_page_token
        if not request.page_token:
            status.next_page_token = ""
            return status


async def _refreshed(
    client: Client, request: pb2.GetFleetStatusRequest, tenant: str, *, as_json: bool
) -> AsyncGenerator[pb2.GetFleetStatusResponse]:
    """The status again and again; it is shown when it has changed."""
    shown: pb2.GetFleetStatusResponse | None = None
    on_screen = out.is_terminal and not as_json
    with Live(console=out, auto_refresh=False) if on_screen else nullcontext() as live:
        while True:
            began = time.monotonic()
            status = await _fetch(client, request)
            took = time.monotonic() - began
            if status != shown:
                shown = status
                if live is None:
                    _print(status, tenant, as_json=as_json)
                else:
                    live.update(fleet_view(status, tenant), refresh=True)
            yield status
            await asyncio.sleep(max(REFRESH_SECONDS, took * REFRESH_PAUSE_SHARE))


def _print(status: pb2.GetFleetStatusResponse, tenant: str, *, as_json: bool) -> None:
    if as_json:
        print_json(to_dict(status))
    else:
        out.print(fleet_view(status, tenant))


def fleet_view(status: pb2.GetFleetStatusResponse, tenant: str) -> RenderableType:
    """The table of agents, and below it the nodes that lag."""
    nodes = f"{status.nodes} node{'s' * (status.nodes != 1)}"
    heading = Text.assemble(
        (tenant, "bold"), f" at revision {status.revision.number}, {nodes}, {status.connected} connected"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("AGENT")
    for column in ("REVISION", "NODES", "SENT", "ACKED", "EFFECTIVE", "REFUSED"):
        table.add_column(column, justify="right")
    for agent in status.agents:
        counts = (agent.sent, agent.acked, agent.effective)
        table.add_row(
            _agent_id(agent),
            str(agent.revision),
            str(agent.nodes),
            *(f"[{'green' if count == agent.nodes else 'yellow'}]{count}[/]" for count in counts),
            f"[red]{agent.refused}[/]" if agent.refused else "0",
        )
    parts: list[RenderableType] = [heading, table if status.agents else Text("no agents", "dim")]
    lagging = [line for agent in status.agents for line in _lagging_lines(agent)]
    if lagging:
        parts += [Text(""), *lagging]
    return Group(*parts)


def _lagging_lines(agent: node_pb2.AgentFleetStatus) -> Iterator[Text]:
    """The nodes that do not run the agent; those that have refused it first."""
    lagging = agent.nodes - agent.effective
    if not lagging:
        return
    yield Text.from_markup(f"[bold]{_agent_id(agent)}[/] is behind on {lagging} of {agent.nodes}:")
    order = sorted(agent.lagging, key=lambda node: (node.phase not in REFUSED, node.node_id))
    for node in order[:LAGGING_SHOWN_MAX]:
        parts = [node.node_id, _how_far(node)]
        if node.effective_etag:
            parts.append(f"[dim]runs {node.effective_etag[:8]} of revision {node.effective_revision}[/]")
        if node.error.message:
            parts.append(escape(node.error.message))
        yield Text.from_markup("  " + "  ".join(parts))
        for violation in violations_of(node.error):
            yield Text.from_markup(
                f"    [yellow]{escape(violation.field)}[/]: {escape(violation.description)}"
            )
    if lagging > LAGGING_SHOWN_MAX:
        yield Text(f"  … and {lagging - min(len(order), LAGGING_SHOWN_MAX)} more", "dim")


def _how_far(node: node_pb2.LaggingNode) -> str:
    gone = "" if node.connected else "disconnected"
    if node.phase in REFUSED:
        return f"[red]{', '.join(filter(None, (_phase(node), gone)))}[/]"
    if gone:
        return f"[red]{gone}[/]"
    if not node.sent:
        return "[yellow]not sent yet[/]"
    if not node.phase:
        return "[yellow]acknowledged[/]" if node.acked else "[yellow]sent, no answer yet[/]"
    return f"[yellow]{_phase(node)}[/]"


def _phase(node: node_pb2.LaggingNode) -> str:
    return sync_pb2.ConfigPhase.Name(node.phase).removeprefix("CONFIG_PHASE_")


def _agent_id(agent: node_pb2.AgentFleetStatus) -> str:
    return split_agent_name(agent.name)[1]
