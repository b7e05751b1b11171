"""How a node is told what to do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer import Typer
from typer.testing import CliRunner

from agent_node.command import command
from agent_node.daemon import (
    LIVEKIT_ENV,
    ConfigurationError,
    Node,
    Stop,
    livekit_wanted,
    run_node,
    secrets_environment,
)
from agent_node.providers import SecretResolver, new_context
from agent_node.providers.secrets import allowed_by
from agent_node.relay import claim
from agent_node.settings import load_settings
from voxplane.errors import VoxplaneError


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VOXPLANE_SERVER", "VOXPLANE_ONLY_TENANT", "VOXPLANE_LABELS", *LIVEKIT_ENV):
        monkeypatch.delenv(name, raising=False)


def test_flags_win_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting comes from the strongest source that has it."""
    file = tmp_path / "node.toml"
    file.write_text('server = "file:1"\nonly_tenant = "file"\nidle_jobs = 7\nlabels = { zone = "a" }\n')
    monkeypatch.setenv("VOXPLANE_SERVER", "env:1")
    monkeypatch.setenv("VOXPLANE_ONLY_TENANT", "env")
    settings = load_settings({"server": "flag:1", "node_id": None}, file)
    assert (settings.server, settings.only_tenant, settings.idle_jobs) == ("flag:1", "env", 7)
    assert settings.labels == {"zone": "a"}


def test_labels_are_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels come as flags or as one line of the environment; what is no pair is refused."""
    assert load_settings({"labels": ["a=b", "c="]}).labels == {"a": "b", "c": ""}
    monkeypatch.setenv("VOXPLANE_LABELS", "a=b,c=d")
    assert load_settings({}).labels == {"a": "b", "c": "d"}
    with pytest.raises(ValidationError, match="key=value"):
        load_settings({"labels": ["nonsense"]})


def test_the_spool_of_sessions_has_a_bound(tmp_path: Path) -> None:
    """It cannot be turned off, and is below the node's folder."""
    settings = load_settings({"data_dir": tmp_path})
    assert settings.session_spool_mb == 64
    assert settings.session_folder == tmp_path / "node" / "sessions"
    with pytest.raises(ValidationError, match="session_spool_mb"):
        load_settings({"session_spool_mb": 0})


def test_metrics_stay_on_this_machine_unless_told() -> None:
    """Loopback needs no word, anything else needs --insecure; off is the default."""
    assert load_settings({}).metrics_address is None
    assert load_settings({"metrics_listen": "127.0.0.1:0"}).metrics_address == ("127.0.0.1", 0)
    assert load_settings({"metrics_listen": "[::1]:9"}).metrics_address == ("::1", 9)
    assert load_settings({"metrics_listen": "localhost:9"}).metrics_address == ("localhost", 9)
    for listen in ("0.0.0.0:9", "[::]:9", "192.0.2.1:9", "node.example:9"):
        with pytest.raises(ValidationError, match="--insecure"):
            load_settings({"metrics_listen": listen})
        assert load_settings({"metrics_listen": listen, "insecure": True}).metrics_address is not None


def test_the_allow_list_of_secrets_reaches_every_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the settings allow is what a resolver made in a job allows, and no more; the defaults are
    those of the resolver."""
    plain = allowed_by(secrets_environment(load_settings({})))
    assert plain.allowed_env_suffixes == SecretResolver().allowed_env_suffixes
    assert plain.allowed_env_names == SecretResolver().allowed_env_names
    assert plain.allowed_dirs == SecretResolver().allowed_dirs
    monkeypatch.setenv("VOXPLANE_SECRET_ENV_SUFFIXES", "")
    settings = load_settings({"secret_env_names": "MODEL_PASS,OTHER", "secret_dirs": ["/etc/keys"]})
    environ = {**secrets_environment(settings), "MODEL_PASS": "value", "X_API_KEY": "other"}
    made = allowed_by(environ)
    assert made.resolve("env:MODEL_PASS", "p") == "value"
    assert made.allowed_dirs == (Path("/etc/keys"),)
    with pytest.raises(VoxplaneError, match="does not hand out"):
        made.resolve("env:X_API_KEY", "p")


def test_a_context_of_a_job_has_the_nodes_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs and checks resolve against what the node has put into their environment."""
    monkeypatch.setenv("VOXPLANE_SECRET_ENV_NAMES", "MODEL_PASS")
    monkeypatch.setenv("VOXPLANE_SECRET_ENV_SUFFIXES", "")
    secrets = new_context().secrets
    assert secrets.allowed_env_names == {"MODEL_PASS"}
    assert secrets.allowed_env_suffixes == ()


