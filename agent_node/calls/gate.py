"""Which voice jobs the node takes. Every refusal says why: in the log, in the
metrics, and to the people in the room.

A final refusal ends LiveKit's job, as no node could do better. After any other
the server asks the next node, each once, and then nobody any more: the job is
dropped. So a refusal must come in time: the server waits DISPATCH_SECONDS in all.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog
from livekit.agents import AssignmentTimeoutError, JobRequest

from agent_node.calls.load import LoadMeter
from agent_node.calls.rooms import SESSION_ATTRIBUTE
from agent_node.calls.slots import NoSlot, Slot, Slots
from agent_node.job.voice_request import VoiceRequest, request_of
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError
from voxplane.names import TenantId, agent_name
from voxplane.node.v1.relay_service_pb2 import CallerContext

AGENT_NAME = "voxplane"
DISPATCH_SECONDS = 3.0
ASK_SECONDS_MAX = 1.5
DISPATCHES_KEPT = 20_000

_log = structlog.stdlib.get_logger(__name__)


class Announce(Protocol):
    """Tells a room of a refusal. It must not wait."""

    def __call__(self, tenant_id: str, room: str, data: bytes, *, final: bool) -> None:
        """`final` if no other node is asked. The tenant is empty if it is not
        known."""
        ...


class Permission(Protocol):
    """What the node knows of agents."""

    async def ask(self, caller: CallerContext) -> None:
        """Whether the call may begin. Raises VoxplaneError: AGENT_NOT_FOUND,
        BUILD_FAILED or CONFIG_STALE."""
        ...

    def knows_all(self, tenant_id: TenantId) -> bool:
        """Whether an agent of this tenant that the node does not know does not exist."""
        ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a job is not taken. `quiet` is one that only means another node."""

    reason: str
    message: str
    final: bool = False
    quiet: bool = False


class Refused(Exception):
    """The job is not taken."""

    def __init__(self, refusal: Refusal, caller: CallerContext | None = None) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.caller = caller


