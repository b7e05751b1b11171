"""How the decisions of the swap are carried out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from agent_node.job.pipeline import Pipeline, Words
from agent_node.job.plan import Plan
from agent_node.job.session import SessionSwap
from agent_node.job.targets import Target
from tests.unit.job.job_world import caller, delivery, offline_config
from tests.virtual_clock import VirtualClock
from voxplane.errors import VoxplaneError, reason_of
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1.config_sync_service_pb2 import BundleStatus


class Model:
    """Counts its holders."""

    def __init__(self) -> None:
        self.holders = 1

    def release(self) -> None:
        """One holder less."""
        self.holders -= 1


class Workshop:
    """A builder whose builds end when they are told to, and how."""

    def __init__(self) -> None:
        self.orders: list[tuple[Target, Pipeline | None, asyncio.Future[None]]] = []
        self.models: list[Model] = []
        self.closed = False

    async def build(self, target: Target, plan: Plan, running: Pipeline | None) -> Pipeline:
        """Wait for `done`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.orders.append((target, running, done))
        await done
        self.models.append(Model())
        return Pipeline(target, Words(target.config.prompt_config.instructions), cast("Any", self.models[-1]))

    def done(self, error: Exception | None = None) -> None:
        """End the newest build."""
        future = self.orders[-1][2]
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    async def aclose(self) -> None:
        """Note it."""
        self.closed = True


@dataclass
class Stage:
    """A host that notes what it was given, and may refuse it."""

    pipelines: list[Pipeline] = field(default_factory=list[Pipeline])
    error: Exception | None = None

    def switch(self, pipeline: Pipeline, plan: Plan) -> None:
        """See session.Host."""
        if self.error is not None:
            raise self.error
        self.pipelines.append(pipeline)


@dataclass
class Made:
    """A swap and the things around it."""

    swap: SessionSwap
    workshop: Workshop
    stage: Stage
    clock: VirtualClock
    reports: list[BundleStatus]

    def phases(self) -> list[tuple[int, str]]:
        """The reports, by revision."""
        name = sync_pb2.ConfigPhase.Name
        return [(r.revision, name(r.phase).removeprefix("CONFIG_PHASE_")) for r in self.reports]

    async def start(self) -> Pipeline:
        """Run revision 1."""
        self.swap.deliver(delivery(1, offline_config("one")))
        await self.clock.settle()
        self.workshop.done()
        pipeline = await self.swap.first()
        self.swap.drive(self.stage)
        return pipeline


@pytest.fixture
async def made() -> AsyncIterator[Made]:
    """A swap that has been given nothing yet."""
    reports: list[BundleStatus] = []
    workshop, clock = Workshop(), VirtualClock()
    made = Made(
        SessionSwap(caller(), workshop, clock, report=reports.append), workshop, Stage(), clock, reports
    )
    yield made
    await made.swap.aclose()


async def test_until_it_is_driven_the_first_config_stays(made: Made) -> None:
    """What comes while the session starts is applied when it has started."""
    made.swap.deliver(delivery(1, offline_config("one")))
    await made.clock.settle()
    made.workshop.done()
    first = await made.swap.first()
    made.swap.deliver(delivery(2, offline_config("two")))
    await made.clock.settle()
    made.workshop.done()
    await made.clock.settle()
    assert made.phases() == [(1, "APPLIED"), (2, "APPLYING")]
    assert made.swap.running == first.target
    made.swap.drive(made.stage)
    assert [each.target.bundle.revision for each in made.stage.pipelines] == [2]
    assert made.phases()[-1] == (2, "APPLIED")


async def test_reports_name_the_bundle_and_the_time(made: Made) -> None:
    """A report has the bundle's name, etag and revision, and the clock's time."""
    await made.start()
    (report,) = made.reports
    bundle = delivery(1, offline_config("one")).bundle
    assert (report.name, report.etag, report.revision, report.sessions) == (bundle.name, bundle.etag, 1, 1)
    assert report.time.ToNanoseconds() == made.clock.time() * 1e9


async def test_a_replaced_pipeline_is_closed_after_its_last_user(made: Made) -> None:
    """What still speaks keeps its models open."""
    first = await made.start()
    with first.use():
        made.swap.deliver(delivery(2, offline_config("two")))
        await made.clock.settle()
        made.workshop.done()
        await made.clock.settle()
        assert made.phases()[-1] == (2, "APPLIED")
        assert made.workshop.models[0].holders == 1
    assert [model.holders for model in made.workshop.models] == [0, 1]


