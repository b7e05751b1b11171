"""`serve`, `store`, `node` and the demo's parts, which come from packages that this one must not import.

Each is an entry point of the group `voxplane.commands` and takes its own
options, so that a plain client starts without either side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer

from voxplane.cli.failures import UsageError

GROUP = "voxplane.commands"
_EXTRAS = {
    "serve": "server",
    "store": "server",
    "node": "node",
    "demo-livekit": "node",
    "demo-call": "node",
}

FORWARD: dict[str, Any] = {
    "allow_extra_args": True,
    "allow_interspersed_args": False,
    "ignore_unknown_options": True,
    "help_option_names": [],
}
"""Context settings of a command that hands all of its arguments on."""


def serve(context: typer.Context) -> None:
    """Run the control plane.

    Example: voxplane serve --grpc-listen 127.0.0.1:50051 --data-dir ./data
    """
    run_side("serve", context.args)


def store(context: typer.Context) -> None:
    """Back up the log of the control plane, restore it, and check it.

    Example: voxplane store backup /backups/monday.db --data-dir ./data
    """
    run_side("store", context.args)


def node(context: typer.Context) -> None:
    """Run an agent node.

    Example: voxplane node --server 127.0.0.1:50051 --data-dir ./data
    """
    run_side("node", context.args)


def demo_livekit(context: typer.Context) -> None:
    """Run a LiveKit server that keeps to this machine, for the demo."""
    run_side("demo-livekit", context.args)


def demo_call(context: typer.Context) -> None:
    """Call an agent, for the demo."""
    run_side("demo-call", context.args)


def load_side(name: str, found: Iterable[EntryPoint] | None = None) -> Callable[..., Any]:
    """The function or the typer app of a side, among the entry points that are installed or
    `found`. Raises UsageError if its extra is not installed."""
    need = f"`voxplane {name}` needs more packages: pip install 'voxplane[{_EXTRAS[name]}]'"
    for entry_point in entry_points(group=GROUP, name=name) if found is None else found:
        try:
            return entry_point.load()
        except ImportError as error:
            raise UsageError(f"{need} ({error})") from error
    raise UsageError(need)


def run_side(name: str, arguments: Sequence[str]) -> None:
    """Run a side with its own arguments; `--help` too is its own."""
    side = load_side(name)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    if isinstance(side, typer.Typer):
        app = side
    else:
        app.command()(side)
    app(args=list(arguments), prog_name=f"voxplane {name}")
