"""`voxplane nodes` and `voxplane wait`: the fleet and what it runs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

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

PAGE = 1000
COLOURS = {"CONVERGED": "green", "PENDING": "yellow", "FAILED": "red", "DISCONNECTED": "red"}

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Nodes and what they run.")


def _phase(phase: sync_pb2.ConfigPhase) -> str:
    return sync_pb2.ConfigPhase.Name(phase).removeprefix("CONFIG_PHASE_")


@app.command("list")
@connecting
def list_nodes(server: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """List the nodes.

    Example: voxplane nodes list

    Over TLS: voxplane nodes list --server control.example:50051 --tls-ca ca.pem
    """

    async def use(client: Client) -> list[node_pb2.Node]:
        found: list[node_pb2.Node] = []
        request = pb2.ListNodesRequest(page_size=PAGE, view=node_pb2.NODE_VIEW_BASIC)
        while True:
            answer = await client.nodes.ListNodes(request, timeout=CALL_SECONDS_MAX)
            found += answer.nodes
            request.page_token = answer.next_page_token
            if not request.page_token:
                return found

    nodes = call(server, as_json, use)
    if as_json:
        print_json([to_dict(node) for node in nodes])
        return
    table = Table(box=None, pad_edge=False)
    for column in ("NODE", "STATE", "SESSIONS", "TENANTS (ACKED/SENT)", "REFUSED", "VERSION"):
        table.add_column(column)
    for node in nodes:
        refused = sum(tenant.refused_count for tenant in node.tenants)
        table.add_row(
            node.node_id,
            "[green]connected[/]" if node.connected else "[red]disconnected[/]",
            str(sum(tenant.sessions for tenant in node.tenants)),
            " ".join(
                f"{t.tenant_id} {t.acked_revision.number}/{t.sent_revision.number}" for t in node.tenants
            ),
            f"[red]{refused}[/]" if refused else "0",
            node.version,
        )
    out.print(table)


@app.command()
@connecting
def get(
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node's id.")],
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="Only this tenant. [all]")] = "",
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Show what a node was sent, has acknowledged and runs.

    Example: voxplane nodes get node-1
    """

    async def use(client: Client) -> node_pb2.Node:
        request = pb2.GetNodeRequest(node_id=node, tenant_id=tenant)
        return (await client.nodes.GetNode(request, timeout=CALL_SECONDS_MAX)).node

    found = call(server, as_json, use)
    if as_json:
        print_json(to_dict(found))
        return
    out.print(f"[bold]{found.node_id}[/] {'connected' if found.connected else 'disconnected'}")
    table = Table(box=None, pad_edge=False)
    for column in ("TENANT", "AGENT", "PHASE", "SENT", "RUNS", "SESSIONS", "WHY"):
        table.add_column(column)
    for part in found.tenants:
        for bundle in part.bundles:
            table.add_row(
                *split_agent_name(bundle.name),
                _phase(bundle.status.phase),
                bundle.sent_etag[:8],
                bundle.effective_etag[:8] or "-",
                str(bundle.status.sessions),
                escape(bundle.status.error.message),
            )
    out.print(table)
    if left_out := sum(part.bundle_count - len(part.bundles) for part in found.tenants):
        out.print(f"[dim]… and {left_out} more[/]")
    if not tenant and len(found.tenants) < found.tenant_count:
        out.print(f"[dim]… and more of {found.tenant_count} tenants; name one by --tenant[/]")


@connecting
def wait(
    revision: Annotated[int, typer.Argument(help="The revision to wait for. [the present one]")] = 0,
    timeout: Annotated[float, typer.Option("--timeout", min=0, max=600, help="Seconds to wait.")] = 10,
    min_nodes: Annotated[
        int, typer.Option("--min-nodes", min=0, help="Fewest nodes that must be there.")
    ] = 1,
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    as_json: Json = False,
) -> None:
    """Wait until every node runs a revision; exit 3 if one does not.

    Example: voxplane wait 42 --tenant demo --timeout 30
    """

    async def use(client: Client) -> pb2.WaitForConvergenceResponse:
        request = pb2.WaitForConvergenceRequest(tenant_id=tenant, revision=revision, min_nodes=min_nodes)
        request.timeout.FromMilliseconds(int(timeout * 1000))
        return await client.nodes.WaitForConvergence(request, timeout=timeout + CALL_SECONDS_MAX)

    answer = call(server, as_json, use)
    if as_json:
        print_json(to_dict(answer))
    else:
        print_convergence(answer)
    if not answer.converged:
        raise typer.Exit(EXIT_NOT_CONVERGED)


def print_convergence(answer: pb2.WaitForConvergenceResponse) -> None:
    """Who has the revision, who does not, and why."""
    out.print(*convergence_lines(answer), sep="\n")


def convergence_lines(answer: pb2.WaitForConvergenceResponse) -> list[str]:
    """The lines of `print_convergence`, in rich's markup."""
    waited = answer.waited.ToMilliseconds()
    verdict = "[green]every node runs[/]" if answer.converged else "[red]not every node runs[/]"
    count = f"{answer.node_count} node{'s' * (answer.node_count != 1)}"
    lines = [f"{verdict} revision {answer.revision.number} ({count}, waited {waited} ms)"]
    for node in answer.nodes:
        state = node_pb2.ConvergenceState.Name(node.state).removeprefix("CONVERGENCE_STATE_")
        lines.append(f"  {node.node_id} [{COLOURS[state]}]{state}[/] acked {node.acked_revision}")
        for lagging in node.lagging:
            why = escape(lagging.error.message)
            lines.append(f"    {lagging.name} {_phase(lagging.phase)} {why}")
            lines += [
                f"      [yellow]{escape(violation.field)}[/]: {escape(violation.description)}"
                for violation in violations_of(lagging.error)
            ]
        if more := node.lagging_count - len(node.lagging):
            lines.append(f"    [dim]… and {more} more[/]")
    if more := answer.node_count - len(answer.nodes):
        lines.append(f"  [dim]… and {more} more nodes[/]")
    return lines
