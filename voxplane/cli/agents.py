"""`voxplane agents`: configs, versions and aliases; what changes them is in publish."""

from __future__ import annotations

import difflib
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer
import yaml
from rich.markup import escape
from rich.table import Table

from voxplane.cli import publish
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
from voxplane.cli.failures import UsageError
from voxplane.cli.output import out, print_json, to_dict
from voxplane.configdiff import FieldChange, field_changes
from voxplane.names import LIVE
from voxplane.v1 import agent_pb2
from voxplane.v1 import agent_service_pb2 as pb2

PAGE = 1000
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Agents, their versions and aliases.")
app.add_typer(publish.app)

AgentId = Annotated[str, typer.Argument(metavar="AGENT", help="The agent's id.")]


@app.command("list")
@connecting
def list_agents(
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    deleted: Annotated[bool, typer.Option("--deleted", help="Show deleted agents too.")] = False,
    as_json: Json = False,
) -> None:
    """List the tenant's agents.

    Example: voxplane agents list --tenant demo

    Over TLS: voxplane agents list --server control.example:50051 --tls-ca ca.pem
    """

    async def use(client: Client) -> list[agent_pb2.Agent]:
        found: list[agent_pb2.Agent] = []
        request = pb2.ListAgentsRequest(tenant_id=tenant, page_size=PAGE, show_deleted=deleted)
        while True:
            answer = await client.agents.ListAgents(request, timeout=CALL_SECONDS_MAX)
            found += answer.agents
            request.page_token = answer.next_page_token
            if not request.page_token:
                return found

    agents = call(server, as_json, use)
    if as_json:
        print_json([to_dict(agent) for agent in agents])
        return
    table = Table(box=None, pad_edge=False)
    for column in ("AGENT", "LIVE", "NEWEST", "ALIASES", "CHANGED", "REVISION"):
        table.add_column(column)
    for agent in agents:
        table.add_row(
            agent.agent_id + (" (deleted)" if agent.HasField("delete_time") else ""),
            f"v{agent.aliases[LIVE].version}" if LIVE in agent.aliases else "-",
            f"v{agent.latest_version}",
            " ".join(f"{name}=v{alias.version}" for name, alias in sorted(agent.aliases.items())),
            agent.update_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S"),
            str(agent.revision),
        )
    out.print(table)


@app.command()
@connecting
def get(
    agent: AgentId,
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    version: Annotated[int, typer.Option("--version", help="A version by number; else by --alias.")] = 0,
    alias: Annotated[str, typer.Option("--alias", help="A version by alias.")] = LIVE,
    as_json: Json = False,
) -> None:
    """Show an agent's config as YAML, ready for `update -f`.

    Example: voxplane agents get interview --version 2 > interview.yaml
    """

    async def use(client: Client) -> agent_pb2.AgentVersion:
        return await _version(client, tenant, agent, version, alias)

    found = call(server, as_json, use)
    if as_json:
        print_json(to_dict(found))
    else:
        typer.echo(_yaml(to_dict(found.config)), nl=False)


@app.command()
@connecting
def history(
    agent: AgentId,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most versions to show.")] = 20,
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    as_json: Json = False,
) -> None:
    """List the versions of an agent, newest first.

    Example: voxplane agents history interview --limit 5
    """

    async def use(client: Client) -> tuple[agent_pb2.Agent, list[agent_pb2.AgentVersion]]:
        found = await client.agents.GetAgent(
            pb2.GetAgentRequest(tenant_id=tenant, agent_id=agent), timeout=CALL_SECONDS_MAX
        )
        return found.agent, [version async for version in versions(client, tenant, agent, limit)]

    record, listed = call(server, as_json, use)
    if as_json:
        print_json([to_dict(version) for version in listed])
    else:
        out.print(history_table(record, listed))


async def versions(
    client: Client, tenant: str, agent: str, limit: int
) -> AsyncIterator[agent_pb2.AgentVersion]:
    """The newest versions of an agent, page by page, at most `limit`."""
    request = pb2.ListAgentVersionsRequest(tenant_id=tenant, agent_id=agent)
    while limit > 0:
        request.page_size = min(limit, PAGE)
        answer = await client.agents.ListAgentVersions(request, timeout=CALL_SECONDS_MAX)
        for version in answer.versions:
            yield version
        limit -= len(answer.versions)
        request.page_token = answer.next_page_token
        if not request.page_token:
            return


