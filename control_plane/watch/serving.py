"""One open stream: carries out what its state decides, on any transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn

from control_plane.fleet import Fleet
from control_plane.state import Tenants, TenantState
from control_plane.watch.encoder import Encoder, Suffix, encode_drain, encode_report_request
from control_plane.watch.pace import Pace
from control_plane.watch.pins import Pins
from control_plane.watch.rights import Permit, Rights
from control_plane.watch.stream import (
    NOT_REFUSED,
    Action,
    Ahead,
    Close,
    Draining,
    Dropped,
    Ending,
    Event,
    Forbidden,
    HeartbeatAfter,
    HeartbeatDue,
    Moved,
    Opened,
    ReportMissing,
    Send,
    SendDrain,
    SendHeartbeat,
    SendReportRequest,
    StateChanged,
    StreamRules,
    StreamState,
    not_permitted,
)
from control_plane.watch.subscription import Subscription
from control_plane.watch.wave import Wave
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError
from voxplane.names import ALL_TENANTS, TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

LOOKS_PER_TURN = 32
"""Events of a stream after which others have a turn of the loop, whether it
sends anything or not."""

Pieces = tuple[bytes, bytes]
"""A message: what it shares with other streams, and what is the stream's own."""
Write = Callable[[Pieces], Awaitable[object]]
"""Hands one message to the transport; returns when it can take the next."""
Push = Callable[[bytes, bytes], bool]
"""Hands one message of two pieces to the transport if it can take it at once;
else returns False, and has taken nothing."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all streams of a process use together."""

    tenants: Tenants
    fleet: Fleet
    clock: Clock
    rights: Rights
    rules: StreamRules
    encoder: Encoder
    pace: Pace
    pins: Pins


