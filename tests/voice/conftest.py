"""One stage for all calls; each test has a tenant, keys and rooms of its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Callable, Generator

import pytest
import pytest_asyncio

from tests.livekit import stage as stages
from tests.livekit.stage import Stage
from tests.livekit.tenants import Tenant

NewTenant = Callable[[], Tenant]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """Everything that calls need, started once."""
    if missing := stages.missing():
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    async with Stage(tmp_path_factory.mktemp("voice")) as running:
        yield running


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def mended(stage: Stage) -> None:
    """All of the stage runs, whatever the test before has left."""
    await stage.mend()


@pytest.fixture(scope="session")
def numbers() -> itertools.count[int]:
    """Numbers of tenants."""
    return itertools.count(1)


@pytest_asyncio.fixture(loop_scope="session")
async def new_tenant(stage: Stage, numbers: itertools.count[int]) -> AsyncIterator[NewTenant]:
    """Makes tenants; in the end their callers hang up."""
    tenants: list[Tenant] = []

    def make() -> Tenant:
        tenants.append(Tenant(stage, f"tenant-{next(numbers)}"))
        return tenants[-1]

    yield make
    for tenant in tenants:
        await tenant.hang_up()


@pytest.fixture
def tenant(new_tenant: NewTenant) -> Tenant:
    """A tenant of the test's own."""
    return new_tenant()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A call that fails shows what the programs have said last."""
    report = yield
    running = getattr(item, "funcargs", {}).get("stage")
    if report.failed and isinstance(running, Stage):
        for program in running.programs:
            report.sections.append((f"the end of {program.log}", program.log_end()))
    return report
