"""The server's end of one WatchConfig stream: events in, actions out, no I/O.

The rules that it keeps:

- A tenant's first transfer declares its intent and the reason: FULL if the
  client has nothing that can be built on (no start revision, another epoch, a
  revision below the history that is kept, no known bundles), DELTA with only
  the differences to what it declared, NONE if there are none. A revision that
  has not been made ends the stream.
- A full transfer has to be admitted; one that is not ends the stream, and says
  when to come again.
- Names that the client declared and that are gone, or that it does not watch
  any more, are removed by name.
- On a resume by DELTA a bundle that the node has refused is not sent again
  until it changes. It is named as withheld. A full transfer takes the place of
  all that the node has, and so holds it.
- A tenant only goes forward. A state that is not newer is passed over.
- The stream is level-triggered: it remembers what its client has been sent,
  and sends what is between that and the state that it is shown. States that it
  was never shown are skipped; `from_revision`, which is the revision that the
  client knows of, tells the gap, and `skipped_revisions` its size.
- All changes between two levels are one transfer, and nearly always one
  message: `start` in its first, `synced` in its last.
- Of each tenant a content goes along once; those that the client declared do
  not, whichever tenant's they were.
- A commit that changes no bundle sends nothing. It moves the level, and the
  next heartbeat says so.
- What the client may see is said anew with each state. An agent that it may
  not see any more is removed like one that is gone; a tenant of which it may
  see nothing is removed whole, and ends the stream if that was about it alone.
- Heartbeats come as long as the stream is open, each at most the interval
  after the one before, and jittered so that streams do not beat together.
- A stream that has reached its age, which is jittered too, says so at its next
  heartbeat, and ends. One that is told to drain says when to come back, and
  goes on until it is ended.
- Messages are numbered from 1; the number is the nonce. A report with a nonce
  that was not sent is refused.
- After Close nothing is sent.

The caller shows a state only when it can send, and carries the actions out in
order. What a client has of each tenant is moved when the messages are handed
out: a stream that breaks takes its memory with it, and the client's next
request says what has arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from control_plane.state import TenantState
from control_plane.watch.planner import Planner, Step
from control_plane.watch.rights import EVERY_AGENT, Permit
from control_plane.watch.scope import Scope
from control_plane.watch.subscription import Subscription
from control_plane.watch.transfer import Declared, Level, Part, Transfer, farewell
from voxplane.errors import Violation, VoxplaneError
from voxplane.names import AgentName, TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1 import revision_pb2

HEARTBEAT_SECONDS = 30.0
HEARTBEAT_SHARE_MIN = 0.75
"""A wait between heartbeats is this share of the interval, at least."""
HEARTBEAT_SHARE_MAX = 0.95
HEARTBEAT_TENANTS_MAX = 10_000
"""Revisions in one heartbeat; the rest goes with the next."""
AGE_SECONDS_MAX = 1_800.0
AGE_JITTER = 0.1
"""A stream's greatest age differs from the setting by this share, at most."""
FORBIDDEN = "not permitted any more"
NOT_REFUSED: Mapping[AgentName, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Opened:
    """The stream begins, at a time in seconds of a monotonic clock."""

    now: float


class StateChanged(NamedTuple):
    """A tenant's newest state, also the first one; what the client may see of
    it, and the etags of bundles that the node has refused."""

    state: TenantState
    permit: Permit = EVERY_AGENT
    refused: Mapping[AgentName, str] = NOT_REFUSED


@dataclass(frozen=True, slots=True)
class Forbidden:
    """The client may see nothing of a tenant, or not any more."""

    tenant_id: TenantId


@dataclass(frozen=True, slots=True)
class HeartbeatDue:
    """The time that HeartbeatAfter named is over."""

    now: float


@dataclass(frozen=True, slots=True)
class Draining:
    """The stream is to end; its client shall open another in so many seconds."""

    reason: sync_pb2.DrainReason
    reconnect_seconds: float


@dataclass(frozen=True, slots=True)
class ReportMissing:
    """The node's report of that sequence did not come."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Ending:
    """The stream has to end, for a reason that is not its own. With `forget`
    the client is told first to forget all that it has."""

    error: VoxplaneError
    forget: bool = False


Event = Opened | StateChanged | Forbidden | HeartbeatDue | Draining | ReportMissing | Ending


class Moved(NamedTuple):
    """The client will be level with `level` when message `nonce` has come, or
    is already if there is none. It comes before the messages themselves."""

    tenant_id: TenantId
    level: Level
    removed: tuple[AgentName, ...]
    nonce: int | None


@dataclass(frozen=True, slots=True)
class Dropped:
    """The tenant is gone from the stream, or was never part of it."""

    tenant_id: TenantId


@dataclass(frozen=True, slots=True)
class Ahead:
    """By the store's own epoch, the client has seen a revision of the tenant
    that the store has not made."""

    tenant_id: TenantId
    claimed: int
    actual: int


class Send(NamedTuple):
    """Send a message of a transfer."""

    part: Part
    nonce: int


@dataclass(frozen=True, slots=True)
class SendHeartbeat:
    """Send a heartbeat."""

    interval_seconds: float
    revisions: Mapping[TenantId, revision_pb2.Revision]
    nonce: int


@dataclass(frozen=True, slots=True)
class SendDrain:
    """Send a drain."""

    reason: sync_pb2.DrainReason
    reconnect_seconds: float
    nonce: int


@dataclass(frozen=True, slots=True)
class SendReportRequest:
    """Ask for the reports from a sequence on."""

    sequence: int
    nonce: int


@dataclass(frozen=True, slots=True)
class HeartbeatAfter:
    """Say HeartbeatDue after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """End the stream with an error."""

    error: VoxplaneError


Action = (
    Moved | Dropped | Ahead | Send | SendHeartbeat | SendDrain | SendReportRequest | HeartbeatAfter | Close
)


@dataclass(frozen=True, slots=True)
class StreamRules:
    """What all streams have in common. `jitter` returns 0 to 1; `admit` takes
    the bytes of a full transfer and returns 0, or the seconds to wait."""

    planner: Planner
    jitter: Callable[[], float]
    admit: Callable[[int], float]
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    age_seconds_max: float = AGE_SECONDS_MAX


class StreamState:
    """The state of one stream."""

    __slots__ = (
        "_closed",
        "_contents",
        "_declared",
        "_ends_at",
        "_levels",
        "_nonce",
        "_rules",
        "_scope",
        "_single",
        "_untold",
    )

    def __init__(self, rules: StreamRules, subscription: Subscription) -> None:
        self._rules = rules
        self._scope = subscription.scope
        self._single = not subscription.everything
        self._declared = dict(subscription.declared)
        self._contents: frozenset[str] = subscription.contents
        self._levels: dict[TenantId, Level] = {}
        self._untold: dict[TenantId, None] = {}
        self._nonce = 0
        self._ends_at = 0.0
        self._closed = False

    @property
    def nonce(self) -> int:
        """Number of the last message; 0 if there was none."""
        return self._nonce

    @property
    def ends_at(self) -> float:
        """When the stream reaches its age, by the clock of Opened."""
        return self._ends_at

    @property
    def closed(self) -> bool:
        """Whether the stream has ended."""
        return self._closed

    @property
    def declared(self) -> Mapping[TenantId, Declared]:
        """What the client said that it has of tenants that it was not shown yet."""
        return self._declared

    @property
    def tenants(self) -> set[TenantId]:
        """The tenants of which the client has something, or has said so."""
        return {*self._levels, *self._declared}

    def receive(self, event: Event) -> list[Action]:
        """Take an event, and say what to do, in order."""
        if self._closed:
            return []
        match event:
            case StateChanged():
                return self._state_changed(event)
            case Forbidden(tenant_id):
                return self._gone(tenant_id, FORBIDDEN)
            case HeartbeatDue(now):
                return self._heartbeat(now)
            case Opened(now):
                return self._opened(now)
            case Draining(reason, seconds):
                return [SendDrain(reason, seconds, self._next_nonce())]
            case ReportMissing(sequence):
                return [SendReportRequest(sequence, self._next_nonce())]
            case Ending(error, forget):
                gone = sorted(self.tenants) if forget else ()
                farewells = [action for each in gone for action in self._farewell(each, FORBIDDEN)]
                return [*farewells, *self._close(error)]

    def level(self, tenant_id: TenantId) -> Level | None:
        """Where the client is with a tenant, if it was shown it."""
        return self._levels.get(tenant_id)

    def follow(self, tenant_id: TenantId, step: Step) -> None:
        """A step from the client's level is sent, as message `nonce` + 1: what
        `receive(StateChanged(...))` would have led to."""
        if self._untold:
            self._untold.pop(tenant_id, None)
        self._levels[tenant_id] = step.after
        self._nonce += 1

    def check_nonce(self, nonce: str) -> None:
        """Raises VoxplaneError INVALID_REQUEST if no message has that nonce."""
        if nonce and int(nonce) > self._nonce:
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_INVALID_REQUEST,
                "the request is not valid",
                violations=[Violation("nonce", f"the stream has sent {self._nonce} messages")],
            )

    def _opened(self, now: float) -> list[Action]:
        rules = self._rules
        self._ends_at = now + rules.age_seconds_max * (1 + AGE_JITTER * (2 * rules.jitter() - 1))
        # The first beat comes at any time of the interval: clients that come
        # together part.
        return [HeartbeatAfter(rules.heartbeat_seconds * HEARTBEAT_SHARE_MAX * rules.jitter())]

    def _state_changed(self, event: StateChanged) -> list[Action]:
        state = event.state
        declared = self._declared.get(state.tenant_id)
        if not event.permit.tenant:
            return self._gone(state.tenant_id, FORBIDDEN)
        if declared is not None and _is_ahead(declared, state):
            return self._ahead(state, declared)
        if not self._single and _has_vanished(declared, state):
            return self._gone(state.tenant_id, "no such tenant", state.revision_message())
        scope = self._scope
        if event.permit.agents is not None:
            scope = replace(scope, permitted=event.permit.agents)
        have = self._levels.get(state.tenant_id)
        if have is None:
            return self._first(event, scope)
        transfer = self._rules.planner.transfer(have, state, scope)
        if transfer.after is have:
            return []
        if transfer.parts:
            self._rules.planner.remember(have, state, event.permit, transfer)
            return self._send(state.tenant_id, transfer)
        self._levels[state.tenant_id] = transfer.after
        if transfer.after.told != transfer.after.view.number:
            self._untold[state.tenant_id] = None
        return [Moved(state.tenant_id, transfer.after, (), None)]

    def _first(self, event: StateChanged, scope: Scope) -> list[Action]:
        state = event.state
        have = self._declared.pop(state.tenant_id, None) or Declared(contents=self._contents)
        if event.refused and have.revision is not None:
            have = replace(have, refused=frozenset(event.refused.items()))
        transfer = self._rules.planner.transfer(have, state, scope)
        wait = self._rules.admit(transfer.size) if transfer.is_full else 0.0
        if wait:
            return self._close(transfers_limited(wait))
        if self._single:
            self._contents = frozenset()
        return self._send(state.tenant_id, transfer)

    def _send(self, tenant_id: TenantId, transfer: Transfer) -> list[Action]:
        self._untold.pop(tenant_id, None)
        self._levels[tenant_id] = transfer.after
        first = self._nonce + 1
        self._nonce += len(transfer.parts)
        actions: list[Action] = [Moved(tenant_id, transfer.after, transfer.removed, self._nonce)]
        actions += [Send(part, nonce) for nonce, part in enumerate(transfer.parts, first)]
        return actions

    def _gone(
        self, tenant_id: TenantId, reason: str, revision: revision_pb2.Revision | None = None
    ) -> list[Action]:
        """The client may see nothing of the tenant, or there is none."""
        actions = self._farewell(tenant_id, reason, revision)
        if self._single:
            actions += self._close(not_permitted(tenant_id))
        return actions

    def _farewell(
        self, tenant_id: TenantId, reason: str, revision: revision_pb2.Revision | None = None
    ) -> list[Action]:
        """Take a tenant off the stream, with a word if the client has any of
        it; by the revision that it has if there is no newer."""
        level = self._levels.pop(tenant_id, None)
        declared = self._declared.pop(tenant_id, None)
        self._untold.pop(tenant_id, None)
        actions: list[Action] = [Dropped(tenant_id)]
        if level is not None:
            part = farewell(tenant_id, revision or level.revision, level.bundles, reason)
            actions.append(Send(part, self._next_nonce()))
        elif declared is not None:
            had = [AgentName(name) for name, _ in declared.etags]
            has = revision_pb2.Revision(number=declared.revision or 0, epoch=declared.epoch)
            actions.append(Send(farewell(tenant_id, revision or has, had, reason), self._next_nonce()))
        return actions

    def _ahead(self, state: TenantState, declared: Declared) -> list[Action]:
        closing = self._close(_in_future(state, declared))
        if declared.revision is None or declared.epoch != state.epoch:
            return closing
        return [Ahead(state.tenant_id, declared.revision, state.revision), *closing]

    def _heartbeat(self, now: float) -> list[Action]:
        rules = self._rules
        if now >= self._ends_at:
            drain = SendDrain(sync_pb2.DRAIN_REASON_MAX_AGE, 0.0, self._next_nonce())
            return [drain, *self._close(expired())]
        told = list(self._untold)[:HEARTBEAT_TENANTS_MAX]
        revisions = {tenant_id: self._levels[tenant_id].revision for tenant_id in told}
        for tenant_id in told:
            self._levels[tenant_id] = self._levels[tenant_id].all_told()
            del self._untold[tenant_id]
        share = HEARTBEAT_SHARE_MIN + (HEARTBEAT_SHARE_MAX - HEARTBEAT_SHARE_MIN) * rules.jitter()
        return [
            SendHeartbeat(rules.heartbeat_seconds, revisions, self._next_nonce()),
            HeartbeatAfter(rules.heartbeat_seconds * share),
        ]

    def _next_nonce(self) -> int:
        self._nonce += 1
        return self._nonce

    def _close(self, error: VoxplaneError) -> list[Action]:
        self._closed = True
        self._levels.clear()
        self._declared = {}
        return [Close(error)]


