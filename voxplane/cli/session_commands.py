"""What `voxplane sessions` does to a session that runs."""

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
from voxplane.cli.output import out, print_json, to_dict
from voxplane.cli.session_tables import session_lines
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as pb2

app = typer.Typer()

SessionId = Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")]


@app.command()
@connecting
def end(
    session: SessionId,
    now: Annotated[bool, typer.Option("--now", help="Without a goodbye.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")] = "",
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    as_json: Json = False,
) -> None:
    """End a session, after a goodbye.

    Example: voxplane sessions end AJ_x2Kd9 --reason "the line is needed"
    """

    async def use(client: Client) -> session_pb2.Session:
        request = pb2.EndSessionRequest(tenant_id=tenant, session_id=session, now=now, reason=reason)
        return (await client.sessions.EndSession(request, timeout=CALL_SECONDS_MAX)).session

    _show(
        call(server, as_json, use), as_json=as_json, done="it ends" + (" now" if now else ", with a goodbye")
    )


@app.command()
@connecting
def pin(
    session: SessionId,
    version: Annotated[
        int, typer.Argument(min=0, help="The version to stay with; 0 to follow the alias again.")
    ],
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    as_json: Json = False,
) -> None:
    """Have a session stay with a version, or follow its alias again.

    Example: voxplane sessions pin AJ_x2Kd9 4
    """

    async def use(client: Client) -> session_pb2.Session:
        request = pb2.PinSessionRequest(tenant_id=tenant, session_id=session, version=version)
        return (await client.sessions.PinSession(request, timeout=CALL_SECONDS_MAX)).session

    done = f"it stays with v{version}" if version else "it follows its alias"
    _show(call(server, as_json, use), as_json=as_json, done=f"{done} from its next turn on")


@app.command()
@connecting
def trace(
    session: SessionId,
    enabled: Annotated[bool, typer.Option("--on/--off", help="Whether it is traced.")] = True,
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    as_json: Json = False,
) -> None:
    """Switch a session's traces.

    Example: voxplane sessions trace AJ_x2Kd9 --off
    """

    async def use(client: Client) -> session_pb2.Session:
        request = pb2.SetSessionTracingRequest(tenant_id=tenant, session_id=session, enabled=enabled)
        return (await client.sessions.SetSessionTracing(request, timeout=CALL_SECONDS_MAX)).session

    done = f"it is {'' if enabled else 'not '}traced from its next turn on"
    _show(call(server, as_json, use), as_json=as_json, done=done)


def _show(session: session_pb2.Session, *, as_json: bool, done: str) -> None:
    if as_json:
        print_json(to_dict(session))
        return
    out.print(f"[green]✓[/] {done}")
    for line in session_lines(session):
        out.print(line)