async def test_a_build_starts_from_what_runs(made: Made) -> None:
    """The builder is given the running pipeline, to take parts over."""
    first = await made.start()
    made.swap.deliver(delivery(2, offline_config("two")))
    await made.clock.settle()
    assert made.workshop.orders[-1][1] is first


async def test_a_builder_that_breaks_is_a_refusal(made: Made) -> None:
    """An unforeseen error is FAILED with its type and without its text."""
    await made.start()
    made.swap.deliver(delivery(2, offline_config("two")))
    await made.clock.settle()
    made.workshop.done(RuntimeError("sk-123"))
    await made.clock.settle()
    assert made.phases()[-1] == (2, "FAILED")
    assert made.reports[-1].error.message == "building failed with RuntimeError"


@pytest.mark.parametrize(
    "error", [RuntimeError("sk-123"), VoxplaneError(reason_pb2.ERROR_REASON_BUILD_FAILED, "no")]
)
async def test_a_host_that_refuses_is_a_refusal(made: Made, error: Exception) -> None:
    """The new pipeline is closed, the running one goes on."""
    first = await made.start()
    made.stage.error = error
    made.swap.deliver(delivery(2, offline_config("two")))
    await made.clock.settle()
    made.workshop.done()
    await made.clock.settle()
    assert made.phases()[-1] == (2, "FAILED")
    assert reason_of(made.reports[-1].error) == "BUILD_FAILED"
    assert "sk-123" not in str(made.reports[-1])
    assert made.swap.running == first.target
    assert [model.holders for model in made.workshop.models] == [1, 0]


async def test_the_first_config_cannot_be_built(made: Made) -> None:
    """`first` raises what the builder raised."""
    made.swap.deliver(delivery(1, offline_config("one")))
    await made.clock.settle()
    made.workshop.done(VoxplaneError(reason_pb2.ERROR_REASON_SECRET_UNAVAILABLE, "no key"))
    with pytest.raises(VoxplaneError, match="no key"):
        await made.swap.first()


async def test_closing_in_the_middle_of_a_build(made: Made) -> None:
    """The build is given up, what ran is closed, and later events do nothing."""
    await made.start()
    made.swap.deliver(delivery(2, offline_config("two")))
    await made.clock.settle()
    await made.swap.aclose()
    assert made.workshop.orders[-1][2].cancelled()
    assert [model.holders for model in made.workshop.models] == [0]
    assert made.workshop.closed
    made.swap.deliver(delivery(3, offline_config("three")))
    await made.clock.settle()
    assert len(made.workshop.orders) == 2


async def test_pinning_a_running_session(made: Made) -> None:
    """A session can be pinned to a version of its bundle, and let go."""
    one, two = offline_config("one"), offline_config("two")
    await made.start()
    made.swap.pin(1)
    made.swap.deliver(delivery(2, two, others={1: one}))
    await made.clock.settle()
    assert made.phases()[-1] == (2, "APPLIED")
    assert made.swap.running is not None
    assert made.swap.running.version == 1
    made.swap.pin(None)
    await made.clock.settle()
    made.workshop.done()
    await made.clock.settle()
    assert made.swap.running.version == 2


async def test_a_new_recogniser_waits_for_the_last_words(made: Made) -> None:
    """What the user has just said may not be transcribed yet: the recogniser that
    heard it stays until it is answered, or for a time."""
    await made.start()
    for number, known in ((2, True), (3, False)):
        made.swap.user_speaks(True)
        made.swap.deliver(delivery(number, offline_config("one", stt_config={"language": f"l{number}"})))
        await made.clock.settle()
        made.workshop.done()
        await made.clock.settle()
        made.swap.user_speaks(False, heard_within=5.0)
        await made.clock.advance(4.9)
        assert made.phases()[-1] == (number, "APPLYING")
        if known:
            made.swap.reply_began("the answer")
            made.swap.user_heard()
            assert made.phases()[-1] == (number, "APPLYING")
            made.swap.reply_ended("the answer")
        else:
            await made.clock.advance(0.1)
        assert made.phases()[-1] == (number, "APPLIED")


async def test_work_between_turns_waits_for_the_reply_in_flight(made: Made) -> None:
    """It is done in order when the last reply is over, and at once if there is none."""
    await made.start()
    done: list[str] = []
    made.swap.between_turns(lambda: done.append("idle"))
    made.swap.reply_began("a")
    made.swap.reply_began("b")
    made.swap.between_turns(lambda: done.append("first"))
    made.swap.between_turns(lambda: done.append("second"))
    made.swap.reply_ended("a")
    assert done == ["idle"]
    made.swap.reply_ended("b")
    assert done == ["idle", "first", "second"]
