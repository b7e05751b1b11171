"""A node's gate with everything around it faked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from livekit.agents import JobRequest
from livekit.protocol import agent, models

from agent_node.calls.gate import Gate
from agent_node.calls.load import LoadMeter
from agent_node.calls.rooms import People, RoomsError
from agent_node.calls.slots import Slots
from agent_node.job.voice_request import VoiceRequest, request_of
from agent_node.relay import Orphan
from tests.virtual_clock import VirtualClock
from voxplane.names import TenantId
from voxplane.node.v1.relay_service_pb2 import CallerContext
from voxplane.v1 import session_pb2


def metadata(tenant: str = "acme", **more: str) -> str:
    """A job's metadata."""
    return json.dumps({"tenant": tenant, "agent": "sales", **more})


class FakePermission:
    """`answer` is awaited for every call; `level` are tenants of which all is known."""

    def __init__(self) -> None:
        self.asked: list[CallerContext] = []
        self.error: Exception | None = None
        self.waits = False
        self.level: set[str] = set()

    async def ask(self, caller: CallerContext) -> None:
        """Raise what the test has set."""
        self.asked.append(caller)
        if self.waits:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error

    def knows_all(self, tenant_id: TenantId) -> bool:
        """What the test has set."""
        return tenant_id in self.level


@dataclass
class Answers:
    """What LiveKit was answered of one job."""

    accepted: list[dict[str, str]] = field(default_factory=list)
    rejected: list[bool] = field(default_factory=list)


class CallWorld:
    """A gate, and what it says to others."""

    def __init__(self, *, slots_max: int = 2, tenant_max: int = 0, cores: float = 100.0) -> None:
        self.clock = VirtualClock()
        self.slots = Slots(slots_max, tenant_max)
        self.meter = LoadMeter(self.slots, self.clock, cpu_max=0.7, cores=cores)
        self.permission = FakePermission()
        self.told: list[tuple[str, dict[str, Any], bool]] = []
        self.unlaunched: list[str] = []
        self.gate = Gate(
            node_id="n-1",
            slots=self.slots,
            meter=self.meter,
            permission=self.permission,
            clock=self.clock,
            announce=self._announce,
            unlaunched=lambda request: self.unlaunched.append(request.id),
        )

    def _announce(self, tenant_id: str, room: str, data: bytes, *, final: bool) -> None:
        self.told.append((room, json.loads(data), final))

    async def offer(
        self, job_id: str, job_metadata: str, *, assigned: Exception | None = None, dispatch_id: str = ""
    ) -> Answers:
        """LiveKit offers a job, and assigns it or fails."""
        answers = Answers()

        async def on_reject(terminate: bool) -> None:
            answers.rejected.append(terminate)

        async def on_accept(arguments: Any) -> None:
            answers.accepted.append(arguments.attributes)
            if assigned is not None:
                raise assigned

        job = agent.Job(id=job_id, metadata=job_metadata, dispatch_id=dispatch_id or f"AD_{job_id}")
        job.room.CopyFrom(models.Room(name="room-1"))
        await self.gate.answer(JobRequest(job=job, on_reject=on_reject, on_accept=on_accept))
        return answers


@dataclass
class Dispatch:
    """A dispatch that the healer asked for."""

    id: str
    wanted: VoiceRequest


class FakeRooms:
    """agent_node.calls.rooms.Rooms with one room. `on_dispatch` is what LiveKit
    makes of a dispatch."""

    def __init__(self) -> None:
        self.callers = 1
        self.agents: dict[str, str] = {}
        self.dispatches: list[Dispatch] = []
        self.deleted: list[str] = []
        self.removed: list[str] = []
        self.sent: list[bytes] = []
        self.failures = 0
        self.on_dispatch: Callable[[Dispatch], None] = lambda dispatch: None

    def _reach(self) -> None:
        if self.failures:
            self.failures -= 1
            raise RoomsError("LiveKit cannot be reached")

    async def people(self, room: str) -> People:
        """See Rooms."""
        self._reach()
        return People(self.callers, self.callers, frozenset(self.agents.items()))

    async def remove(self, room: str, identity: str) -> None:
        """See Rooms."""
        self._reach()
        self.removed.append(identity)
        self.agents.pop(identity, None)

    async def dispatch(self, room: str, agent_name: str, metadata: str) -> str:
        """See Rooms."""
        self._reach()
        made = Dispatch(f"AD_new{len(self.dispatches)}", request_of(metadata, "job-new"))
        self.dispatches.append(made)
        self.on_dispatch(made)
        await asyncio.sleep(0)  # the server may offer it before it answers
        return made.id

    async def delete_dispatch(self, room: str, dispatch_id: str) -> None:
        """See Rooms."""
        self._reach()
        self.deleted.append(dispatch_id)

    async def send(self, room: str, topic: str, data: bytes) -> None:
        """See Rooms."""
        self._reach()
        self.sent.append(data)


class FakeDesk:
    """agent_node.calls.worker.Desk with what the test says."""

    def __init__(self) -> None:
        self.orphans: asyncio.Queue[Orphan] = asyncio.Queue()
        self.waiting = True
        self.given_up: list[str] = []
        self.moves: list[str] = []
        self.known: set[str] = set()
        self.ends: list[str] = []

    def waits(self, orphan: Orphan) -> bool:
        """See Desk."""
        return self.waiting

    def give_up(self, orphan: Orphan, reason: str) -> None:
        """See Desk."""
        self.given_up.append(reason)

    def moved(self, orphan: Orphan) -> None:
        """See Desk."""
        self.moves.append(orphan.job_id)

    def attached(self, job_id: str) -> bool:
        """See Desk."""
        return job_id in self.known

    def end_all(self, reason: str) -> int:
        """See Desk."""
        self.ends.append(reason)
        return 0


def orphan(job_id: str = "job-1", session_id: str = "s-1") -> Orphan:
    """A call that has lost its process."""
    caller = CallerContext(
        session_id=session_id, tenant_id="acme", agent_id="sales", user_id="ann", variables={"name": "Ann"}
    )
    return Orphan(caller, "room-1", job_id, session_pb2.SESSION_KIND_VOICE, 0)