def test_livekit_is_all_or_nothing() -> None:
    """Half a LiveKit configuration is an error that names what is missing."""
    assert not livekit_wanted({})
    assert livekit_wanted(dict.fromkeys(LIVEKIT_ENV, "x"))
    with pytest.raises(ConfigurationError, match="missing: LIVEKIT_API_KEY, LIVEKIT_API_SECRET"):
        livekit_wanted({"LIVEKIT_URL": "ws://x"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only-tenant", "UPPER"], "only_tenant"),
        (["--label", "nonsense"], "key=value"),
        (["--config", "/does/not/exist"], "/does/not/exist"),
        (["--metrics-listen", "0.0.0.0:9000"], "--insecure"),
        (["--metrics-listen", "127.0.0.1:99999"], "65535"),
        (["--metrics-listen", "nowhere"], "metrics_listen"),
        (["--secret-dirs", "relative/folder"], "absolute"),
        (["--secret-env-names", "lower"], "secret_env_names"),
        (["--data-dir", "/proc/nowhere"], "/proc/nowhere"),
        (["--node-socket", "/tmp/" + "x" * 110], "at most 107"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(arguments: list[str], said: str) -> None:
    """The command refuses with exit code 2 and says what is wrong."""
    app = Typer()
    app.command()(command)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


async def test_a_stop_drains_voice_and_a_second_one_does_not_wait(tmp_path: Path) -> None:
    """The worker of voice calls is told to stop and may finish; asked twice, the node ends at once."""
    settings = load_settings({"data_dir": tmp_path, "server": "127.0.0.1:1", "max_text_sessions": 0})
    draining, stop = asyncio.Event(), Stop()

    async def voice(node: Node, stopping: Stop) -> None:
        await stopping.asked.wait()
        draining.set()
        await stopping.hurry.wait()

    running = asyncio.create_task(run_node(settings, lambda config: None, voice, stop))
    stop.ask()
    await asyncio.wait_for(draining.wait(), 10)
    assert not running.done()
    stop.ask()
    await asyncio.wait_for(running, 10)
    with claim(settings.socket):
        assert not settings.socket.exists()


async def test_a_worker_that_fails_ends_the_node(tmp_path: Path) -> None:
    """When voice cannot go on the node ends with its error, to be started again."""
    settings = load_settings({"data_dir": tmp_path, "server": "127.0.0.1:1", "max_text_sessions": 0})

    async def voice(node: Node, stopping: Stop) -> None:
        raise RuntimeError("LiveKit cannot be reached")

    with pytest.raises(ExceptionGroup) as caught:
        await run_node(settings, lambda config: None, voice, Stop())
    assert caught.group_contains(RuntimeError, match="LiveKit")


async def test_a_data_folder_is_one_nodes(tmp_path: Path) -> None:
    """Another with a socket of its own is turned away: it would take the sessions of the first for its own,
    and have them ended."""
    shared = {"data_dir": tmp_path / "data", "server": "127.0.0.1:1", "max_text_sessions": 0}
    stop, begun = Stop(), asyncio.Event()

    async def voice(node: Node, stopping: Stop) -> None:
        begun.set()
        await stopping.asked.wait()

    running = asyncio.create_task(run_node(load_settings(shared), lambda config: None, voice, stop))
    await asyncio.wait_for(begun.wait(), 10)
    second = load_settings(shared | {"node_id": "second", "node_socket": tmp_path / "second.sock"})
    with pytest.raises(ConfigurationError, match="data_dir: another node"):
        await asyncio.wait_for(run_node(second, lambda config: None, voice, stop), 10)
    stop.ask()
    await asyncio.wait_for(running, 10)
