"""How a running session comes from one config to the next: pure.

`receive(event)` returns the actions; `session.py` carries them out. The rules:

1. The latest bundle wins. One build runs at a time; what is overtaken while it
   is built or waits is dropped, and only the latest is built next. So that a
   storm of changes cannot hold a session back for ever, every
   OVERTAKEN_BUILDS_MAX + 1st build in a row is used although it is overtaken.
2. A config is built beside the running one, off the path of the replies.
3. It is applied at a turn boundary: when no reply is in flight, of all of its
   steps, tool calls included. So every reply is made by exactly one revision.
4. A change of what hears the user, and a handoff, which changes it too, also
   wait until the user does not speak, and what was said is known: the words
   around it would be lost.
5. What cannot be resolved, built or applied is FAILED, with the paths of its
   fields. The running config stays untouched, and what waited stays dropped.
6. Every bundle that is the latest gets its answer, also one that changes
   nothing for this session: it is APPLIED at once, in the middle of a reply
   too, for the content is the same.
7. A replaced config drains until nothing of it speaks any more, and is closed
   once.
8. A pinned session follows its version; moves of its alias are no changes.
9. A bundle of another agent is a transfer: a handoff whatever differs, by that
   agent's live version. Until it has taken over, a pin is of the agent that
   runs; and if that one keeps the session, it keeps its alias and its pin.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

from agent_node.job.lifecycle import Phase, Step, advance
from agent_node.job.plan import HEARING, Effect, Plan, plan
from agent_node.job.targets import Bundle, Target, bundle_of, target_of
from voxplane.errors import VoxplaneError
from voxplane.node.v1.relay_service_pb2 import BundleDelivery
from voxplane.v1.bundle_pb2 import VersionContent

OVERTAKEN_BUILDS_MAX = 3
AGENT = "agent"
"""Stands in a plan for another agent, beside the paths of fields."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The agent's bundle came, for the first time or changed."""

    delivery: BundleDelivery


@dataclass(frozen=True, slots=True)
class Pinned:
    """The session is to stay with a version, or, by None, to follow its alias.
    Without the content the version is to be in the bundle."""

    version: int | None
    content: VersionContent | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """The config of a ticket is built and checked."""

    ticket: int


@dataclass(frozen=True, slots=True)
class BuildFailed:
    """The config of a ticket cannot be built."""

    ticket: int
    error: VoxplaneError


@dataclass(frozen=True, slots=True)
class Switched:
    """The session makes its replies by the ticket's config now."""

    ticket: int


@dataclass(frozen=True, slots=True)
class SwitchFailed:
    """The session refused the ticket's config, and goes on as before."""

    ticket: int
    error: VoxplaneError


@dataclass(frozen=True, slots=True)
class ReplyBegan:
    """A reply is in flight."""

    reply: str


@dataclass(frozen=True, slots=True)
class ReplyEnded:
    """A reply is over, spoken or not."""

    reply: str


@dataclass(frozen=True, slots=True)
class UserSpeaks:
    """The user began or ceased to speak."""

    speaking: bool


@dataclass(frozen=True, slots=True)
class Drained:
    """Nothing of the ticket's config is in use any more."""

    ticket: int


Event = (
    Delivered
    | Pinned
    | Built
    | BuildFailed
    | Switched
    | SwitchFailed
    | ReplyBegan
    | ReplyEnded
    | UserSpeaks
    | Drained
)


@dataclass(frozen=True, slots=True)
class Build:
    """Build the target beside what runs; answer Built or BuildFailed."""

    ticket: int
    target: Target
    plan: Plan


@dataclass(frozen=True, slots=True)
class Switch:
    """Apply the ticket's config, now and whole; answer Switched or
    SwitchFailed before any other event."""

    ticket: int
    plan: Plan


@dataclass(frozen=True, slots=True)
class Drain:
    """Answer Drained when nothing of the ticket's config is in use."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Close:
    """Close what the ticket's config holds alone."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Relabel:
    """The ticket's config goes on under another bundle or version."""

    ticket: int
    target: Target


@dataclass(frozen=True, slots=True)
class Waiting:
    """The target is built and waits for a turn boundary."""

    target: Target


