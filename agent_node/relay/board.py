"""What the node has to give of every agent: the newest bundle that works.

- A bundle is offered to jobs once staging has passed it. Until then, and if it
  is refused, the last good one goes on, for running sessions and new ones.
- Jobs are woken, not sent to: each looks for the newest offer when it can, and
  skips what it missed.
- A refused bundle does not come back to life: only a new one is staged. But one
  for which the node lacks a secret or a provider is tried again, at growing
  intervals, as those may come without a new bundle.
- Statuses carry a time that never runs backwards while the node lives, whatever
  is done to its clock, as the server takes the newest for true.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count

import structlog
from google.rpc import status_pb2  # pyright: ignore[reportMissingTypeStubs]

from agent_node.relay.offer import Offer, offer_of
from agent_node.relay.staging import Stager
from agent_node.relay.status import (
    Arrived,
    BundleTracker,
    Event,
    Persisted,
    Removed,
    SessionBegan,
    SessionEnded,
    SessionReported,
    Staged,
)
from agent_node.upstream import Snapshot
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError, reason_of, violations_of
from voxplane.names import AgentName, TenantId, split_agent_name
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

RECHECK_SECONDS_MIN = 5.0
RECHECK_SECONDS_MAX = 300.0
RECHECKED = frozenset({"SECRET_UNAVAILABLE", "PROVIDER_UNKNOWN", "TOOLS_UNAVAILABLE"})

_log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Line:
    """One agent: what it should run, what it can, and who waits for news."""

    name: AgentName
    tracker: BundleTracker
    desired: Offer | None = None
    good: Offer | None = None
    spare: Offer | None = None
    refusal: status_pb2.Status | None = None
    staging: asyncio.Task[None] | None = None
    recheck: asyncio.Task[None] | None = None
    rechecks: int = 0
    watchers: set[asyncio.Event] = field(default_factory=set[asyncio.Event])

    def wake(self) -> None:
        for watcher in self.watchers:
            watcher.set()


class Attachment:
    """One session's view of its agent."""

    def __init__(self, line: _Line, session: int, tell: Callable[[_Line, Event], None]) -> None:
        self._line = line
        self._session = session
        self._tell = tell
        self._seen: Offer | None = None
        self._began = False
        self._news = asyncio.Event()
        line.watchers.add(self._news)

    async def next(self) -> Offer | None:
        """The newest offer that this session has not been given, or None when
        the agent was removed. Waits for it."""
        while True:
            offer = self._line.good
            if offer is None and self._seen is not None:
                self._seen = None
                return None
            if offer is not None and (self._seen is None or offer.key != self._seen.key):
                self._seen = offer
                if not self._began:
                    self._began = True
                    self._tell(self._line, SessionBegan(self._session, offer.bundle.etag))
                return offer
            self._news.clear()
            await self._news.wait()

    def report(self, status: sync_pb2.BundleStatus) -> None:
        """What became of a bundle in the session; of one of an agent that the
        session has left nobody has to know."""
        if status.name in ("", self._line.name):
            self._tell(self._line, SessionReported(self._session, status))

    def move(self, line: _Line) -> None:
        """Follow another agent; its present offer is the next. See Board."""
        self.close()
        self._line, self._seen, self._began = line, None, False
        line.watchers.add(self._news)
        self._news.set()

    def close(self) -> None:
        """The session is over."""
        self._line.watchers.discard(self._news)
        self._tell(self._line, SessionEnded(self._session))


