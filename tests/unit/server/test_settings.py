"""Settings: where they come from, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from pydantic import ValidationError
from typer.testing import CliRunner

from control_plane.server import command
from control_plane.settings import is_loopback, load_settings


def test_flags_before_environment_before_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag wins over the environment, and that over the file."""
    file = tmp_path / "voxplane.toml"
    file.write_text('grpc_listen = "127.0.0.1:1"\nlog_level = "debug"\nstore = "memory"\n')
    monkeypatch.setenv("VOXPLANE_GRPC_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("VOXPLANE_LOG_LEVEL", "warning")
    made = load_settings({"grpc_listen": "127.0.0.1:3", "log_format": None}, file)
    assert (made.grpc_listen, made.log_level, made.store) == ("127.0.0.1:3", "warning", "memory")
    assert (made.log_format, made.data_dir) == ("json", Path(".voxplane"))


def test_a_setting_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """A slip in the file is an error, and not ignored."""
    file = tmp_path / "voxplane.toml"
    file.write_text("data_dri = 'x'\n")
    with pytest.raises(ValidationError, match="data_dri"):
        load_settings({}, file)


@pytest.mark.parametrize("listen", ["0.0.0.0:50051", "[::]:50051", "10.0.0.1:1", "example.org:1"])
def test_other_machines_are_kept_out(listen: str) -> None:
    """An address that others can reach needs --insecure in so many words."""
    with pytest.raises(ValidationError, match="neither TLS nor authentication"):
        load_settings({"grpc_listen": listen})
    assert load_settings({"grpc_listen": listen, "insecure": True}).grpc_listen == listen


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:1", "[::1]:1", "127.9.9.9:1", "unix:/tmp/s"])
def test_this_machine_is_safe(listen: str) -> None:
    """Loopback and Unix sockets need no word."""
    assert is_loopback(listen)


def run(*arguments: str) -> tuple[int, str]:
    """Run the command's own part, and return its exit code and output."""
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_the_command_explains_what_it_refuses(tmp_path: Path) -> None:
    """Bad settings end the command with 2 and one line each, without a traceback."""
    code, output = run("--grpc-listen", "0.0.0.0:1")
    assert (code, "say --insecure" in output, "Traceback" in output) == (2, True, False)
    code, output = run("--store", "paper")
    assert code == 2
    assert "store: Input should be 'sqlite' or 'memory'" in output
    code, output = run("--config", str(tmp_path / "none.toml"))
    assert (code, "cannot read" in output) == (2, True)


def test_help_has_an_example() -> None:
    """--help shows each flag and a line to copy."""
    code, output = run("--help")
    assert code == 0
    for part in ("--grpc-listen", "--data-dir", "--insecure", "Example: voxplane serve"):
        assert part in output


def test_a_port_that_cannot_be_is_refused() -> None:
    """The resolver would listen on what is left of a larger port."""
    with pytest.raises(ValidationError, match="at most 65535"):
        load_settings({"grpc_listen": "127.0.0.1:99999"})
