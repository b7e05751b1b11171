"""`voxplane agents`: configs as files, versions, aliases."""

from __future__ import annotations

import difflib
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer
import yaml
from rich.markup import escape
from rich.table import Table

from voxplane.cli.connect import CALL_SECONDS_MAX, DEFAULT_SERVER, Client, Json, Server, Tenant, call
from voxplane.cli.failures import UsageError
from voxplane.cli.files import SHORT_TYPES, read_config, read_field
from voxplane.cli.output import out, print_json, to_dict
from voxplane.configdiff import FieldChange, field_changes
from voxplane.names import LIVE
from voxplane.v1 import agent_pb2, schema_pb2
from voxplane.v1 import agent_service_pb2 as pb2

PAGE = 1000
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Agents, their versions and aliases.")

AgentId = Annotated[str, typer.Argument(metavar="AGENT", help="The agent's id.")]
File = Annotated[str, typer.Option("--file", "-f", help="YAML or JSON file; - for stdin.")]
Note = Annotated[str, typer.Option("--note", help="Why, for the history.")]
Alias = Annotated[str, typer.Option("--alias", help="The alias to move.")]
Etag = Annotated[str, typer.Option("--etag", help="Refuse if the agent has another etag.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and answer, but change nothing.")]


@app.command("list")
def list_agents(
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    deleted: Annotated[bool, typer.Option("--deleted", help="Show deleted agents too.")] = False,
    as_json: Json = False,
) -> None:
    """List the tenant's agents.

    Example: voxplane agents list --tenant demo
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
def create(
    agent: AgentId,
    file: File,
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    display_name: Annotated[str, typer.Option("--display-name", help="Name for people.")] = "",
    note: Note = "",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Create an agent from a file.

    Example: voxplane agents create interview -f interview.yaml
    """

    async def use(client: Client) -> pb2.CreateAgentResponse:
        request = pb2.CreateAgentRequest(
            tenant_id=tenant,
            agent_id=agent,
            config=read_config(file),
            display_name=display_name,
            note=note,
            validate_only=dry_run,
        )
        return await client.agents.CreateAgent(request, timeout=CALL_SECONDS_MAX)

    _print_change(call(server, as_json, use), as_json, dry_run)


