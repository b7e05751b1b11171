"""What the wall clock may do, and what must hold all the same."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import grpc
import pytest

from tests.robustness.answers import reason
from tests.robustness.faults import shims
from tests.robustness.faults.clock import DAY, HOUR, ClockSteps
from tests.robustness.faults.scene import (
    DATABASE,
    ENVIRONMENT,
    HEARTBEAT_SECONDS,
    require_nothing_found,
    scene,
)
from tests.robustness.faults.serving import Serving, serving
from tests.robustness.history import Ended
from tests.robustness.watcher import Spec, connect
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc

STEPS = (HOUR, -HOUR, DAY, -DAY, 0.0)
STEP_SECONDS = 0.4
TENANT, AGENT = "red", "clocked"

pytestmark = pytest.mark.skipif(bool(shims.why_not()), reason=shims.why_not())


@pytest.fixture
async def clock(tmp_path: Path) -> AsyncGenerator[ClockSteps]:
    """The server's clock."""
    made = ClockSteps(tmp_path / "clock")
    yield made
    made.close()


@pytest.fixture
async def server(tmp_path: Path, clock: ClockSteps) -> AsyncGenerator[Serving]:
    """A server whose clock can be set."""
    environment = {**ENVIRONMENT, **clock.environment}
    async with serving(tmp_path / "data", tmp_path / "log", environment) as made:
        yield made


def _create(request_id: str, agent: str = AGENT) -> agents_pb2.CreateAgentRequest:
    request = agents_pb2.CreateAgentRequest(tenant_id=TENANT, agent_id=agent, request_id=request_id)
    request.config.llm_config.provider = "offline"
    return request


def _update(number: int) -> agents_pb2.UpdateAgentConfigRequest:
    request = agents_pb2.UpdateAgentConfigRequest(tenant_id=TENANT, agent_id=AGENT, request_id=f"u{number}")
    request.config.prompt_config.instructions = f"Number {number}."
    request.update_mask.paths.append("prompt_config.instructions")
    return request


async def test_nothing_stands_still_when_the_clock_steps(
    tmp_path: Path, clock: ClockSteps, server: Serving
) -> None:
    """While the server's clock jumps by an hour and a day to and fro, writes and
    streams go on, heartbeats keep their interval, no stream ends, and the log's
    times never run backwards."""
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(scene(server, tmp_path, 5))
        stage.watch([Spec("all", "-"), Spec("node", "red", reports="stream")])
        stage.write(3)
        for step in STEPS:
            await asyncio.sleep(STEP_SECONDS)
            async with stage.fault(f"clock {step:+g} s") as began:
                clock.set(step)
            await asyncio.sleep(STEP_SECONDS)
            until = stage.recorder.now()
            assert [one for one in stage.operations(began) if one.outcome == "ok"]
            beats = [one for one in stage.received(began, until, "all") if one.beat is not None]
            assert len(beats) >= STEP_SECONDS / HEARTBEAT_SECONDS - 1
        require_nothing_found(await stage.finish())
        assert not [one for one in stage.records() if isinstance(one, Ended) and one.code != "CLIENT"]
    for tenant in ("red", "blue"):
        times = _commit_times(server.folder / DATABASE, tenant)
        assert all(early <= late for early, late in itertools.pairwise(times))
        assert max(times) - min(times) > DAY / 2


async def test_a_repeat_after_a_step_gets_the_first_answer(clock: ClockSteps, server: Serving) -> None:
    """A request_id is remembered over steps of less than the day for which it is
    kept, forwards and backwards; after a whole day by the clock it may be
    forgotten, and what it stands for is then not done again but refused."""
    async with connect(server.address) as channel:
        stub = agents_grpc.AgentServiceStub(channel)
        first = await stub.CreateAgent(_create("once"))
        answers = [await stub.UpdateAgentConfig(_update(number)) for number in range(3)]
        for step in (HOUR, -HOUR, DAY / 2, -DAY):
            clock.set(step)
            assert await stub.CreateAgent(_create("once")) == first
            assert [
                await stub.UpdateAgentConfig(_update(number)) for number in range(len(answers))
            ] == answers
            answers.append(await stub.UpdateAgentConfig(_update(len(answers))))
        clock.set(2 * DAY)
        await stub.UpdateAgentConfig(_update(99))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.CreateAgent(_create("once"))
        assert reason(refused.value) == "AGENT_EXISTS"


async def test_a_server_starts_with_a_clock_that_is_behind_its_log(
    tmp_path: Path, clock: ClockSteps, server: Serving
) -> None:
    """A server that starts a day before its newest commit serves and writes;
    its new entries are not older than those before them, and its request_ids
    still count."""
    clock.set(DAY)
    async with connect(server.address) as channel:
        first = await agents_grpc.AgentServiceStub(channel).CreateAgent(_create("once"))
    await server.kill()
    clock.set(-DAY)
    await server.begin()
    async with connect(server.address) as channel:
        stub = agents_grpc.AgentServiceStub(channel)
        assert await stub.CreateAgent(_create("once")) == first
        await stub.UpdateAgentConfig(_update(1))
        await stub.CreateAgent(_create("other", "other"))
    times = _commit_times(server.folder / DATABASE, TENANT)
    assert len(times) == 3
    assert all(early <= late for early, late in itertools.pairwise(times))
    assert (await server.until_logged("ready"))[-1]["store"] == "sqlite"


def _commit_times(path: Path, tenant: str) -> list[float]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        rows = database.execute(
            "SELECT time FROM entries WHERE tenant_id = ? ORDER BY revision", (tenant,)
        ).fetchall()
    return [row[0] for row in rows]