def _is_ahead(have: Declared, state: TenantState) -> bool:
    return have.revision is not None and have.revision > state.revision and have.epoch in ("", state.epoch)


def _has_vanished(have: Declared | None, state: TenantState) -> bool:
    return not state.revision and have is not None and bool(have.etags or have.revision)


def _in_future(state: TenantState, have: Declared) -> VoxplaneError:
    return VoxplaneError(
        reason_pb2.ERROR_REASON_REVISION_IN_FUTURE,
        f"tenant {state.tenant_id} is at {state.revision}, the client declares {have.revision}",
        metadata={"tenant": state.tenant_id, "revision": str(state.revision)},
    )


def transfers_limited(wait: float) -> VoxplaneError:
    """The error of a full transfer that has to wait, for so many seconds."""
    return VoxplaneError(
        reason_pb2.ERROR_REASON_TRANSFERS_LIMITED,
        "too many full transfers at once; come again",
        retry_after=wait,
    )


def not_permitted(tenant_id: str) -> VoxplaneError:
    """The error of a client that may see nothing of a tenant."""
    return VoxplaneError(
        reason_pb2.ERROR_REASON_PERMISSION_LOST,
        f"the watch of tenant {tenant_id} is not permitted",
        metadata={"tenant": tenant_id},
    )


def expired() -> VoxplaneError:
    """The error of a stream that has reached its age."""
    return VoxplaneError(
        reason_pb2.ERROR_REASON_STREAM_EXPIRED,
        "the stream has reached its greatest age; connect again",
        retry_after=0.0,
    )
