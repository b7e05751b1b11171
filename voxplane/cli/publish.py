"""The commands of `voxplane agents` that change something."""

from __future__ import annotations

from typing import Annotated

import typer

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
from voxplane.cli.files import SHORT_TYPES, change_of, read_config, read_field
from voxplane.cli.output import out, print_json, to_dict
from voxplane.names import LIVE
from voxplane.v1 import agent_service_pb2 as pb2
from voxplane.v1 import schema_pb2

app = typer.Typer()

AgentId = Annotated[str, typer.Argument(metavar="AGENT", help="The agent's id.")]
File = Annotated[str, typer.Option("--file", "-f", help="YAML or JSON file; - for stdin.")]
Note = Annotated[str, typer.Option("--note", help="Why, for the history.")]
Alias = Annotated[str, typer.Option("--alias", help="The alias to move.")]
Etag = Annotated[str, typer.Option("--etag", help="Refuse if the agent has another etag.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and answer, but change nothing.")]


@app.command()
@connecting
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
@connecting
def update(
    agent: AgentId,
    file: Annotated[str, typer.Option("--file", "-f", help="YAML or JSON file; - for stdin.")] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change this path alone; repeatable, without -f."),
    ] = None,
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
    """Publish a new version, from a file or by single values.

    A file replaces the whole config, or the paths of --mask.

    Example: voxplane agents update interview -f interview.yaml --note "kinder"

    Example: voxplane agents update interview --set llm_config.temperature=0.2
    """

    async def use(client: Client) -> pb2.UpdateAgentConfigResponse:
        if bool(file) == bool(settings):
            raise UsageError("give either a file by -f or values by --set")
        config, paths = (read_config(file), mask or []) if file else change_of(settings or [])
        request = pb2.UpdateAgentConfigRequest(
            tenant_id=tenant,
            agent_id=agent,
            config=config,
            alias=alias,
            draft=draft,
            note=note,
            etag=etag,
            validate_only=dry_run,
        )
        request.update_mask.paths.extend(paths)
        return await client.agents.UpdateAgentConfig(request, timeout=CALL_SECONDS_MAX)

    _print_change(call(server, as_json, use), as_json, dry_run)


@app.command()
@connecting
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
@connecting
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
@connecting
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
@connecting
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
@connecting
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
@connecting
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
@connecting
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