class Gate:
    """Decides on jobs. `unlaunched` is called with one that was assigned to this
    node and got no process, `changed` when calls came or went."""

    def __init__(
        self,
        *,
        node_id: str,
        slots: Slots,
        meter: LoadMeter,
        permission: Permission,
        clock: Clock,
        announce: Announce,
        unlaunched: Callable[[JobRequest], None] = lambda request: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._node_id = node_id
        self._slots = slots
        self._meter = meter
        self._permission = permission
        self._clock = clock
        self._announce = announce
        self._unlaunched = unlaunched
        self._changed = changed
        self._awaited: dict[tuple[str, str], asyncio.Future[str]] = {}
        self._dispatches: OrderedDict[str, str] = OrderedDict()
        self.draining = False
        self.accepted = 0
        self.refusals: Counter[str] = Counter()

    async def answer(self, request: JobRequest) -> None:
        """Take a job, or refuse it."""
        job = request.job
        try:
            wanted = await self.decide(job.id, job.metadata)
        except Refused as refused:
            self._refuse(job.id, job.room.name, refused)
            await request.reject(terminate=refused.refusal.final)
            return
        caller = wanted.caller
        log = _log.bind(tenant_id=caller.tenant_id, agent=caller.agent_id, session_id=caller.session_id)
        try:
            await request.accept(name=AGENT_NAME, attributes={SESSION_ATTRIBUTE: caller.session_id})
        except AssignmentTimeoutError:
            self.ended(job.id)
            log.warning("call accepted, but LiveKit has given it to nobody or another", job_id=job.id)
            return
        except Exception as error:
            self.ended(job.id)
            log.error("call assigned but not begun", job_id=job.id, error=type(error).__name__)
            self._unlaunched(request)
            return
        except BaseException:
            self.ended(job.id)
            raise
        self.accepted += 1
        self._dispatches[job.id] = job.dispatch_id
        if len(self._dispatches) > DISPATCHES_KEPT:
            self._dispatches.popitem(last=False)
        log.info("call accepted", job_id=job.id, room=job.room.name)
        awaited = self._awaited.get((caller.tenant_id, caller.session_id))
        if awaited is not None and not awaited.done():
            awaited.set_result(job.dispatch_id)

    async def decide(self, job_id: str, metadata: str) -> VoiceRequest:
        """Take a slot for a job. Raises Refused, and then there is none."""
        try:
            wanted = request_of(metadata, job_id)
        except VoxplaneError as error:
            raise Refused(Refusal(error.reason_name, error.message, final=True)) from error
        caller = wanted.caller
        refusal = self._at_once(wanted) or self._take(job_id, caller)
        if refusal is not None:
            raise Refused(refusal, caller)
        self._changed()
        try:
            refusal = await self._ask(caller)
        except BaseException:
            self.ended(job_id)
            raise
        if refusal is not None:
            self.ended(job_id)
            raise Refused(refusal, caller)
        return wanted

    def ended(self, job_id: str) -> Slot | None:
        """A job has ended, or has never begun."""
        slot = self._slots.release(job_id)
        if slot is not None:
            self._changed()
        return slot

    def dispatch_of(self, job_id: str) -> str:
        """The dispatch that a job came from; empty if it is not known."""
        return self._dispatches.get(job_id, "")

    def drain(self) -> None:
        """Take no more calls."""
        self.draining = True
        self._changed()

    def keep(self, caller: CallerContext) -> asyncio.Future[str]:
        """Keep a place for the job that takes a session over; the result is its
        dispatch, when it has come to this node."""
        self._slots.keep(caller.tenant_id, caller.session_id)
        arrived: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._awaited[caller.tenant_id, caller.session_id] = arrived
        self._changed()
        return arrived

    def give_up(self, caller: CallerContext, arrived: asyncio.Future[str]) -> None:
        """Keep the place no longer, whether the job has come or not."""
        key = (caller.tenant_id, caller.session_id)
        if self._awaited.get(key) is arrived:
            del self._awaited[key]
            self._slots.give_up(*key)
            self._changed()

    def _at_once(self, wanted: VoiceRequest) -> Refusal | None:
        caller = wanted.caller
        here = self._slots.is_kept(caller.tenant_id, caller.session_id)
        # a job that was meant for this node alone and comes too late has been sent to others since
        if wanted.node and (wanted.node != self._node_id or not here):
            return Refusal("OTHER_NODE", "the call is for another node", quiet=True)
        if self.draining:
            return Refusal("DRAINING", "the node is stopping")
        load = self._meter.load()
        if not here and load.cpu >= 1 and load.sessions < 1:
            return Refusal("CPU_BUSY", "the node's processors are busy")
        return None

    def _take(self, job_id: str, caller: CallerContext) -> Refusal | None:
        slot = Slot(job_id, caller.tenant_id, caller.session_id, self._clock.monotonic())
        match self._slots.take(slot):
            case NoSlot.FULL:
                return Refusal(
                    "NODE_FULL", f"the node holds {self._slots.slots_max} calls, as many as it may"
                )
            case NoSlot.TENANT_FULL:
                most = self._slots.tenant_max
                return Refusal("TENANT_FULL", f"the node holds {most} calls of the tenant, as many as it may")
            case NoSlot.HELD:
                return Refusal("SESSION_HELD", "another job holds the session", final=True)
            case None:
                return None

    async def _ask(self, caller: CallerContext) -> Refusal | None:
        try:
            async with asyncio.timeout(ASK_SECONDS_MAX):
                await self._permission.ask(caller)
        except TimeoutError:
            name = agent_name(caller.tenant_id, caller.agent_id)
            return Refusal("NOT_READY", f"the node still checks {name}")
        except VoxplaneError as error:
            unknown = error.reason_name == "AGENT_NOT_FOUND"
            final = unknown and self._permission.knows_all(TenantId(caller.tenant_id))
            return Refusal(error.reason_name, error.message, final=final)
        return None

    def _refuse(self, job_id: str, room: str, refused: Refused) -> None:
        refusal, caller = refused.refusal, refused.caller or CallerContext()
        self.refusals[refusal.reason] += 1
        said = _log.debug if refusal.quiet else _log.warning
        said(
            "call refused",
            reason=refusal.reason,
            message=refusal.message,
            final=refusal.final,
            tenant_id=caller.tenant_id,
            agent=caller.agent_id,
            session_id=caller.session_id or job_id,
            job_id=job_id,
            room=room,
        )
        if not refusal.quiet:
            told = {
                "reason": refusal.reason,
                "message": refusal.message,
                "final": refusal.final,
                "session_id": caller.session_id or job_id,
            }
            self._announce(caller.tenant_id, room, json.dumps(told).encode(), final=refusal.final)
