"""Lets one running session follow its bundle: carries out what `swap` decides.

swap = SessionSwap(caller, builder, clock, report=..., notice=...)
swap.deliver(delivery)
pipeline = await swap.first()
...                                  # start the session with the pipeline
swap.drive(host)
...                                  # deliver() on every change
await swap.aclose()
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

import structlog

from agent_node.job.outcomes import Outcome, status_of
from agent_node.job.pipeline import Pipeline
from agent_node.job.plan import Plan
from agent_node.job.swap import (
    Action,
    Applied,
    Build,
    BuildFailed,
    Built,
    Close,
    Delivered,
    Drain,
    Drained,
    Event,
    Pinned,
    Refused,
    Relabel,
    ReplyBegan,
    ReplyEnded,
    SwapState,
    Switch,
    Switched,
    SwitchFailed,
    UserSpeaks,
    Waiting,
)
from agent_node.job.targets import Target
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError
from voxplane.node.v1.relay_service_pb2 import BundleDelivery, CallerContext
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1.bundle_pb2 import VersionContent
from voxplane.v1.config_sync_service_pb2 import BundleStatus

BUILD_SECONDS_MAX = 30.0

_STARTING = "the start of the session"

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class PipelineBuilder(Protocol):
    """Builds pipelines; staging.Builder is the real one."""

    async def build(self, target: Target, plan: Plan, running: Pipeline | None) -> Pipeline:
        """Raises VoxplaneError."""
        ...

    async def aclose(self) -> None:
        """Wait for what is being closed."""
        ...


class Host(Protocol):
    """What makes the replies."""

    def switch(self, pipeline: Pipeline, plan: Plan) -> None:
        """Make the next reply by the pipeline. Must not wait. Raises
        VoxplaneError, and then has changed nothing."""
        ...


class SessionSwap:
    """One session and its bundle.

    `report` gets what the node is to know, `notice` what the user may see;
    both are called on the loop and must not wait.
    """

    def __init__(
        self,
        caller: CallerContext,
        builder: PipelineBuilder,
        clock: Clock,
        *,
        report: Callable[[BundleStatus], None],
        notice: Callable[[Outcome], None] = lambda outcome: None,
        pinned_version: int | None = None,
    ) -> None:
        self._builder = builder
        self._clock = clock
        self._report = report
        self._notice = notice
        self._state = SwapState(caller.alias, pinned_version)
        self._log = _log.bind(tenant_id=caller.tenant_id, agent=caller.agent_id, session_id=caller.session_id)
        self._host: Host | None = None
        self._first: asyncio.Future[Pipeline] = asyncio.get_running_loop().create_future()
        self._pipelines: dict[int, Pipeline] = {}
        self._current: Pipeline | None = None
        self._building: asyncio.Task[None] | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._events: deque[Event] = deque()
        self._later: deque[Callable[[], None]] = deque()
        self._working = False
        self._closed = False

    @property
    def running(self) -> Target | None:
        """What makes the next reply; None before the first is ready."""
        return self._state.running

    async def first(self) -> Pipeline:
        """The pipeline to start the session with. Until `drive` it stays in force.

        Raises VoxplaneError if the first bundle cannot be used.
        """
        return await asyncio.shield(self._first)

    def drive(self, host: Host) -> None:
        """The session runs: from now on changes go to `host`."""
        self._host = host
        self._receive(ReplyEnded(_STARTING))

    def deliver(self, delivery: BundleDelivery) -> None:
        """The bundle is there, or has changed."""
        self._receive(Delivered(delivery))

    def pin(self, version: int | None, content: VersionContent | None = None) -> None:
        """Stay with a version, or follow the alias again. Without its content
        the version is to be in the bundle."""
        self._receive(Pinned(version, content))

    def between_turns(self, work: Callable[[], None]) -> None:
        """Do it as soon as no reply is in flight, perhaps at once. It must not
        raise."""
        self._later.append(work)
        self._do_later()

    def reply_began(self, reply: str) -> None:
        """A reply is in flight; every one must come to `reply_ended`."""
        self._receive(ReplyBegan(reply))

    def reply_ended(self, reply: str) -> None:
        """A reply is over, with all of its steps."""
        self._receive(ReplyEnded(reply))

    def user_speaks(self, speaking: bool, *, heard_within: float = 0.0) -> None:
        """The user began or ceased to speak. What was said may become known as
        much later as `heard_within`, in seconds; `user_heard` tells if it is
        before."""
        self._hear_no_longer()
        if speaking or heard_within <= 0:
            self._receive(UserSpeaks(speaking))
        else:
            self._hearing = asyncio.create_task(self._heard_after(heard_within))

    def user_heard(self) -> None:
        """What the user has said is known."""
        if self._hear_no_longer():
            self._receive(UserSpeaks(False))

    async def aclose(self) -> None:
        """Follow no longer, and close everything. The session has ended before."""
        self._closed = True
        self._hear_no_longer()
        if self._building is not None:
            self._building.cancel()
            await asyncio.wait([self._building])
        for pipeline in self._pipelines.values():
            pipeline.close()
        self._pipelines.clear()
        if not self._first.done():
            self._first.cancel()
        elif not self._first.cancelled():
            self._first.exception()  # taken note of, though nobody may have waited for it
        await self._builder.aclose()

    async def _heard_after(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._hearing = None
        self._receive(UserSpeaks(False))

    def _hear_no_longer(self) -> bool:
        hearing, self._hearing = self._hearing, None
        return hearing is not None and hearing.cancel()

    def _receive(self, event: Event) -> None:
        if self._closed:
            return
        self._events.append(event)
        if self._working:
            return
        self._working = True
        try:
            while self._events:
                for action in self._state.receive(self._events.popleft()):
                    self._carry_out(action)
        finally:
            self._working = False
        self._do_later()

    def _do_later(self) -> None:
        while self._later and self._state.between_turns and not self._working:
            self._later.popleft()()

    def _carry_out(self, action: Action) -> None:
        match action:
            case Build(ticket, target, plan):
                self._building = asyncio.create_task(self._build(ticket, target, plan))
            case Switch(ticket, plan):
                # before all that is in the queue: the state waits for this answer
                self._events.appendleft(self._switch(ticket, plan))
            case Drain(ticket):
                self._pipelines[ticket].when_drained(lambda: self._receive(Drained(ticket)))
            case Close(ticket):
                if (pipeline := self._pipelines.pop(ticket, None)) is not None:
                    pipeline.close()
            case Relabel(ticket, target):
                self._pipelines[ticket].target = target
            case Waiting() | Applied() | Refused():
                self._tell(action)

    async def _build(self, ticket: int, target: Target, plan: Plan) -> None:
        try:
            async with asyncio.timeout(BUILD_SECONDS_MAX):
                self._pipelines[ticket] = await self._builder.build(target, plan, self._current)
        except VoxplaneError as error:
            self._receive(BuildFailed(ticket, error))
        except Exception as error:
            # its text may hold what it was given
            self._log.error("the build broke", revision=target.bundle.revision, error=type(error).__name__)
            self._receive(BuildFailed(ticket, _broken(f"building failed with {type(error).__name__}")))
        else:
            self._receive(Built(ticket))

    def _switch(self, ticket: int, plan: Plan) -> Event:
        pipeline = self._pipelines[ticket]
        if self._host is not None:
            try:
                self._host.switch(pipeline, plan)
            except VoxplaneError as error:
                return SwitchFailed(ticket, error)
            except Exception as error:
                self._log.error("the switch broke", error=type(error).__name__)
                return SwitchFailed(ticket, _broken(f"switching failed with {type(error).__name__}"))
        self._current = pipeline
        if not self._first.done():
            self._events.append(ReplyBegan(_STARTING))
            self._first.set_result(pipeline)
        return Switched(ticket)

    def _tell(self, outcome: Outcome) -> None:
        status = status_of(outcome, self._clock.time())
        match outcome:
            case Applied(target):
                self._log.info("config applied", revision=target.bundle.revision, version=target.version)
            case Refused(bundle, _, running, error):
                fields = [violation.field for violation in error.violations]
                self._log.error(
                    "config refused", revision=bundle.revision, reason=error.reason_name, fields=fields
                )
                if running is None and not self._first.done():
                    self._first.set_exception(error)
            case Waiting(target):
                self._log.debug("config waits for a turn boundary", revision=target.bundle.revision)
        self._report(status)
        self._notice(outcome)


def _broken(said: str) -> VoxplaneError:
    return VoxplaneError(reason_pb2.ERROR_REASON_BUILD_FAILED, said)