class Stream:
    """One open stream. It has no task and no lock of its own: `serve` runs in
    its caller's task, and the others only leave word of what is to be done.

    Where the transport can take messages at once, most of them need no task at
    all: who wakes the stream does what it would do, up to where there is
    something to wait for.
    """

    __slots__ = (
        "_around",
        "_batch",
        "_called",
        "_dirty",
        "_drain",
        "_ending",
        "_forget",
        "_heartbeat_due",
        "_interrupted",
        "_left",
        "_list_again",
        "_missing_report",
        "_node",
        "_push",
        "_suffix",
        "_task",
        "_unsent",
        "_waiter",
        "node_id",
        "pinned",
        "principal",
        "queued",
        "slot",
        "state",
        "stream_id",
        "tenant_id",
        "unsent_bytes",
        "writing_since",
    )

    def __init__(
        self, around: Surroundings, stream_id: str, subscription: Subscription, greeting: bytes = b""
    ) -> None:
        self.stream_id = stream_id
        self.tenant_id = subscription.tenant_id
        self.node_id = subscription.node_id
        self.principal = subscription.principal
        self.state = StreamState(around.rules, subscription)
        self.pinned: set[TenantId] = set()
        self.slot = -1
        self.queued = False
        """Whether its turn to be woken is to come."""
        self.writing_since: float | None = None
        self.unsent_bytes = 0
        self._around = around
        self._node = around.fleet.record(stream_id) if subscription.node_id else None
        self._suffix = Suffix(stream_id, greeting)
        self._dirty: dict[TenantId, None] = {}
        self._batch: list[TenantId] = []
        self._called = False
        self._list_again = False
        self._heartbeat_due = False
        self._drain: Draining | None = None
        self._missing_report = 0
        self._ending: VoxplaneError | None = None
        self._forget = False
        self._interrupted = False
        self._task: asyncio.Task[object] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._push: Push | None = None
        self._left: list[Action] = []
        self._unsent: Pieces | None = None
        """What was decided and is not carried out: a message, and then actions."""

    def mark(self, tenant_id: TenantId) -> None:
        """The tenant has changed; `wake` is to follow."""
        self._dirty[tenant_id] = None

    def heartbeat_due(self) -> None:
        """It is time for a heartbeat."""
        self._heartbeat_due = self._called = True
        self.wake()

    def mark_all(self) -> None:
        """All that the stream shows may have changed; `wake` is to follow."""
        self._list_again = self._called = True

    def drain(self, reason: sync_pb2.DrainReason, reconnect_seconds: float) -> None:
        """Tell the client to open another stream in so many seconds."""
        self._drain = Draining(reason, reconnect_seconds)
        self._called = True
        self.wake()

    def report_missing(self, sequence: int) -> None:
        """Ask the node to report everything again."""
        self._missing_report = sequence
        self._called = True
        self.wake()

    def end(self, error: VoxplaneError) -> None:
        """End the stream at the next message."""
        self._ending = self._ending or error
        self._called = True
        self.wake()

    def interrupt(self) -> None:
        """If the stream is to end and hangs in a write, end the write."""
        hangs = self.writing_since is not None and not self._interrupted
        if self._ending and hangs and self._task:
            self._interrupted = True
            self._task.cancel()

    def wake(self, wave: Wave | None = None) -> None:
        """There is something to send. Streams that are woken together are given
        the same wave."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if wave is not None and self._push is not None and not self._called:
            # Meanwhile nobody else has to wake it.
            self._waiter = None
            try:
                idle = self._do_at_once(self._push, wave)
            except Exception as error:
                self._waiter = waiter
                waiter.set_exception(error)
                return
            self._waiter = waiter
            if idle:
                return
        waiter.set_result(None)

    def _do_at_once(self, push: Push, wave: Wave) -> bool:
        """Send what can be sent without a wait; says whether that was all."""
        for _ in range(LOOKS_PER_TURN):
            if self._called:
                return False
            if not (self._dirty or self._batch):
                return True
            tenant_id = self._next_tenant()
            permit = self._around.rights.permit(self.principal, tenant_id)
            if self._follow(tenant_id, permit, wave, push):
                continue
            state = self._at_once(tenant_id, permit)
            if state is None:
                self._batch.append(tenant_id)
                return False
            actions = self.state.receive(StateChanged(state, permit, NOT_REFUSED))
            for number, action in enumerate(actions):
                data = self._carry_out(action)
                if data is not None and not push(*data):
                    self._unsent, self._left = data, actions[number + 1 :]
                    return False
        return False

    def _follow(self, tenant_id: TenantId, permit: Permit, wave: Wave, push: Push) -> bool:
        """Send what others have been sent from the same level, and do what
        StateChanged would have led to. False if there is no such thing or the
        transport does not take it, and then nothing has happened."""
        state = self.state
        have = state.level(tenant_id)
        if have is None:
            return False
        if wave.tenant_id != tenant_id:
            wave.turn_to(tenant_id)
        step = wave.steps.get(id(have))
        if step is None or step.permit is not permit:
            return False
        nonce = state.nonce + 1
        if not push(wave.data(step), self._suffix.bytes(nonce)):
            return False
        state.follow(tenant_id, step)
        node = self._node
        if node is not None and not (step.is_plain and node.follow(tenant_id, step.after, nonce)):
            self._ask(self._around.fleet.sent(self.stream_id, tenant_id, step.after, step.removed, nonce))
        return True

    async def serve(self, write: Write, push: Push | None = None) -> NoReturn:
        """Send what there is to send, until the stream ends: with
        VoxplaneError, or with what `write` raises."""
        event: Event | None
        loop = asyncio.get_running_loop()
        looks = 0
        self._task = asyncio.current_task()
        self._push = push
        try:
            await self._begin()
            while True:
                while not (self._dirty or self._batch or self._called):
                    if not self.state.nonce:
                        # There was nothing to send: a sign of life tells the
                        # client that it has all there is.
                        self._heartbeat_due = self._called = True
                        break
                    self._waiter = loop.create_future()
                    await self._waiter
                    self._waiter = None
                    await self._go_on(write)
                if self._list_again:
                    await self._list()
                    continue
                if self._called:
                    event = self._call()
                else:
                    event = await self._look()
                self._left = self.state.receive(event)
                event = None  # while it waits, the stream holds no old state
                await self._go_on(write)
                looks += 1
                if looks == LOOKS_PER_TURN:
                    looks = 0
                    await asyncio.sleep(0)
        except asyncio.CancelledError as cancelled:
            raise self._why_ended(cancelled) from None
        finally:
            self.writing_since = self._task = self._waiter = self._push = None

    async def _go_on(self, write: Write) -> None:
        """Carry out what is left of what was decided."""
        data, self._unsent = self._unsent, None
        while data is not None or self._left:
            if data is not None:
                self.writing_since = self._around.clock.monotonic()
                self.unsent_bytes = len(data[0]) + len(data[1])
                await write(data)
                self.writing_since = None
            data = self._carry_out(self._left.pop(0)) if self._left else None

    def _why_ended(self, cancelled: asyncio.CancelledError) -> BaseException:
        """What ends the stream: what interrupt() was called for, or else the
        cancellation."""
        if self._interrupted and self._ending and self._task and not self._task.uncancel():
            return self._ending
        return cancelled

    async def _begin(self) -> None:
        around = self._around
        for action in self.state.receive(Opened(around.clock.monotonic())):
            self._carry_out(action)
        await self._list()

    async def _list(self) -> None:
        """Mark all tenants that the stream is about."""
        self._list_again = False
        self._called = bool(self._ending or self._drain or self._missing_report or self._heartbeat_due)
        tenant_ids = self.state.tenants
        if self.tenant_id != ALL_TENANTS:
            tenant_ids.add(TenantId(self.tenant_id))
        elif self._around.rights.permit(self.principal, ALL_TENANTS).tenant:
            tenant_ids.update(await self._around.tenants.tenant_ids())
        else:
            self._forget = True
            self.end(not_permitted(ALL_TENANTS))
            return
        self._dirty.update(dict.fromkeys(sorted(tenant_ids)))

    def _call(self) -> Event:
        """What others have left word of; the end goes before all else."""
        event: Event
        if self._ending:
            return Ending(self._ending, self._forget)
        if self._drain:
            event, self._drain = self._drain, None
        elif self._missing_report:
            event, self._missing_report = ReportMissing(self._missing_report), 0
        else:
            event, self._heartbeat_due = HeartbeatDue(self._around.clock.monotonic()), False
        self._called = bool(self._drain or self._missing_report or self._heartbeat_due)
        return event

    def _next_tenant(self) -> TenantId:
        """The next tenant that has changed, in the order of arrival. What
        changes meanwhile waits for the next round, so that no tenant is served
        twice before the others."""
        if not self._batch:
            if len(self._dirty) == 1:
                return self._dirty.popitem()[0]
            self._batch = [*self._dirty]
            self._batch.reverse()
            self._dirty.clear()
        return self._batch.pop()

    def _at_once(self, tenant_id: TenantId, permit: Permit) -> TenantState | None:
        """A tenant's state, if it is in memory and watched already."""
        if not permit.tenant or tenant_id not in self.pinned or tenant_id in self.state.declared:
            return None
        return self._around.tenants.peek(tenant_id)

    async def _look(self) -> Event:
        """Look at the next tenant. One that may not be seen is not loaded."""
        around, tenant_id = self._around, self._next_tenant()
        permit = around.rights.permit(self.principal, tenant_id)
        if not permit.tenant:
            return Forbidden(tenant_id)
        if tenant_id not in self.pinned:
            around.pins.pin(self, tenant_id)
        state = around.tenants.peek(tenant_id)
        if state is None:
            state = await around.tenants.get(tenant_id)
            permit = around.rights.permit(self.principal, tenant_id)
            if not permit.tenant:
                return Forbidden(tenant_id)
        refused = NOT_REFUSED
        if self.node_id and tenant_id in self.state.declared:
            refused = around.fleet.refused(self.node_id, tenant_id)
        return StateChanged(state, permit, refused)

    def _carry_out(self, action: Action) -> Pieces | None:
        """Do what has to be done at once; returns what is to be sent."""
        around = self._around
        match action:
            case Send(part, nonce):
                return around.encoder.part(part), self._suffix.bytes(nonce)
            case Moved(tenant_id, level, removed, nonce):
                if self.node_id:
                    self._ask(around.fleet.sent(self.stream_id, tenant_id, level, removed, nonce))
            case Dropped(tenant_id):
                around.pins.unpin(self, tenant_id)
                if self.node_id:
                    self._ask(around.fleet.removed(self.stream_id, tenant_id))
            case Ahead(tenant_id, claimed, actual):
                around.tenants.ahead(tenant_id, claimed, actual)
            case HeartbeatAfter(seconds):
                around.pace.schedule(self, seconds)
            case Close(error):
                raise error
            case _:
                return self._rare(action), self._suffix.bytes(action.nonce)
        return None

    def _ask(self, missing: int) -> None:
        if missing:
            self.report_missing(missing)

    def _rare(self, action: SendHeartbeat | SendDrain | SendReportRequest) -> bytes:
        match action:
            case SendHeartbeat(seconds, revisions):
                return self._around.encoder.heartbeat(seconds, revisions)
            case SendDrain(reason, seconds):
                return encode_drain(reason, seconds)
            case SendReportRequest(sequence):
                return encode_report_request(sequence)
