"""The command `voxplane chat` and the course of a session."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from voxplane.cli.agents import variables
from voxplane.cli.chat.lines import Lines, piped_lines, terminal_lines
from voxplane.cli.chat.screen import JsonScreen, PlainScreen, Screen, TerminalScreen
from voxplane.cli.chat.session import LEAVE_SECONDS_MAX, ChatSession, open_session, relay_socket
from voxplane.cli.connect import DEFAULT_DATA_DIR, Json, Tenant, run
from voxplane.cli.failures import CommandError
from voxplane.names import LIVE
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2


def command(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="The agent to talk to.")],
    tenant: Tenant = "demo",
    user: Annotated[str, typer.Option("--user", help="Who talks; the prompt's user_id.")] = "",
    var: Annotated[
        list[str] | None, typer.Option("--var", help="A variable of the prompt, NAME=VALUE; repeatable.")
    ] = None,
    alias: Annotated[str, typer.Option("--alias", help="The alias to follow.")] = LIVE,
    data_dir: Annotated[
        Path, typer.Option("--data-dir", envvar="VOXPLANE_DATA_DIR", help="Folder of the node.")
    ] = DEFAULT_DATA_DIR,
    node_socket: Annotated[
        Path | None,
        typer.Option("--node-socket", envvar="VOXPLANE_NODE_SOCKET", help="The node's socket, elsewhere."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Talk to an agent by text, on a node of this machine.

    The prompt shows the version in force; a change that is made meanwhile is
    announced, and made the next reply. Ctrl-D or Ctrl-C hangs up.

    Example: voxplane chat interview --user ada --var candidate_name=Ada
    """

    async def session() -> None:
        caller = relay_pb2.CallerContext(
            tenant_id=tenant, agent_id=agent, user_id=user, alias=alias, variables=variables(var or [])
        )
        async with open_session(relay_socket(data_dir, node_socket), caller) as opened:
            await _converse(opened, agent, as_json)

    run(session(), as_json=as_json)


async def _converse(session: ChatSession, agent: str, as_json: bool) -> None:
    """Until the user hangs up. Raises CommandError if the session ends before."""
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
    screen = _screen(agent, as_json, at_terminal)
    screen.happened(relay_pb2.ChatResponse(opened=session.opened), session.opened.version)
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    with _lines(at_terminal) as lines:
        talk = Conversation(session, screen)
        ending = asyncio.create_task(interrupted.wait())
        listening = asyncio.create_task(talk.listen())
        typing = asyncio.create_task(talk.type(lines))
        try:
            await asyncio.wait({ending, listening, typing}, return_when=asyncio.FIRST_COMPLETED)
            if typing.done() and not interrupted.is_set():
                typing.result()
                await session.hang_up()
                await asyncio.wait(
                    {listening, ending}, timeout=LEAVE_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED
                )
            elif listening.done() and not interrupted.is_set():
                listening.result()
                raise CommandError("the node ended the session", "open another one")
        finally:
            for task in (ending, listening, typing):
                task.cancel()
            screen.close()
    if at_terminal:
        sys.stdout.write("\n")


class Conversation:
    """A session between a screen and a keyboard: one message at a time."""

    def __init__(self, session: ChatSession, screen: Screen) -> None:
        self._session = session
        self._screen = screen
        self._version = session.opened.version
        self._idle = asyncio.Event()
        self._idle.set()

    async def listen(self) -> None:
        """Show what happens, until the session has ended."""
        while (event := await self._session.receive()) is not None:
            match event.WhichOneof("event"):
                case "swap" if event.swap.phase == sync_pb2.CONFIG_PHASE_APPLIED:
                    self._version = event.swap.to_version
                case _:
                    pass
            self._screen.happened(event, self._version)
            if event.HasField("turn"):
                self._idle.set()

    async def type(self, lines: Lines) -> None:
        """Send what the user types, until there is no more."""
        while True:
            await self._idle.wait()
            prompt = self._screen.prompt(self._version)
            line = await lines.next(prompt)
            if line is None:
                return
            if text := line.strip():
                self._idle.clear()
                self._screen.asked(prompt, text)
                await self._session.say(text)


def _screen(agent: str, as_json: bool, at_terminal: bool) -> Screen:
    if as_json:
        return JsonScreen()
    console = Console(file=sys.stdout, highlight=False)
    if not at_terminal:
        return PlainScreen(console, agent)
    import readline

    return TerminalScreen(console, agent, readline.get_line_buffer)


def _lines(at_terminal: bool) -> AbstractContextManager[Lines]:
    return terminal_lines() if at_terminal else piped_lines()
