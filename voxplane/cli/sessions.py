"""`voxplane sessions`: calls and chats, those that run and those that are over."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Annotated

import grpc
import typer
from rich.console import Console
from rich.markup import escape

from voxplane.cli import session_commands
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
from voxplane.cli.session_commands import SessionId
from voxplane.cli.session_tables import change_line, session_lines, sessions_table, turns_table
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as pb2

PAGE = 1000
BACK_OFF_SECONDS_MIN = 0.25
BACK_OFF_SECONDS_MAX = 5.0
_COME_AGAIN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Calls and chats.")
app.add_typer(session_commands.app)


class State(StrEnum):
    """What --state takes."""

    active = "active"
    ended = "ended"
    lost = "lost"


_STATES = {
    State.active: session_pb2.SESSION_STATE_ACTIVE,
    State.ended: session_pb2.SESSION_STATE_ENDED,
    State.lost: session_pb2.SESSION_STATE_LOST,
}


@app.command("list")
@connecting
def list_sessions(
    agent: Annotated[str, typer.Option("--agent", help="Only this agent's.")] = "",
    state: Annotated[State | None, typer.Option("--state", help="Only those in this state.")] = None,
    version: Annotated[int, typer.Option("--version", min=0, help="Only those of this version.")] = 0,
    node: Annotated[str, typer.Option("--node", help="Only those on this node.")] = "",
    user: Annotated[str, typer.Option("--user", help="Only this user's.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most sessions to show.")] = 50,
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    as_json: Json = False,
) -> None:
    """List the tenant's sessions, newest first.

    Example: voxplane sessions list --state active --agent interview
    """

    async def use(client: Client) -> list[session_pb2.Session]:
        found: list[session_pb2.Session] = []
        request = pb2.ListSessionsRequest(
            tenant_id=tenant, agent_id=agent, version=version, node_id=node, user_id=user
        )
        if state is not None:
            request.state = _STATES[state]
        while len(found) < limit:
            request.page_size = min(limit - len(found), PAGE)
            answer = await client.sessions.ListSessions(request, timeout=CALL_SECONDS_MAX)
            found += answer.sessions
            request.page_token = answer.next_page_token
            if not request.page_token:
                break
        return found

    sessions = call(server, as_json, use)
    if as_json:
        print_json([to_dict(session) for session in sessions])
    else:
        out.print(sessions_table(sessions))


@app.command()
@connecting
def show(
    session: SessionId, server: Server = DEFAULT_SERVER, tenant: Tenant = "demo", as_json: Json = False
) -> None:
    """Show a session and its turns: what made each, and how long it took.

    Example: voxplane sessions show AJ_x2Kd9
    """

    async def use(client: Client) -> pb2.GetSessionResponse:
        request = pb2.GetSessionRequest(tenant_id=tenant, session_id=session)
        return await client.sessions.GetSession(request, timeout=CALL_SECONDS_MAX)

    answer = call(server, as_json, use)
    if as_json:
        print_json(to_dict(answer))
        return
    for line in session_lines(answer.session):
        out.print(line)
    if answer.turns:
        out.print(turns_table(answer.turns))


@app.command()
@connecting
def watch(
    agent: Annotated[str, typer.Option("--agent", help="Only this agent's sessions.")] = "",
    count: Annotated[int, typer.Option("--count", min=0, help="End after so many changes. [never]")] = 0,
    server: Server = DEFAULT_SERVER,
    tenant: Tenant = "demo",
    as_json: Json = False,
) -> None:
    """Show the sessions that run, and then every one that changes.

    When the server goes away the watch comes back, and shows all that run anew.

    Example: voxplane sessions watch --agent interview
    """

    async def use(client: Client) -> None:
        changes, synced = 0, False
        async for message in _messages(client, pb2.WatchSessionsRequest(tenant_id=tenant, agent_id=agent)):
            if as_json:
                print_json(to_dict(message))
            else:
                _print(message)
            changes += synced and message.HasField("changed")
            synced = synced or message.HasField("synced")
            if count and changes >= count:
                return

    call(server, as_json, use)


async def _messages(
    client: Client, request: pb2.WatchSessionsRequest
) -> AsyncIterator[pb2.WatchSessionsResponse]:
    """The messages of one stream after the other. Raises what the server has
    against the first, or against a later one for good."""
    notes = Console(stderr=True, highlight=False)
    attempt, served = 0, False
    while True:
        try:
            async for message in client.sessions.WatchSessions(request):
                attempt, served = 0, True
                yield message
        except grpc.aio.AioRpcError as error:
            if not served or error.code() not in _COME_AGAIN:
                raise
            notes.print(f"[dim]{escape(error.details() or error.code().name)}[/]")
        longest = min(BACK_OFF_SECONDS_MAX, BACK_OFF_SECONDS_MIN * 2**attempt)
        attempt += 1
        await asyncio.sleep(random.uniform(0, longest))


def _print(message: pb2.WatchSessionsResponse) -> None:
    match message.WhichOneof("event"):
        case "changed":
            out.print(change_line(message.changed.session, message.changed.turns))
        case "synced":
            running = message.synced.sessions
            out.print(f"[dim]{running} session{'s' * (running != 1)} running; changes follow[/]")
        case _:
            pass