class Board:
    """The agents of all tenants on this node. `report` and `forget` are told
    of changed statuses and of removed agents."""

    def __init__(
        self,
        stager: Stager,
        clock: Clock,
        *,
        report: Callable[[sync_pb2.BundleStatus], None],
        forget: Callable[[str], None],
    ) -> None:
        self._stager = stager
        self._clock = clock
        self._report = report
        self._forget = forget
        self._lines: dict[AgentName, _Line] = {}
        self._tenants: dict[TenantId, set[AgentName]] = {}
        self._unsaved: dict[TenantId, set[AgentName]] = {}
        self._sessions = count(1)
        self._refusals = 0
        self._since = clock.time() - clock.monotonic()

    @property
    def sessions(self) -> int:
        """Count of sessions that follow an agent."""
        return sum(len(line.watchers) for line in self._lines.values())

    @property
    def refusals(self) -> int:
        """How often a bundle was refused."""
        return self._refusals

    def refused(self) -> list[tuple[AgentName, int, int, status_pb2.Status]]:
        """Agents whose newest bundle cannot be used, by name: the revision of
        that bundle, of the one that goes on (0: none), and why."""
        return [
            (name, line.desired.bundle.revision, line.good.bundle.revision if line.good else 0, line.refusal)
            for name, line in sorted(self._lines.items())
            if line.desired is not None and line.refusal is not None
        ]

    def offer(self, name: AgentName) -> Offer | None:
        """What a new session of an agent gets; None if there is nothing."""
        line = self._lines.get(name)
        return line.good if line else None

    def restore(self, snapshot: Snapshot, held: Snapshot) -> None:
        """Begin with what was on disk; `held` are bundles to fall back on."""
        for name in held.bundles:
            self._line(name).spare = offer_of(held, name)
        self.applied(snapshot)
        self.persisted(snapshot)

    def applied(self, snapshot: Snapshot) -> None:
        """A tenant's snapshot was replaced, whole."""
        unsaved = self._unsaved.setdefault(snapshot.tenant_id, set())
        for name, bundle in snapshot.bundles.items():
            line = self._line(name)
            if line.desired is None or line.desired.key != (bundle.etag, bundle.revision):
                line.desired = offer_of(snapshot, name)
                line.rechecks = 0
                unsaved.add(name)
                self._tell(line, Arrived(bundle.etag, bundle.revision))
                self._stage(line)
        before = self._tenants.get(snapshot.tenant_id, set())
        for name in before - snapshot.bundles.keys():
            self._remove(name)
        self._tenants[snapshot.tenant_id] = set(snapshot.bundles)

    def forgotten(self, tenant_id: TenantId) -> None:
        """A tenant is gone, with all its agents."""
        for name in self._tenants.pop(tenant_id, set()):
            self._remove(name)
        self._unsaved.pop(tenant_id, None)

    def persisted(self, snapshot: Snapshot) -> None:
        """A snapshot is on disk."""
        unsaved = self._unsaved.get(snapshot.tenant_id, set())
        for name in list(unsaved):
            bundle, line = snapshot.bundles.get(name), self._lines.get(name)
            if bundle is None or line is None or line.desired is None:
                continue
            if line.desired.key == (bundle.etag, bundle.revision):
                unsaved.discard(name)
                self._tell(line, Persisted(bundle.etag))

    def held(self, snapshot: Snapshot) -> Snapshot:
        """The bundles to keep on disk beside a snapshot: the last good ones of
        agents whose present bundle is not proven, or refused."""
        offers: list[Offer] = []
        for name in snapshot.bundles:
            line = self._lines.get(name)
            good = (line.good or line.spare) if line else None
            if line and good and (line.desired is None or good.key != line.desired.key):
                offers.append(good)
        return _snapshot_of(snapshot, offers)

    def attach(self, name: AgentName) -> Attachment:
        """A session begins to follow an agent. Its first offer may have to be
        waited for; see `ready`. Close it when the session is over."""
        return Attachment(self._line(name), next(self._sessions), self._tell)

    async def move(self, attachment: Attachment, name: AgentName) -> None:
        """Have a session follow another agent, once that has something to
        offer. Raises VoxplaneError as `ready` does; the session then goes on
        with the agent that it has."""
        await self.ready(name)
        attachment.move(self._line(name))

    async def ready(self, name: AgentName) -> None:
        """Wait while an agent's first bundle is staged. Raises VoxplaneError:
        AGENT_NOT_FOUND, or BUILD_FAILED if there is none that works."""
        line = self._lines.get(name)
        while line is not None and line.good is None and line.staging is not None:
            await asyncio.wait([line.staging])
        if line is None or line.desired is None:
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_AGENT_NOT_FOUND,
                f"the node does not know {name}",
                metadata={"agent": name},
            )
        if line.good is None:
            why = line.refusal or status_pb2.Status()
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_BUILD_FAILED,
                f"no bundle of {name} can be used: {why.message}",
                violations=violations_of(why),
                metadata={"agent": name},
            )

    def _line(self, name: AgentName) -> _Line:
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line(name, BundleTracker(name))
        return line

    def _remove(self, name: AgentName) -> None:
        line = self._lines[name]
        line.desired = line.good = line.spare = line.refusal = None
        if line.recheck is not None:
            line.recheck.cancel()
        self._forget(name)
        self._tell(line, Removed())
        line.wake()

    def _tell(self, line: _Line, event: Event) -> None:
        status = line.tracker.receive(event, self._since + self._clock.monotonic())
        if status is not None:
            self._report(status)
        if not line.watchers and line.desired is None and self._lines.get(line.name) is line:
            del self._lines[line.name]

    def _stage(self, line: _Line) -> None:
        if line.staging is not None:
            return
        assert line.desired is not None
        if self._stager.proven(line.desired):
            self._settle(line, line.desired, None)
        else:
            line.staging = asyncio.create_task(self._stage_newest(line))

    async def _stage_newest(self, line: _Line) -> None:
        try:
            while (offer := line.desired) is not None:
                refusal = await self._stager.refusal(offer)
                reasons = {reason_of(refusal)} if refusal is not None else set[str]()
                if refusal is not None and line.good is None and (spare := line.spare) is not None:
                    spare_refusal = await self._stager.refusal(spare)
                    if spare_refusal is not None:
                        reasons.add(reason_of(spare_refusal))
                    elif line.spare is spare:
                        line.good = spare
                if line.desired is offer:
                    self._settle(line, offer, refusal)
                    if reasons & RECHECKED:
                        self._recheck_later(line, offer)
                    return
        finally:
            line.staging = None

    def _recheck_later(self, line: _Line, offer: Offer) -> None:
        seconds = min(RECHECK_SECONDS_MIN * 2.0 ** min(line.rechecks, 16), RECHECK_SECONDS_MAX)
        line.rechecks += 1
        if line.recheck is not None:
            line.recheck.cancel()
        line.recheck = asyncio.create_task(self._recheck(line, offer, seconds))

    async def _recheck(self, line: _Line, offer: Offer, seconds: float) -> None:
        await self._clock.sleep(seconds)
        line.recheck = None
        if line.desired is offer:
            self._stage(line)

    def _settle(self, line: _Line, offer: Offer, refusal: status_pb2.Status | None) -> None:
        again = line.rechecks > 0 and refusal == line.refusal
        line.refusal = refusal
        if refusal is None:
            line.good, line.spare = offer, None
        elif not again:
            self._refusals += 1
            _log_refusal(line, offer, refusal)
        self._tell(line, Staged(offer.bundle.etag, refusal))
        line.wake()


def _log_refusal(line: _Line, offer: Offer, refusal: status_pb2.Status) -> None:
    tenant_id, agent_id = split_agent_name(line.name)
    _log.error(
        "bundle refused",
        tenant_id=tenant_id,
        agent=agent_id,
        revision=offer.bundle.revision,
        reason=refusal.message,
        fields=[violation.field for violation in violations_of(refusal)],
        goes_on_with=line.good.bundle.revision if line.good else None,
    )


def _snapshot_of(snapshot: Snapshot, offers: Iterable[Offer]) -> Snapshot:
    offers = list(offers)
    return Snapshot(
        snapshot.tenant_id,
        snapshot.revision,
        {AgentName(offer.bundle.name): offer.bundle for offer in offers},
        {content.content_hash: content for offer in offers for content in offer.contents},
    )
