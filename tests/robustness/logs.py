"""The logs of a history: every state that there was, by epoch, tenant and
revision. They are the ground truth that all else is compared with."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.robustness.history import AgentIs, At, Committed, EpochBegan, Floor, History

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Scope:
    """What a watch is about. No agent_ids or labels mean all."""

    tenant: str
    agent_ids: frozenset[str] = frozenset()
    labels: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, tenant: str, agent_ids: Iterable[str], labels: Mapping[str, str]) -> Scope:
        """The scope of a request."""
        return cls(tenant, frozenset(agent_ids), tuple(sorted(labels.items())))

    def names_tenant(self, tenant: str) -> bool:
        """Whether the tenant is watched."""
        return self.tenant in ("-", tenant)

    def shows(self, tenant: str, agent: str, what: AgentIs) -> bool:
        """Whether an agent's bundle is watched."""
        if what.deleted or not self.names_tenant(tenant):
            return False
        if self.agent_ids and agent not in self.agent_ids:
            return False
        return all(what.labels.get(key) == value for key, value in self.labels)


Agents = dict[str, AgentIs]


@dataclass(slots=True)
class TenantLog:
    """One tenant's log in one epoch. `entries[r - 1]` made revision r;
    `states[r]` are the agents at revision r by id."""

    tenant: str
    epoch: str
    entries: list[Committed] = field(default_factory=list[Committed])
    states: list[Agents] = field(default_factory=lambda: [{}])
    by_request: dict[str, list[Committed]] = field(default_factory=dict[str, list[Committed]])
    changes: dict[str, list[int]] = field(default_factory=dict[str, list[int]])

    @property
    def head(self) -> int:
        """The newest revision."""
        return len(self.entries)

    def add(self, entry: Committed) -> None:
        """The next entry."""
        self.entries.append(entry)
        self.states.append({**self.states[-1], **entry.agents})
        if entry.request_id:
            self.by_request.setdefault(entry.request_id, []).append(entry)
        for agent in entry.agents:
            self.changes.setdefault(agent, []).append(entry.at.number)

    def shown(self, scope: Scope, revision: int) -> dict[str, str]:
        """The etags of the watched bundles at a revision, by name."""
        return {
            bundle_name(self.tenant, agent): what.bundle
            for agent, what in self.states[revision].items()
            if scope.shows(self.tenant, agent, what)
        }

    def bundle_since(self, agent: str, revision: int) -> int:
        """The revision that gave the agent's bundle its present state."""
        since = revision
        now = self._bundle(agent, revision)
        changes = self.changes.get(agent, [])
        for number in reversed(changes[: bisect_right(changes, revision)]):
            if self._bundle(agent, number) != now:
                break
            since = number
        return since

    def _bundle(self, agent: str, revision: int) -> str:
        what = self.states[revision].get(agent)
        return what.bundle if what is not None and not what.deleted else ""


@dataclass(slots=True)
class Logs:
    """All logs of a history. `epochs` are in the order of their beginnings,
    with the time of each."""

    epochs: list[EpochBegan]
    by_tenant: dict[tuple[str, str], TenantLog]
    floors: dict[tuple[str, str], list[Floor]]
    broken: list[tuple[Committed, str]]
    """Entries that do not follow the ones before, and why."""

    def get(self, epoch: str, tenant: str) -> TenantLog:
        """A tenant's log; an empty one if it has none."""
        found = self.by_tenant.get((epoch, tenant))
        return found if found is not None else TenantLog(tenant, epoch)

    def at(self, tenant: str, at: At) -> TenantLog | None:
        """The log of a revision, if that revision is in it."""
        log = self.get(at.epoch, tenant)
        known = any(epoch.epoch == at.epoch for epoch in self.epochs)
        return log if known and 0 <= at.number <= log.head else None

    @property
    def last_epoch(self) -> str:
        """The epoch at the end."""
        return self.epochs[-1].epoch if self.epochs else ""

    def epoch_ends(self, epoch: str) -> float:
        """When the store got another epoch."""
        order = [each.epoch for each in self.epochs]
        if epoch not in order:
            return NEVER
        after = order.index(epoch) + 1
        return self.epochs[after].time if after < len(order) else NEVER

    def epochs_within(self, start: float, end: float) -> list[str]:
        """The epochs that there were between two times."""
        return [
            each.epoch
            for each in self.epochs
            if each.time <= end and (each is self.epochs[0] or self.epoch_ends(each.epoch) >= start)
        ]

    def tenants(self, epoch: str) -> list[str]:
        """The tenants that have a log in an epoch."""
        return sorted(tenant for owner, tenant in self.by_tenant if owner == epoch)

    def floor(self, tenant: str, epoch: str, until: float = NEVER) -> int:
        """The highest floor that was seen up to a time."""
        marks = self.floors.get((epoch, tenant), [])
        return max((mark.at.number for mark in marks if mark.time <= until), default=0)


def bundle_name(tenant: str, agent: str) -> str:
    """The resource name of an agent's bundle."""
    return f"tenants/{tenant}/agents/{agent}"


def split_name(name: str) -> tuple[str, str]:
    """Tenant and agent of a bundle; empty if it is no bundle's name."""
    match name.split("/"):
        case ["tenants", tenant, "agents", agent]:
            return tenant, agent
        case _:
            return "", ""


def logs_of(history: History) -> Logs:
    """The logs in a history."""
    epochs = [record for record in history if isinstance(record, EpochBegan)]
    logs = Logs(epochs, {}, {}, [])
    entries = [record for record in history if isinstance(record, Committed)]
    for entry in sorted(entries, key=lambda entry: (entry.at.epoch, entry.tenant, entry.at.number)):
        key = (entry.at.epoch, entry.tenant)
        log = logs.by_tenant.setdefault(key, TenantLog(entry.tenant, entry.at.epoch))
        if entry.at.number != log.head + 1:
            what = "there twice" if entry.at.number <= log.head else f"after {log.head}"
            logs.broken.append((entry, f"revision {entry.at.number} is {what}"))
            continue
        if log.entries and entry.previous_hash != log.entries[-1].hash:
            logs.broken.append((entry, "it is not chained to the entry before it"))
        log.add(entry)
    for record in history:
        if isinstance(record, Floor):
            logs.floors.setdefault((record.at.epoch, record.tenant), []).append(record)
    return logs