@dataclass(frozen=True, slots=True)
class Applied:
    """The target runs; `before` ran until now. `plan` is None for the first."""

    target: Target
    before: Target | None
    plan: Plan | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The bundle is not used; `running` goes on. `target` is None if the
    bundle could not be resolved."""

    bundle: Bundle
    target: Target | None
    running: Target | None
    error: VoxplaneError


Action = Build | Switch | Drain | Close | Relabel | Waiting | Applied | Refused


@dataclass(slots=True)
class _Candidate:
    """A config of this session and how far it has come."""

    ticket: int
    target: Target
    plan: Plan
    phase: Phase = Phase.STAGING

    def step(self, step: Step) -> None:
        self.phase = advance(self.phase, step)


@dataclass(frozen=True, slots=True)
class _Terms:
    """Which version of an agent the session follows."""

    alias: str = ""
    pinned_version: int | None = None
    pinned_content: VersionContent | None = None


class SwapState:
    """What one session runs, builds and waits for."""

    def __init__(self, alias: str = "", pinned_version: int | None = None) -> None:
        self._terms = _Terms(alias, pinned_version)
        self._kept: tuple[str, _Terms] | None = None
        self._delivery: BundleDelivery | None = None
        self._tickets = count(1)
        self._active: _Candidate | None = None
        self._building: _Candidate | None = None
        self._warm: _Candidate | None = None
        self._wanted: Target | None = None
        self._draining: dict[int, _Candidate] = {}
        self._replies: set[str] = set()
        self._user_speaks = False
        self._overtaken_builds = 0

    @property
    def running(self) -> Target | None:
        """What makes the replies; None before the first is applied."""
        return self._active.target if self._active else None

    @property
    def between_turns(self) -> bool:
        """Whether no reply is in flight."""
        return not self._replies

    @property
    def phases(self) -> dict[int, Phase]:
        """The configs that are not closed yet, by ticket."""
        held = [*self._draining.values(), self._active, self._building, self._warm]
        return {each.ticket: each.phase for each in held if each is not None}

    def receive(self, event: Event) -> list[Action]:
        """Take an event. Unknown tickets and replies are ignored."""
        return list(self._receive(event))

    def _receive(self, event: Event) -> Iterator[Action]:
        match event:
            case Delivered() | Pinned():
                return self._desire(event)
            case Built(ticket):
                return self._built(ticket)
            case BuildFailed(ticket, error):
                return self._build_failed(ticket, error)
            case Switched(ticket):
                return self._switched(ticket)
            case SwitchFailed(ticket, error):
                return self._switch_failed(ticket, error)
            case Drained(ticket):
                return self._drained(ticket)
            case ReplyBegan() | ReplyEnded() | UserSpeaks():
                return self._heard(event)

    def _heard(self, event: ReplyBegan | ReplyEnded | UserSpeaks) -> Iterator[Action]:
        match event:
            case ReplyBegan(reply):
                self._replies.add(reply)
            case ReplyEnded(reply):
                self._replies.discard(reply)
            case UserSpeaks(speaking):
                self._user_speaks = speaking
        yield from self._at_boundary()

    def _desire(self, event: Delivered | Pinned) -> Iterator[Action]:
        """Work out what is asked for now."""
        match event:
            case Delivered(delivery):
                self._come_to_terms(delivery)
                self._delivery = delivery
            case Pinned(version, content) if self._kept is not None:
                name, terms = self._kept
                self._kept = name, replace(terms, pinned_version=version, pinned_content=content)
                return
            case Pinned(version, content):
                self._terms = replace(self._terms, pinned_version=version, pinned_content=content)
        if self._delivery is None:
            return
        terms = self._terms
        try:
            target = target_of(self._delivery, terms.alias, terms.pinned_version, terms.pinned_content)
        except VoxplaneError as error:
            yield from self._overtake_warm()
            self._wanted = None
            yield Refused(bundle_of(self._delivery), None, self.running, error)
            return
        if self._active is not None and _alike(target, self._active.target):
            yield from self._overtake_warm()
            self._wanted = None
            yield from self._relabel_active(self._active, target)
        elif self._warm is not None and _alike(target, self._warm.target):
            self._warm.target = target
            yield Relabel(self._warm.ticket, target)
            yield Waiting(target)
        elif self._building is not None:
            self._wanted = target
        else:
            yield from self._overtake_warm()
            yield self._build(target)

    def _come_to_terms(self, delivery: BundleDelivery) -> None:
        """Those of the agent whose bundle comes, which may be another one."""
        if self._delivery is None or self._delivery.bundle.name == delivery.bundle.name:
            return
        if self._kept is not None and self._kept[0] == delivery.bundle.name:
            self._terms, self._kept = self._kept[1], None
            return
        if self._kept is None:
            self._kept = self._delivery.bundle.name, self._terms
        self._terms = _Terms()

    def _relabel_active(self, active: _Candidate, target: Target) -> Iterator[Action]:
        before, active.target = active.target, target
        yield Relabel(active.ticket, target)
        yield Applied(target, before, plan(before.config, target.config))

    def _build(self, target: Target) -> Build:
        running = self.running
        self._wanted = target
        its = plan(running.config if running else None, target.config)
        if running is not None and running.bundle.name != target.bundle.name:
            its = replace(its, effects={**its.effects, AGENT: Effect.HANDOFF})
        self._building = _Candidate(next(self._tickets), target, its)
        return Build(self._building.ticket, target, its)

    def _built(self, ticket: int) -> Iterator[Action]:
        candidate = self._building
        if candidate is None or candidate.ticket != ticket:
            return
        self._building = None
        wanted, self._wanted = self._wanted, None
        if wanted is not None and _alike(wanted, candidate.target):
            candidate.step(Step.BUILT)
            self._overtaken_builds = 0
            self._warm = candidate
            if wanted != candidate.target:
                candidate.target = wanted
                yield Relabel(ticket, wanted)
            yield from self._at_boundary(announce=True)
            return
        if wanted is not None and self._overtaken_builds >= OVERTAKEN_BUILDS_MAX and self._open(candidate):
            candidate.step(Step.BUILT)
            self._overtaken_builds = 0
            self._wanted = wanted
            self._warm = candidate
            yield from self._at_boundary()
            return
        self._overtaken_builds += 1
        candidate.step(Step.OVERTAKEN)
        yield Close(ticket)
        if wanted is not None:
            yield self._build(wanted)

    def _build_failed(self, ticket: int, error: VoxplaneError) -> Iterator[Action]:
        candidate = self._building
        if candidate is None or candidate.ticket != ticket:
            return
        self._building = None
        candidate.step(Step.REFUSED)
        wanted, self._wanted = self._wanted, None
        if wanted is None:
            return
        if _alike(wanted, candidate.target):
            yield Refused(wanted.bundle, wanted, self.running, error)
        else:
            yield self._build(wanted)

    def _open(self, candidate: _Candidate) -> bool:
        """Whether the session is at a boundary that will do for the candidate."""
        if self._replies:
            return False
        hears_anew = candidate.plan.handoff or HEARING & candidate.plan.rebuild
        return not (self._user_speaks and self._active is not None and hears_anew)

    def _at_boundary(self, *, announce: bool = False) -> Iterator[Action]:
        warm = self._warm
        if warm is None:
            return
        if self._open(warm):
            yield Switch(warm.ticket, warm.plan)
        elif announce:
            yield Waiting(warm.target)

    def _switched(self, ticket: int) -> Iterator[Action]:
        warm = self._warm
        if warm is None or warm.ticket != ticket:
            return
        self._warm = None
        warm.step(Step.APPLIED)
        before, self._active = self._active, warm
        if self._kept is not None and self._kept[0] != warm.target.bundle.name:
            self._kept = None
        yield Applied(warm.target, before.target if before else None, warm.plan if before else None)
        if before is not None:
            before.step(Step.REPLACED)
            self._draining[before.ticket] = before
            yield Drain(before.ticket)
        yield from self._go_on()

    def _switch_failed(self, ticket: int, error: VoxplaneError) -> Iterator[Action]:
        warm = self._warm
        if warm is None or warm.ticket != ticket:
            return
        self._warm = None
        warm.step(Step.REFUSED)
        yield Close(ticket)
        if self._wanted is None:
            yield Refused(warm.target.bundle, warm.target, self.running, error)
        yield from self._go_on()

    def _drained(self, ticket: int) -> Iterator[Action]:
        candidate = self._draining.pop(ticket, None)
        if candidate is not None:
            candidate.step(Step.DRAINED)
            yield Close(ticket)

    def _go_on(self) -> Iterator[Action]:
        """Build what overtook a build that was used all the same."""
        wanted, self._wanted = self._wanted, None
        if wanted is not None and self._building is None:
            yield self._build(wanted)

    def _overtake_warm(self) -> Iterator[Action]:
        warm, self._warm = self._warm, None
        if warm is not None:
            warm.step(Step.OVERTAKEN)
            yield Close(warm.ticket)


def _alike(one: Target, other: Target) -> bool:
    """Whether one pipeline serves both."""
    return one.content_hash == other.content_hash and one.bundle.name == other.bundle.name
