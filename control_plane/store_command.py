"""`voxplane store`: backups of the log, and a look into it."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from control_plane.server import DATABASE
from control_plane.settings import load_settings
from control_plane.store import StoreError
from control_plane.store.backup import Report, back_up, check, forget_epoch, restore

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Back up the log of the control plane, put a backup back, and look whether it is sound.",
)

DataDir = Annotated[Path | None, typer.Option(help="The server's folder. Default: .voxplane.")]
Config = Annotated[Path | None, typer.Option(help="The server's TOML file, for its data_dir.")]


@app.command("backup")
def backup_command(
    path: Annotated[Path, typer.Argument(help="The file to make; it must not be there.")],
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Copy the log into one file, as it is at one moment, and check the copy.

    The server may run meanwhile, and is not held up.

    Example: voxplane store backup /backups/monday.db --data-dir ./data
    """
    with _failures("backup"):
        _show(back_up(_database(data_dir, config), path))


@app.command("restore")
def restore_command(
    path: Annotated[Path, typer.Argument(help="The backup, or any copy of a log.")],
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Put a backup in place of the log. The server must be stopped.

    The backup is checked first, and the log that was there is kept beside it
    under another name. When the server starts all clients take everything anew.

    Example: voxplane store restore /backups/monday.db --data-dir ./data
    """
    with _failures("restore"):
        report, aside = restore(path, _database(data_dir, config))
        _show(report)
        if aside is not None:
            typer.echo(f"the log that was there is now {aside}; delete it when you need it no more")


@app.command("check")
def check_command(
    path: Annotated[
        Path | None, typer.Argument(help="A backup. Without it: the log in the server's folder.")
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Go over a log or a backup: its pages, and the chain of hashes from each
    tenant's first entry to its last. Exit code 1 if anything is wrong.

    The server may run meanwhile. Nothing is changed.

    Example: voxplane store check --data-dir ./data
    """
    with _failures("check"):
        report = check(path or _database(data_dir, config))
        _show(report)
        if report.findings.problems:
            raise StoreError(f"{report.path} is damaged")


@app.command("new-epoch")
def new_epoch_command(data_dir: DataDir = None, config: Config = None) -> None:
    """Have all clients take everything anew when the server starts. It must be
    stopped.

    For a volume or a machine that was set back as a whole: nothing on the disk
    tells of that, and clients that are ahead of the log are refused.

    Example: voxplane store new-epoch --data-dir ./data
    """
    with _failures("new-epoch"):
        database = _database(data_dir, config)
        forget_epoch(database)
        typer.echo(f"{database} gets a new epoch when the server starts")


def _database(data_dir: Path | None, config: Path | None) -> Path:
    settings = load_settings({"data_dir": data_dir}, config)
    return settings.data_dir / DATABASE


def _show(report: Report) -> None:
    found = report.findings
    typer.echo(f"{report.path}")
    if report.copy_of:
        moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(report.copied))
        typer.echo(f"  a copy of {moment}, of epoch {report.copy_of}")
    typer.echo(f"  epoch     {report.epoch or 'the next start makes one'}")
    typer.echo(f"  tenants   {found.tenants}")
    typer.echo(f"  commits   {found.commits}, {found.entries} of them kept as history")
    typer.echo(f"  size      {report.size:,} bytes, journal {report.journal_size:,}")
    for problem in found.problems:
        typer.echo(f"  damaged:  {problem}")
    if not found.problems:
        typer.echo("  sound: each entry follows the one before it, from the first to the head")


@contextmanager
def _failures(name: str) -> Generator[None]:
    try:
        yield
    except StoreError as error:
        typer.echo(f"voxplane store {name}: {error}", err=True)
        raise typer.Exit(1) from error
    except (ValidationError, OSError, ValueError) as error:
        typer.echo(f"voxplane store {name}: {error}", err=True)
        raise typer.Exit(2) from error
