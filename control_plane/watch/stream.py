"""The server's end of one WatchConfig stream: events in, actions out, no I/O.

The rules that it keeps:

- A tenant's first transfer declares its intent and the reason: FULL if the
  client has nothing that can be built on (no start revision, another epoch, no
  known bundles), DELTA with only the differences to what it declared, NONE if
  there are none. A revision that has not been made ends the stream.
- Names that the client declared and that are gone, or that it does not watch
  any more, are removed by name.
- A tenant only goes forward. A state that is not newer is passed over.
- The stream is level-triggered: it remembers what its client has been sent,
  and sends what is between that and the state that it is shown. States that it
  was never shown are skipped; `from_revision`, which is the revision that the
  client knows of, tells the gap.
- All changes between two levels are one transfer, and nearly always one
  message: `start` in its first, `synced` in its last.
- Of each tenant a content goes along once; those that the client declared do
  not, whichever tenant's they were.
- A commit that changes no bundle sends nothing. It moves the level, and the
  next heartbeat says so.
- Heartbeats come as long as the stream is open, each at most the interval
  after the one before, and jittered so that streams do not beat together.
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
from dataclasses import dataclass

from control_plane.state import TenantState
from control_plane.watch.planner import Planner
from control_plane.watch.transfer import Declared, Level, Part, Scope
from voxplane.errors import Violation, VoxplaneError
from voxplane.names import ALL_TENANTS, AgentName, TenantId, agent_name, split_agent_name
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1 import revision_pb2

HEARTBEAT_SECONDS = 30.0
HEARTBEAT_SHARE_MIN = 0.75
"""A wait between heartbeats is this share of the interval, at least."""
HEARTBEAT_SHARE_MAX = 0.95
HEARTBEAT_TENANTS_MAX = 10_000
"""Revisions in one heartbeat; the rest goes with the next."""
VIOLATIONS_MAX = 20


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The client's request. It is valid by the rules of the contract."""

    request: sync_pb2.WatchConfigRequest


@dataclass(frozen=True, slots=True)
class StateChanged:
    """A tenant's newest state; also the first one."""

    state: TenantState


@dataclass(frozen=True, slots=True)
class HeartbeatDue:
    """The time that HeartbeatAfter named is over."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The stream has to end, for a reason that is not its own."""

    error: VoxplaneError


Event = Subscribed | StateChanged | HeartbeatDue | Ending


@dataclass(frozen=True, slots=True)
class Moved:
    """The client will be level with `level` when message `nonce` has come, or
    is already if there is none. It comes before the messages themselves."""

    tenant_id: TenantId
    level: Level
    removed: tuple[AgentName, ...]
    nonce: int | None


