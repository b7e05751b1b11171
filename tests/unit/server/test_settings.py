"""Settings: where they come from, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
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


def test_the_edge_has_its_default_beside_grpcs_own() -> None:
    """Who moves one listener says where the other is."""
    assert load_settings({}).edge == "127.0.0.1:50052"
    assert load_settings({"grpc_listen": "127.0.0.1:1"}).edge == ""
    assert load_settings({"grpc_listen": "127.0.0.1:1", "edge_listen": "127.0.0.1:2"}).edge == "127.0.0.1:2"
    assert load_settings({"edge_listen": "none"}).edge == ""
    with pytest.raises(ValidationError, match="at most 65535"):
        load_settings({"edge_listen": "127.0.0.1:99999"})


def test_other_machines_reach_the_edge_over_tls_alone(tmp_path: Path) -> None:
    """No word makes the edge speak without TLS to other machines."""
    beyond = {"edge_listen": "0.0.0.0:50052", "insecure": True}
    with pytest.raises(ValidationError, match="takes TLS alone"):
        load_settings(beyond)
    tls = {"tls_cert": tmp_path / "cert", "tls_key": tmp_path / "key"}
    assert load_settings(beyond | tls).edge == "0.0.0.0:50052"
    with pytest.raises(ValidationError, match="no authentication"):
        load_settings({"grpc_listen": "0.0.0.0:1", **tls})
    assert load_settings({"grpc_listen": "0.0.0.0:1", **tls, "tls_client_ca": tmp_path / "ca"})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tls_cert": "cert"}, "given together"),
        ({"tls_key": "key"}, "given together"),
        ({"tls_client_ca": "ca"}, "needs tls_cert"),
    ],
)
def test_half_a_certificate_is_refused(given: dict[str, str], says: str) -> None:
    """A certificate is a file and its key; what is asked of clients is nothing
    without them."""
    with pytest.raises(ValidationError, match=says):
        load_settings(given)


def serve(*arguments: str) -> tuple[int, str]:
    """Exit code and output of `voxplane serve`, in a process of its own: it sets the logs of its process."""
    words = (sys.executable, "-m", "voxplane", "serve", *arguments)
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    return ran.returncode, ran.stdout + ran.stderr


def test_a_certificate_that_cannot_be_used_is_explained(tmp_path: Path) -> None:
    """The command names the files and says what is wrong, without a traceback."""
    (tmp_path / "cert").write_text("no certificate")
    (tmp_path / "key").write_text("no key")
    files = ("--tls-cert", str(tmp_path / "cert"), "--tls-key", str(tmp_path / "key"))
    code, output = serve("--grpc-listen", "127.0.0.1:0", "--store", "memory", *files)
    assert (code, "voxplane serve: " in output, "Traceback" in output) == (1, True, False)
    assert str(tmp_path / "cert") in output
    code, output = serve(
        "--grpc-listen", "127.0.0.1:0", "--store", "memory", "--tls-cert", "/none", "--tls-key", "/none"
    )
    assert (code, "No such file" in output) == (1, True)
