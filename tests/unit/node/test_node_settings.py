"""How a node is told what to do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer import Typer
from typer.testing import CliRunner

from agent_node.daemon import LIVEKIT_ENV, ConfigurationError, Stop, command, livekit_wanted, run_node
from agent_node.relay import claim
from agent_node.settings import load_settings


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

    async def voice(socket: Path, stopping: asyncio.Event) -> None:
        await stopping.wait()
        draining.set()
        await asyncio.Event().wait()

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

    async def voice(socket: Path, stopping: asyncio.Event) -> None:
        raise RuntimeError("LiveKit cannot be reached")

    with pytest.raises(ExceptionGroup) as caught:
        await run_node(settings, lambda config: None, voice, Stop())
    assert caught.group_contains(RuntimeError, match="LiveKit")