@dataclass(frozen=True, slots=True)
class Send:
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
class HeartbeatAfter:
    """Say HeartbeatDue after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """End the stream with an error."""

    error: VoxplaneError


Action = Moved | Send | SendHeartbeat | HeartbeatAfter | Close


class StreamState:
    """The state of one stream. `jitter` returns 0 to 1."""

    __slots__ = (
        "_closed",
        "_contents",
        "_declared",
        "_heartbeat_seconds",
        "_jitter",
        "_levels",
        "_nonce",
        "_planner",
        "_scope",
        "_tenant_id",
        "_untold",
    )

    def __init__(
        self, planner: Planner, jitter: Callable[[], float], heartbeat_seconds: float = HEARTBEAT_SECONDS
    ) -> None:
        self._planner = planner
        self._jitter = jitter
        self._heartbeat_seconds = heartbeat_seconds
        self._tenant_id = ""
        self._scope: Scope = None
        self._declared: dict[TenantId, Declared] = {}
        self._contents: frozenset[str] = frozenset()
        self._levels: dict[TenantId, Level] = {}
        self._untold: dict[TenantId, None] = {}
        self._nonce = 0
        self._closed = False

    @property
    def nonce(self) -> int:
        """Number of the last message; 0 if there was none."""
        return self._nonce

    @property
    def closed(self) -> bool:
        """Whether the stream has ended."""
        return self._closed

    @property
    def declared(self) -> Mapping[TenantId, Declared]:
        """What the client said that it has of tenants that it was not shown yet."""
        return self._declared

    def receive(self, event: Event) -> list[Action]:
        """Take an event, and say what to do, in order."""
        if self._closed:
            return []
        match event:
            case StateChanged(state):
                return self._state_changed(state)
            case HeartbeatDue():
                return self._heartbeat()
            case Subscribed(request):
                return self._subscribed(request)
            case Ending(error):
                return self._close(error)

    def check_nonce(self, nonce: str) -> None:
        """Raises VoxplaneError INVALID_REQUEST if no message has that nonce."""
        if nonce and int(nonce) > self._nonce:
            raise _invalid([Violation("nonce", f"the stream has sent {self._nonce} messages")])

    def _subscribed(self, request: sync_pb2.WatchConfigRequest) -> list[Action]:
        self._tenant_id = request.tenant_id
        self._contents = frozenset(request.known_contents)
        if request.agent_ids:
            self._scope = frozenset(agent_name(request.tenant_id, agent) for agent in request.agent_ids)
        try:
            self._declared = _declared(request, self._contents)
        except VoxplaneError as error:
            return self._close(error)
        # The first beat comes at any time of the interval: clients that come
        # together part.
        return [HeartbeatAfter(self._heartbeat_seconds * HEARTBEAT_SHARE_MAX * self._jitter())]

    def _state_changed(self, state: TenantState) -> list[Action]:
        tenant_id = state.tenant_id
        have = self._levels.get(tenant_id)
        if have is None:
            return self._first(state)
        transfer = self._planner.transfer(have, state, self._scope)
        after = transfer.after
        if after is have:
            return []
        self._levels[tenant_id] = after
        if not transfer.parts:
            self._untold[tenant_id] = None
            return [Moved(tenant_id, after, (), None)]
        self._untold.pop(tenant_id, None)
        return self._send(tenant_id, after, transfer.removed, transfer.parts)

    def _first(self, state: TenantState) -> list[Action]:
        have = self._declared.pop(state.tenant_id, None) or Declared(contents=self._contents)
        if have.revision is not None and have.revision > state.revision and have.epoch in ("", state.epoch):
            return self._close(
                VoxplaneError(
                    reason_pb2.ERROR_REASON_REVISION_IN_FUTURE,
                    f"tenant {state.tenant_id} is at {state.revision}, the client declares {have.revision}",
                    metadata={"tenant": state.tenant_id, "revision": str(state.revision)},
                )
            )
        transfer = self._planner.transfer(have, state, self._scope)
        if self._tenant_id != ALL_TENANTS:
            self._contents = frozenset()
        self._levels[state.tenant_id] = transfer.after
        return self._send(state.tenant_id, transfer.after, transfer.removed, transfer.parts)

    def _send(
        self, tenant_id: TenantId, after: Level, removed: tuple[AgentName, ...], parts: tuple[Part, ...]
    ) -> list[Action]:
        first = self._nonce + 1
        self._nonce += len(parts)
        actions: list[Action] = [Moved(tenant_id, after, removed, self._nonce)]
        actions += [Send(part, nonce) for nonce, part in enumerate(parts, first)]
        return actions

    def _heartbeat(self) -> list[Action]:
        told = list(self._untold)[:HEARTBEAT_TENANTS_MAX]
        revisions = {tenant_id: self._levels[tenant_id].revision for tenant_id in told}
        for tenant_id in told:
            self._levels[tenant_id] = self._levels[tenant_id].all_told()
            del self._untold[tenant_id]
        self._nonce += 1
        share = HEARTBEAT_SHARE_MIN + (HEARTBEAT_SHARE_MAX - HEARTBEAT_SHARE_MIN) * self._jitter()
        return [
            SendHeartbeat(self._heartbeat_seconds, revisions, self._nonce),
            HeartbeatAfter(self._heartbeat_seconds * share),
        ]

    def _close(self, error: VoxplaneError) -> list[Action]:
        self._closed = True
        self._levels.clear()
        self._declared = {}
        return [Close(error)]


def _declared(request: sync_pb2.WatchConfigRequest, contents: frozenset[str]) -> dict[TenantId, Declared]:
    """What the request declares, by tenant. Raises VoxplaneError."""
    violations: list[Violation] = []
    everything = request.tenant_id == ALL_TENANTS
    if everything and request.agent_ids:
        violations.append(Violation("agent_ids", "can be given only with one tenant"))
    etags: dict[TenantId, list[tuple[str, str]]] = {}
    for name, etag in request.known.items():
        try:
            tenant_id, _ = split_agent_name(name)
        except ValueError as error:
            violations.append(Violation(f'known["{name}"]', str(error)))
            continue
        if not everything and tenant_id != request.tenant_id:
            violations.append(Violation(f'known["{name}"]', f"is not of tenant {request.tenant_id}"))
        etags.setdefault(tenant_id, []).append((name, etag))
    for tenant in request.start_revisions:
        if not everything and tenant != request.tenant_id:
            violations.append(Violation(f'start_revisions["{tenant}"]', "is not the tenant of the watch"))
    if violations:
        raise _invalid(violations[:VIOLATIONS_MAX])
    found: dict[TenantId, Declared] = {}
    for tenant_id in {*etags, *map(TenantId, request.start_revisions)}:
        known = frozenset(etags.get(tenant_id, ()))
        if tenant_id in request.start_revisions:
            start = request.start_revisions[tenant_id]
            found[tenant_id] = Declared(start.number, start.epoch, known, contents)
        else:
            found[tenant_id] = Declared(etags=known, contents=contents)
    return found


def _invalid(violations: list[Violation]) -> VoxplaneError:
    return VoxplaneError(
        reason_pb2.ERROR_REASON_INVALID_REQUEST, "the request is not valid", violations=violations
    )
