"""All commands in one place."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from voxplane.cli import agents, chat, failures, nodes, sides, watch

app = typer.Typer(
    name="voxplane",
    help="The control plane for LiveKit voice agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command(context_settings=sides.FORWARD)(sides.serve)
app.command(context_settings=sides.FORWARD)(sides.node)
app.command("chat")(chat.command)
app.add_typer(agents.app, name="agents")
app.command("watch")(watch.command)
app.add_typer(nodes.app, name="nodes")
app.command("wait")(nodes.wait)


def main() -> None:
    """Run the command line; never returns."""
    try:
        app()
    except (failures.UsageError, failures.CommandError) as error:
        failure = failures.failure_of(error)
        assert failure is not None
        failures.show(failure, Console(stderr=True), as_json=False)
        sys.exit(failure.exit_code)
