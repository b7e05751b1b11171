"""What a server's disk may do to it, and what must hold all the same: an
acknowledged write is there for good, what cannot be written is refused, reads
and streams go on, and when the disk is well again so is the server."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from tests.robustness.answers import reason
from tests.robustness.faults import shims, small_disk
from tests.robustness.faults.disk import Call, DiskFaults
from tests.robustness.faults.scene import (
    DATABASE,
    ENVIRONMENT,
    HEARTBEAT_SECONDS,
    Scene,
    require_nothing_found,
    scene,
)
from tests.robustness.faults.serving import Serving, serving
from tests.robustness.findings import Property
from tests.robustness.history import Operation
from tests.robustness.watcher import Spec, connect
from voxplane.v1 import agent_pb2
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc

DISK_BYTES = 24 * 1024 * 1024
CALM_SECONDS = 0.4
FAULT_SECONDS = 0.6
ROUNDS = 6
ROUNDS_LONG = 150
UNAVAILABLE = "STORE_UNAVAILABLE"
READS = ("GetAgent", "ListAgents")

needs_shims = pytest.mark.skipif(bool(shims.why_not()), reason=shims.why_not())


@pytest.fixture
def rounds(long_mode: bool) -> int:
    """How many faults one after the other."""
    return ROUNDS_LONG if long_mode else ROUNDS


def _writes(operations: list[Operation]) -> list[Operation]:
    return [one for one in operations if one.call not in READS and one.outcome != "refused"]


async def _until(stage: Scene, since: float, found: Callable[[list[Operation]], bool]) -> None:
    """Wait until that is so of the calls that began since then."""
    async with asyncio.timeout(10):
        while not found(stage.operations(since)):  # noqa: ASYNC110 - a file is read
            await asyncio.sleep(0.05)


async def _until_acknowledged(stage: Scene, since: float) -> None:
    """Wait until a write that began since then is acknowledged."""
    await _until(stage, since, lambda calls: any(one.outcome == "ok" for one in _writes(calls)))


def _has_refusal_and_read(calls: list[Operation]) -> bool:
    read = any(one.call in READS and one.outcome == "ok" for one in calls)
    return read and any(one.outcome == "unknown" for one in _writes(calls))


def _check_reads(stage: Scene, began: float, until: float) -> None:
    reads = [one for one in stage.operations(began) if one.call in READS and one.start < until]
    assert {one.reason for one in reads if one.outcome == "unknown"} <= {"AGENT_NOT_FOUND"}
    assert any(one.outcome == "ok" for one in reads)


def _check_heartbeats(stage: Scene, began: float, until: float) -> None:
    beats = [one for one in stage.received(began, until, "all") if one.beat is not None]
    assert len(beats) >= (until - began) / HEARTBEAT_SECONDS - 2


async def _list(server: Serving) -> list[agent_pb2.Agent]:
    async with connect(server.address) as channel:
        request = agents_pb2.ListAgentsRequest(tenant_id="red")
        return list((await agents_grpc.AgentServiceStub(channel).ListAgents(request)).agents)


async def test_a_full_disk_is_survived(tmp_path: Path) -> None:
    """While the disk is full every write is refused with STORE_UNAVAILABLE, and
    reads and heartbeats go on; when there is space again the server writes on
    without a restart, and after kill -9 all that it acknowledged is there."""
    if small_disk.why_not():
        pytest.skip(small_disk.why_not())
    data = tmp_path / "data"
    data.mkdir()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        disk = await enter(small_disk.small_disk(data, DISK_BYTES))
        server = await enter(serving(data, tmp_path / "log", ENVIRONMENT, disk.prefix))
        stage = await enter(scene(server, tmp_path, 3, tmp_path / "copy" / DATABASE))
        stage.watch([Spec("all", "-")])
        stage.write(4, pause_seconds=0.02)
        for _ in range(2):
            await asyncio.sleep(CALM_SECONDS)
            async with stage.fault("full disk") as began:
                disk.fill()
                full = stage.recorder.now()
                await asyncio.sleep(FAULT_SECONDS)
                await _until(stage, full, _has_refusal_and_read)
                until = stage.recorder.now()
                disk.free()
            # The journal has room for some commits of its own.
            refused = [one for one in _writes(stage.operations(full)) if one.end < until]
            assert refused
            assert {one.reason for one in refused if one.outcome == "unknown"} == {UNAVAILABLE}
            _check_reads(stage, began, until)
            _check_heartbeats(stage, began, until)
            await _until_acknowledged(stage, until)
        await server.until_logged("the log can be written again")
        await server.kill()
        await stage.began_anew()
        await stage.settle()
        await server.kill()
        shutil.copytree(disk.seen, tmp_path / "copy")
        require_nothing_found(stage.judge())


def _faults(disk: DiskFaults) -> list[tuple[str, Callable[[int], None]]]:
    return [
        ("write EIO", lambda after: disk.fail(Call.WRITE, after=after)),
        ("write EIO once", lambda after: disk.fail(Call.WRITE, after=after, times=1)),
        ("write ENOSPC", lambda after: disk.fail(Call.WRITE, error=errno.ENOSPC, after=after)),
        ("short writes", lambda after: disk.shorten(after=after)),
        ("sync EIO", lambda after: disk.fail(Call.SYNC, after=after)),
        ("sync EIO once", lambda after: disk.fail(Call.SYNC, after=after, times=1)),
    ]


@needs_shims
@pytest.mark.timeout(600)
async def test_an_acknowledged_write_survives_every_fault_and_the_loss_of_power(
    tmp_path: Path, rounds: int
) -> None:
    """Writes and syncs fail at random moments, pages whose sync has failed are
    dropped from the cache, and now and then the power goes: after each start all
    that was acknowledged is there, once, and nothing else was shown."""
    disk = DiskFaults(tmp_path / "data", tmp_path / "disk", remembers=True)
    (tmp_path / "data").mkdir()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        environment = {**ENVIRONMENT, **disk.environment}
        server = await enter(serving(tmp_path / "data", tmp_path / "log", environment))
        stage = await enter(scene(server, tmp_path, 4))
        stage.watch([Spec("all", "-")])
        stage.write(4, pause_seconds=0.02)
        faults = _faults(disk)
        for number in range(rounds):
            name, begin = faults[number % len(faults)]
            await asyncio.sleep(stage.random.uniform(0.1, CALM_SECONDS))
            disk.only(stage.random.choice(["", "-wal", "-wal", ".db"]))
            async with stage.fault(name):
                begin(stage.random.randrange(12))
                await asyncio.sleep(stage.random.uniform(0.1, FAULT_SECONDS))
                if stage.random.random() < 0.5:
                    await disk.forget()
            if number % 3 == 2:
                async with stage.fault("power off"):
                    await _power_off(server, disk)
                    stage.read_log()
                    disk.heal()
                    await stage.began_anew()
            else:
                disk.heal()
                await disk.forget()
                await _until_acknowledged(stage, stage.recorder.now())
        assert disk.faults(Call.SYNC)
        assert disk.faults(Call.WRITE)
        await _power_off(server, disk)
        await stage.began_anew()
        require_nothing_found(await stage.finish())


@needs_shims
async def test_a_disk_that_hangs_and_one_that_cannot_be_read(tmp_path: Path) -> None:
    """While syncs hang, reads and heartbeats go on, and writes are answered when
    it is over. A tenant that cannot be read from the disk is STORE_UNAVAILABLE
    until it can."""
    disk = DiskFaults(tmp_path / "data", tmp_path / "disk")
    (tmp_path / "data").mkdir()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        environment = {**ENVIRONMENT, **disk.environment}
        server = await enter(serving(tmp_path / "data", tmp_path / "log", environment))
        stage = await enter(scene(server, tmp_path, 6))
        stage.watch([Spec("all", "-")])
        stage.write(6, pause_seconds=0.02)
        await asyncio.sleep(CALM_SECONDS)
        async with stage.fault("syncs hang") as began:
            disk.hang(Call.SYNC)
            await asyncio.sleep(2 * FAULT_SECONDS)
            assert await asyncio.wait_for(_list(server), FAULT_SECONDS)
            until = stage.recorder.now()
            disk.heal()
        await _until_acknowledged(stage, until)
        _check_heartbeats(stage, began, until)
        assert any(one.outcome == "ok" and one.end - one.start > FAULT_SECONDS for one in stage.operations())
        require_nothing_found(await stage.finish())
        await server.kill()
        await server.begin()
        disk.fail(Call.READ)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await _list(server)
        assert reason(refused.value) == UNAVAILABLE
        disk.heal()
        assert await _list(server)


@needs_shims
async def test_the_loss_of_what_was_acknowledged_would_be_found(tmp_path: Path) -> None:
    """On a disk that lies about its syncs the loss of power does lose what was
    acknowledged, and the checker finds it: so it would in a store that syncs too
    little."""
    disk = DiskFaults(tmp_path / "data", tmp_path / "disk", remembers=True)
    (tmp_path / "data").mkdir()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        environment = {**ENVIRONMENT, **disk.environment}
        server = await enter(serving(tmp_path / "data", tmp_path / "log", environment))
        stage = await enter(scene(server, tmp_path, 5))
        stage.watch([Spec("all", "-")])
        stage.write(4, pause_seconds=0.02)
        await asyncio.sleep(CALM_SECONDS)
        stage.read_log()
        disk.lie()
        await asyncio.sleep(CALM_SECONDS)
        await _power_off(server, disk)
        disk.heal()
        await stage.began_anew()
        assert Property.DURABLE in (await stage.finish()).violated


async def _power_off(server: Serving, disk: DiskFaults) -> None:
    await disk.power_off()
    assert await server.ended() == -9
