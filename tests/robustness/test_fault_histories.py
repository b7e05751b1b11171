"""History that is trimmed under a client, and history that goes back."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from tests.robustness.faults.proxy import fault_proxy
from tests.robustness.faults.scene import DATABASE, ENVIRONMENT, Scene, require_nothing_found, scene
from tests.robustness.faults.serving import Serving, serving
from tests.robustness.history import EpochBegan, Received, Start
from tests.robustness.watcher import Spec

HISTORY_ENTRIES = 12
SNAPSHOT_COMMITS = 6
AWAY_SECONDS = 0.7
RESUMES, RESUMES_MAX = 12, 60
COMMITS_SECONDS = 0.6


@pytest.fixture(autouse=True)
def faithful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watchers never forget what they have."""
    monkeypatch.setattr("tests.robustness.watcher.FRESH_SHARE", 0.0)


def _starts(stage: Scene, watcher: str) -> list[Start]:
    return [
        one.transfer.start
        for one in stage.records()
        if isinstance(one, Received)
        and one.stream.startswith(f"{watcher}.")
        and one.transfer is not None
        and one.transfer.start is not None
    ]


def _resumed(stage: Scene) -> list[Start]:
    """How the transfers began by which clients came back, and those that went FULL."""
    starts = _starts(stage, "often") + _starts(stage, "often-all")
    return [one for one in starts if one.intent == "FULL" or "resumed" in one.reason]


async def test_history_is_trimmed_while_clients_resume(tmp_path: Path, transport: str) -> None:
    """Clients that resume again and again while the history behind them is being
    trimmed get a DELTA while it is kept and FULL when it is not, are told why,
    and lose nothing either way; contents that they have do not travel again."""
    environment = {
        **ENVIRONMENT,
        "VOXPLANE_HISTORY_ENTRIES_MAX": str(HISTORY_ENTRIES),
        "ROBUSTNESS_SNAPSHOT_COMMITS": str(SNAPSHOT_COMMITS),
    }
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        log = tmp_path / "log"
        server = await enter(serving(tmp_path / "data", log, environment, transport=transport))
        proxy = await enter(fault_proxy(server.watch_address))
        stage = await enter(scene(server, tmp_path, 8))
        following = asyncio.create_task(stage.follow_log())
        stack.callback(following.cancel)
        stage.watch([Spec("often", "red"), Spec("often-all", "-", reports="stream")], proxy.address)
        stage.watch([Spec("near", "-")])
        stage.write(4, pause_seconds=0.02)
        for number in range(RESUMES_MAX):
            await stage_pause(stage, 0.05, 0.2)
            await proxy.reset()
            # A machine that is slow enough trims faster than clients come back.
            if number >= RESUMES and any(one.intent == "DELTA" for one in _resumed(stage)):
                break
        async with stage.fault("away for long"):
            await proxy.refuse()
            await proxy.cut()
            await asyncio.sleep(AWAY_SECONDS)
            await proxy.listen()
        require_nothing_found(await stage.finish())
        starts = _resumed(stage)
        assert any(one.intent == "FULL" and "compacted" in one.reason for one in starts)
        assert any(one.intent == "DELTA" for one in starts)


async def stage_pause(stage: Scene, shortest: float, longest: float) -> None:
    """Let everything run for a while."""
    await asyncio.sleep(stage.random.uniform(shortest, longest))


@pytest.mark.parametrize("ending", ["SIGTERM", "kill -9"])
async def test_a_restored_backup_makes_every_client_take_everything(
    tmp_path: Path, ending: str, transport: str
) -> None:
    """An older copy of the file is put back, after the server has ended well or
    not: the store has a new epoch and says so, every client that resumes gets
    FULL with the reason, and all end with what the backup has and what came
    after it."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        log = tmp_path / "log"
        server = await enter(serving(tmp_path / "data", log, ENVIRONMENT, transport=transport))
        stage = await enter(scene(server, tmp_path, 9))
        stage.watch([Spec("all", "-"), Spec("node", "red", reports="stream")])
        stage.write(3)
        await asyncio.sleep(COMMITS_SECONDS)
        _back_up(server, tmp_path / "backup.db")
        await asyncio.sleep(COMMITS_SECONDS)
        async with stage.fault("restored backup"):
            await (server.terminate() if ending == "SIGTERM" else server.kill())
            stage.read_log()
            _restore(server, tmp_path / "backup.db")
            await stage.began_anew()
        await asyncio.sleep(COMMITS_SECONDS)
        require_nothing_found(await stage.finish())
        assert len([one for one in stage.tap.records() if isinstance(one, EpochBegan)]) == 2
        for name in ("all", "node"):
            assert any(one.intent == "FULL" and "epoch" in one.reason for one in _starts(stage, name))
        await server.until_logged("the store has a new epoch: all clients take everything anew")


async def test_a_backup_under_a_journal_that_is_not_its_own_is_refused(tmp_path: Path) -> None:
    """When only the file is put back, after kill -9 of a later run, and the
    journal beside it is left, the two together would be neither history: the
    server does not start, and says what to do; when that is done it starts."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        server = await enter(serving(tmp_path / "data", tmp_path / "log", ENVIRONMENT))
        stage = await enter(scene(server, tmp_path, 10))
        stage.watch([Spec("all", "-")])
        stage.write(3)
        await asyncio.sleep(COMMITS_SECONDS)
        _back_up(server, tmp_path / "backup.db")
        await server.terminate()
        await server.begin()
        await asyncio.sleep(COMMITS_SECONDS)
        await server.kill()
        stage.read_log()
        shutil.copyfile(tmp_path / "backup.db", server.folder / DATABASE)
        await server.spawn()
        assert await server.ended() == 1
        assert "delete voxplane.db-wal" in server.log.read_text()
        _restore(server, tmp_path / "backup.db")
        await stage.began_anew()
        require_nothing_found(await stage.finish())


async def test_a_backup_under_its_own_journal_loses_nothing(tmp_path: Path) -> None:
    """A copy of the file that was taken in the same run, put back alone after
    kill -9, is made whole by the journal: nothing that was acknowledged is lost,
    and the history goes on."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        server = await enter(serving(tmp_path / "data", tmp_path / "log", ENVIRONMENT))
        stage = await enter(scene(server, tmp_path, 11))
        stage.watch([Spec("all", "-")])
        stage.write(3)
        await asyncio.sleep(COMMITS_SECONDS)
        _back_up(server, tmp_path / "backup.db")
        await asyncio.sleep(COMMITS_SECONDS)
        await server.kill()
        shutil.copyfile(tmp_path / "backup.db", server.folder / DATABASE)
        await server.begin()
        require_nothing_found(await stage.finish())
        assert len([one for one in stage.tap.records() if isinstance(one, EpochBegan)]) == 1


def _back_up(server: Serving, to: Path) -> None:
    uri = f"{(server.folder / DATABASE).as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as source, closing(sqlite3.connect(to)) as copy:
        source.backup(copy)


def _restore(server: Serving, backup: Path) -> None:
    """What a person does who restores a backup by hand."""
    database = server.folder / DATABASE
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    shutil.copyfile(backup, database)
