"""What is told of a session while it runs: its record, its figures, its traces."""

from __future__ import annotations

import structlog

from agent_node.job.link import NodeLink
from agent_node.job.outcomes import Outcome
from agent_node.job.plan import Effect, Plan
from agent_node.job.record import SessionRecord
from agent_node.job.swap import Applied, Refused
from agent_node.job.targets import Target
from agent_node.job.tracing import Tracing
from voxplane.errors import VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Reporting:
    """Keeps record, figures and traces of one session in step with what it
    runs. `tracing` is None where nothing can be traced."""

    def __init__(self, record: SessionRecord, link: NodeLink, tracing: Tracing | None) -> None:
        self.record = record
        self._link = link
        self._tracing = tracing

    def outcome(self, outcome: Outcome) -> None:
        """What became of a bundle."""
        match outcome:
            case Applied(target, before, plan) if before is not None and plan is not None:
                self.trace_by(target)
                if plan.nothing_to_do and before.version == target.version:
                    self.record.runs(target)
                else:
                    self.record.swapped(target)
                    self._link.count(swap=f"{_effect(plan)} applied")
            case Refused():
                self._link.count(swap="refused")
            case _:
                pass

    def may_trace(self, traced: bool) -> None:
        """Raises VoxplaneError if the session cannot be traced."""
        if self._tracing is None:
            raise VoxplaneError(reason_pb2.ERROR_REASON_BUILD_FAILED, "this session cannot be traced")
        self._tracing.check(traced)

    def trace(self, traced: bool) -> None:
        """Trace the session from now on, or do not."""
        if self._tracing is None:
            return
        try:
            self._tracing.override(traced)
        except VoxplaneError as error:
            _log.warning("the session is not traced", reason=error.message)
        self.record.traced(self._tracing.on)

    async def aclose(self) -> None:
        """Send what is left of the traces."""
        if self._tracing is not None:
            await self._tracing.aclose()

    def trace_by(self, target: Target) -> None:
        """Trace the session as the target says, which makes its next turn."""
        if self._tracing is None:
            return
        try:
            self._tracing.follow(target)
        except VoxplaneError as error:
            # A call is worth more than its trace.
            _log.warning("the session is not traced", reason=error.message)
        self.record.traced(self._tracing.on)


def _effect(plan: Plan) -> str:
    """The most that a change does."""
    for effect in (Effect.HANDOFF, Effect.NEXT_TURN, Effect.NEXT_CALL):
        if effect in plan.effects.values():
            return effect.value
    return Effect.NEXT_TURN.value