def history_table(agent: agent_pb2.Agent, listed: list[agent_pb2.AgentVersion]) -> Table:
    """The versions as a table, with the aliases that point at them."""
    table = Table(box=None, pad_edge=False)
    for column in ("VERSION", "LABEL", "ALIASES", "MADE", "REVISION", "NOTE"):
        table.add_column(column)
    for version in listed:
        pointing = sorted(name for name, alias in agent.aliases.items() if alias.version == version.number)
        table.add_row(
            f"v{version.number}",
            escape(version.config.version) or "-",
            f"[green]{' '.join(pointing)}[/]" if pointing else "",
            version.create_time.ToDatetime().strftime("%H:%M:%S"),
            str(version.revision),
            escape(version.note),
        )
    return table


@app.command()
@connecting
def diff(
    agent: AgentId,
    old: Annotated[int, typer.Option("--from", help="Version number. [the one before --to]")] = 0,
    new: Annotated[int, typer.Option("--to", help="Version number. [live]")] = 0,
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    as_json: Json = False,
) -> None:
    """Show what differs between two versions, by fields.

    Example: voxplane agents diff interview --from 3 --to 5
    """

    async def use(client: Client) -> tuple[agent_pb2.AgentVersion, agent_pb2.AgentVersion]:
        after = await _version(client, tenant, agent, new, LIVE)
        before = old or after.number - 1
        if before < 1:
            raise UsageError(f"v{after.number} is the first version; give --from and --to")
        return await _version(client, tenant, agent, before, LIVE), after

    before, after = call(server, as_json, use)
    changes = field_changes(before.config, after.config)
    if as_json:
        print_json([{"path": c.path, "old": c.old, "new": c.new} for c in changes])
        return
    out.print(f"[bold]{agent} v{before.number} → v{after.number}[/]")
    for change in changes:
        _print_field(change)
    if not changes:
        out.print("no difference")


@app.command()
@connecting
def render(
    agent: AgentId,
    var: Annotated[
        list[str] | None, typer.Option("--var", help="A variable, as name=value; repeatable.")
    ] = None,
    version: Annotated[int, typer.Option("--version", help="A version by number; else by --alias.")] = 0,
    alias: Annotated[str, typer.Option("--alias", help="A version by alias.")] = LIVE,
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    as_json: Json = False,
) -> None:
    """Show the prompt as a call would get it.

    Example: voxplane agents render interview --var candidate=Ada
    """

    async def use(client: Client) -> pb2.RenderPromptResponse:
        request = pb2.RenderPromptRequest(tenant_id=tenant, agent_id=agent, variables=variables(var or []))
        if version:
            request.number = version
        else:
            request.alias = alias
        return await client.agents.RenderPrompt(request, timeout=CALL_SECONDS_MAX)

    answer = call(server, as_json, use)
    if as_json:
        print_json(to_dict(answer))
    else:
        typer.echo(answer.instructions)


def variables(given: list[str]) -> dict[str, str]:
    """The variables of --var options. Raises UsageError."""
    parsed: dict[str, str] = {}
    for one in given:
        name, found, value = one.partition("=")
        if not found or not name:
            raise UsageError(f"--var {one}: give name=value")
        parsed[name] = value
    return parsed


async def _version(
    client: Client, tenant: str, agent: str, number: int, alias: str
) -> agent_pb2.AgentVersion:
    request = pb2.GetAgentVersionRequest(tenant_id=tenant, agent_id=agent)
    if number:
        request.number = number
    else:
        request.alias = alias
    return (await client.agents.GetAgentVersion(request, timeout=CALL_SECONDS_MAX)).version


def _print_field(change: FieldChange) -> None:
    before, after = _lines(change.old), _lines(change.new)
    if len(before) < 2 and len(after) < 2:
        old, new = (escape("".join(lines)) or "unset" for lines in (before, after))
        out.print(f"[bold]{escape(change.path)}[/]  [red]{old}[/] → [green]{new}[/]")
        return
    out.print(f"[bold]{escape(change.path)}[/]")
    for line in list(difflib.unified_diff(before, after, n=1, lineterm=""))[2:]:
        colour = {"-": "red", "+": "green", "@": "cyan"}.get(line[:1], "")
        out.print(f"  [{colour}]{escape(line)}[/]" if colour else f"  {escape(line)}")


def _lines(value: Any) -> list[str]:
    if value is None:
        return []
    return (value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)).splitlines()


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)  # pyright: ignore[reportUnknownMemberType]


_Dumper.add_representer(str, _text)


def _yaml(values: dict[str, Any]) -> str:
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