@app.command()
def update(
    agent: AgentId,
    file: File,
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    mask: Annotated[
        list[str] | None,
        typer.Option("--mask", help="Path to change, such as llm_config.model; repeatable. Else all."),
    ] = None,
    alias: Alias = LIVE,
    draft: Annotated[bool, typer.Option("--draft", help="Make a version that no alias points at.")] = False,
    note: Note = "",
    etag: Etag = "",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Publish a new version from a file.

    Example: voxplane agents update interview -f interview.yaml --note "kinder"
    """

    async def use(client: Client) -> pb2.UpdateAgentConfigResponse:
        request = pb2.UpdateAgentConfigRequest(
            tenant_id=tenant,
            agent_id=agent,
            config=read_config(file),
            alias=alias,
            draft=draft,
            note=note,
            etag=etag,
            validate_only=dry_run,
        )
        request.update_mask.paths.extend(mask or [])
        return await client.agents.UpdateAgentConfig(request, timeout=CALL_SECONDS_MAX)

    _print_change(call(server, as_json, use), as_json, dry_run)


@app.command()
def delete(
    agent: AgentId, server: Server = DEFAULT_SERVER, tenant: Tenant = "demo", as_json: Json = False
) -> None:
    """Take an agent out of use; `undelete` brings it back.

    Example: voxplane agents delete interview
    """

    async def use(client: Client) -> pb2.DeleteAgentResponse:
        request = pb2.DeleteAgentRequest(tenant_id=tenant, agent_id=agent)
        return await client.agents.DeleteAgent(request, timeout=CALL_SECONDS_MAX)

    _print_agent(call(server, as_json, use), as_json, "deleted")


@app.command()
def undelete(
    agent: AgentId, server: Server = DEFAULT_SERVER, tenant: Tenant = "demo", as_json: Json = False
) -> None:
    """Bring a deleted agent back.

    Example: voxplane agents undelete interview
    """

    async def use(client: Client) -> pb2.UndeleteAgentResponse:
        request = pb2.UndeleteAgentRequest(tenant_id=tenant, agent_id=agent)
        return await client.agents.UndeleteAgent(request, timeout=CALL_SECONDS_MAX)

    _print_agent(call(server, as_json, use), as_json, "in use")


@app.command("add-field")
def add_field(
    agent: AgentId,
    name: Annotated[str, typer.Argument(help="The field's name; left out with --file.")] = "",
    field_type: Annotated[
        str,
        typer.Argument(
            metavar="[TYPE]", help="string, integer, number, boolean, or short: str, int, float, bool."
        ),
    ] = "string",
    file: Annotated[str, typer.Option("--file", "-f", help="The whole field, as YAML or JSON.")] = "",
    description: Annotated[str, typer.Option("--description", help="Told to the model.")] = "",
    required: Annotated[bool, typer.Option("--required", help="The model must give a value.")] = False,
    use_in_tts: Annotated[bool, typer.Option("--use-in-tts", help="The value is spoken.")] = False,
    position: Annotated[int | None, typer.Option("--position", help="Where, from 0. [last]")] = None,
    alias: Alias = LIVE,
    note: Note = "",
    dry_run: DryRun = False,
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    as_json: Json = False,
) -> None:
    """Add a field to the reply of a live agent.

    Example: voxplane agents add-field interview mood str --description "The caller's mood"
    """

    async def use(client: Client) -> pb2.AddSchemaFieldResponse:
        if bool(name) == bool(file):
            raise UsageError("give either a name or --file")
        field = read_field(file) if file else _field(name, field_type, description, required, use_in_tts)
        request = pb2.AddSchemaFieldRequest(
            tenant_id=tenant,
            agent_id=agent,
            field=field,
            position=position,
            alias=alias,
            note=note,
            validate_only=dry_run,
        )
        return await client.agents.AddSchemaField(request, timeout=CALL_SECONDS_MAX)

    _print_change(call(server, as_json, use), as_json, dry_run)


def _field(
    name: str, field_type: str, description: str, required: bool, use_in_tts: bool
) -> schema_pb2.SchemaField:
    field = schema_pb2.SchemaField(
        field_name=name,
        field_type=SHORT_TYPES.get(field_type, field_type),
        description=description,
        required=required,
    )
    if use_in_tts:
        field.metadata.use_in_tts = True
    return field


@app.command("remove-field")
def remove_field(
    agent: AgentId,
    name: Annotated[str, typer.Argument(help="The field's name.")],
    alias: Alias = LIVE,
    note: Note = "",
    dry_run: DryRun = False,
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    as_json: Json = False,
) -> None:
    """Remove a field from the reply of a live agent.

    Example: voxplane agents remove-field interview mood
    """

    async def use(client: Client) -> pb2.RemoveSchemaFieldResponse:
        request = pb2.RemoveSchemaFieldRequest(
            tenant_id=tenant, agent_id=agent, field_name=name, alias=alias, note=note, validate_only=dry_run
        )
        return await client.agents.RemoveSchemaField(request, timeout=CALL_SECONDS_MAX)

    _print_change(call(server, as_json, use), as_json, dry_run)


@app.command("set-tracing")
def set_tracing(
    agent: AgentId,
    enabled: Annotated[bool, typer.Option("--on/--off", help="Whether sessions are traced.")],
    sample_rate: Annotated[
        float | None, typer.Option("--sample-rate", help="Share of the sessions, 0 to 1.")
    ] = None,
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    as_json: Json = False,
) -> None:
    """Switch tracing of an agent's sessions.

    Example: voxplane agents set-tracing interview --on --sample-rate 0.1
    """

    async def use(client: Client) -> pb2.SetTracingResponse:
        request = pb2.SetTracingRequest(
            tenant_id=tenant, agent_id=agent, enabled=enabled, sample_rate=sample_rate
        )
        return await client.agents.SetTracing(request, timeout=CALL_SECONDS_MAX)

    _print_change(call(server, as_json, use), as_json, dry_run=False)


@app.command("set-alias")
def set_alias(
    agent: AgentId,
    alias: Annotated[str, typer.Argument(help="The alias; made if need be.")],
    version: Annotated[int, typer.Argument(help="The version's number.")],
    etag: Etag = "",
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    as_json: Json = False,
) -> None:
    """Point an alias at a version.

    Example: voxplane agents set-alias interview staging 4
    """

    async def use(client: Client) -> pb2.SetAliasResponse:
        request = pb2.SetAliasRequest(
            tenant_id=tenant, agent_id=agent, alias=alias, version=version, etag=etag
        )
        return await client.agents.SetAlias(request, timeout=CALL_SECONDS_MAX)

    _print_agent(call(server, as_json, use), as_json, f"{alias} → v{version}")


@app.command()
def rollback(
    agent: AgentId,
    alias: Alias = LIVE,
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    as_json: Json = False,
) -> None:
    """Point an alias at the version that it pointed at before.

    Example: voxplane agents rollback interview
    """

    async def use(client: Client) -> pb2.RollbackAliasResponse:
        request = pb2.RollbackAliasRequest(tenant_id=tenant, agent_id=agent, alias=alias)
        return await client.agents.RollbackAlias(request, timeout=CALL_SECONDS_MAX)

    answer = call(server, as_json, use)
    if as_json:
        print_json(to_dict(answer))
    else:
        out.print(f"{agent}: {alias} → v{answer.version.number} (revision {answer.revision.number})")


@app.command()
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


def _print_change(
    answer: (
        pb2.CreateAgentResponse
        | pb2.UpdateAgentConfigResponse
        | pb2.AddSchemaFieldResponse
        | pb2.RemoveSchemaFieldResponse
        | pb2.SetTracingResponse
    ),
    as_json: bool,
    dry_run: bool,
) -> None:
    if as_json:
        print_json(to_dict(answer))
        return
    pointing = [name for name, a in answer.agent.aliases.items() if a.version == answer.version.number]
    made = "would be" if dry_run else "is"
    out.print(
        f"{answer.agent.agent_id}: v{answer.version.number} {made} {', '.join(sorted(pointing)) or 'a draft'}"
        f" (revision {answer.revision.number})"
    )


def _print_agent(
    answer: pb2.DeleteAgentResponse | pb2.UndeleteAgentResponse | pb2.SetAliasResponse,
    as_json: bool,
    said: str,
) -> None:
    if as_json:
        print_json(to_dict(answer))
    else:
        out.print(f"{answer.agent.agent_id}: {said} (revision {answer.revision.number})")


def _print_field(change: FieldChange) -> None:
    out.print(f"[bold]{escape(change.path)}[/]")
    before, after = _lines(change.old), _lines(change.new)
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
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def _yaml(values: dict[str, Any]) -> str:
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
