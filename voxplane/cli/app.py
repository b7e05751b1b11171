"""All commands in one place."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console

from voxplane.cli import agents, chat, dev, failures, fleet, local_node, nodes, sessions, sides, watch
from voxplane.cli.children import END_WITH_STDIN, end_with_stdin

app = typer.Typer(
    name="voxplane",
    help="The control plane for LiveKit voice agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command(context_settings=sides.FORWARD)(sides.serve)
app.command(context_settings=sides.FORWARD)(sides.store)
app.command(context_settings=sides.FORWARD)(sides.node)
app.command("demo-livekit", hidden=True, context_settings=sides.FORWARD)(sides.demo_livekit)
app.command("demo-call", hidden=True, context_settings=sides.FORWARD)(sides.demo_call)
app.command("dev")(dev.command)
app.command("chat")(chat.command)
app.add_typer(agents.app, name="agents")
app.command("watch")(watch.command)
nodes.app.command("fleet")(fleet.command)
nodes.app.command("local")(local_node.command)
app.add_typer(nodes.app, name="nodes")
app.add_typer(sessions.app, name="sessions")
app.command("wait")(nodes.wait)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("voxplane"))
        raise typer.Exit


@app.callback()
def root(
    with_stdin: Annotated[
        bool, typer.Option(END_WITH_STDIN, hidden=True, help="End when standard input does.")
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """The control plane for LiveKit voice agents."""
    if with_stdin:
        end_with_stdin()


def main() -> None:
    """Run the command line; never returns."""
    try:
        app()
    except (failures.UsageError, failures.CommandError) as error:
        failure = failures.failure_of(error)
        assert failure is not None
        failures.show(failure, Console(stderr=True), as_json=False)
        sys.exit(failure.exit_code)
