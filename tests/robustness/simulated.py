"""Histories of a system that is right, made without one.

A small model of the contract: commits and calls happen at points of a time
that only goes on, streams look at the newest state when they please, break
and resume; the server restarts, trims its history, and is once set back to an
older backup.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field, replace

from tests.robustness.history import (
    AgentIs,
    At,
    Bundle,
    Committed,
    Converged,
    Ended,
    EpochBegan,
    Fault,
    Fetched,
    Final,
    Floor,
    Held,
    Operation,
    Received,
    Record,
    Reported,
    Start,
    Subscribed,
    Synced,
    Transfer,
    merge,
)
from tests.robustness.logs import Scope, TenantLog, bundle_name
from voxplane.digest import bundles_digest

TENANTS = ("red", "blue")
AGENTS = ("a", "b", "c", "d")
STEPS = 120
WHOLE = 0.7
"""Share of the transfers that come in one message."""


def _hash(*texts: object) -> str:
    return hashlib.sha256(repr(texts).encode()).hexdigest()[:12]


@dataclass(slots=True)
class _Stream:
    """A watcher of the model, with its stream if it has one."""

    name: str
    scope: Scope
    node: bool
    stream: str = ""
    nonce: int = 0
    sequence: int = 0
    contents: set[str] = field(default_factory=set[str])
    held: dict[str, Held] = field(default_factory=dict[str, Held])
    declared: dict[str, Held] = field(default_factory=dict[str, Held])
    level: dict[str, int] = field(default_factory=dict[str, int])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    sent: set[str] = field(default_factory=set[str])


class Simulation:
    """`run` makes the whole history."""

    def __init__(self, seed: int, steps: int = STEPS) -> None:
        self._random = random.Random(seed)
        self._steps = steps
        self._now = 100.0
        self._number = 0
        self._epoch = "e0"
        self._records: list[Record] = []
        self._logs: dict[str, TenantLog] = {}
        self._floors: dict[str, int] = {}
        self._watchers = [
            _Stream("one", Scope("red"), node=False),
            _Stream("named", Scope("red", frozenset(("a", "b"))), node=True),
            _Stream("labelled", Scope("blue", frozenset(), (("tier", "gold"),)), node=False),
            _Stream("all", Scope("-"), node=True),
        ]

    def run(self) -> list[Record]:
        """A history without an error."""
        self._begin_epoch("e0")
        restore_at = self._random.randrange(self._steps // 2, self._steps * 2)
        for step in range(self._steps):
            self._tick()
            if step == restore_at:
                self._restore()
            self._step()
        self._quiesce()
        return merge([self._records])

    def _step(self) -> None:
        choice = self._random.random()
        watcher = self._random.choice(self._watchers)
        if choice < 0.45:
            self._write(self._random.choice(TENANTS))
        elif choice < 0.55:
            self._read(self._random.choice(TENANTS))
        elif choice < 0.80:
            self._look(watcher)
        elif choice < 0.90:
            self._heartbeat(watcher)
        elif choice < 0.95:
            self._end(watcher, "UNAVAILABLE")
        elif choice < 0.97:
            self._trim(self._random.choice(TENANTS))
        else:
            self._restart()

    def _tick(self) -> float:
        self._now += self._random.uniform(0.01, 0.2)
        return self._now

    def _name(self, kind: str) -> str:
        self._number += 1
        return f"{kind}{self._number}"

    def _log(self, tenant: str) -> TenantLog:
        return self._logs.setdefault(tenant, TenantLog(tenant, self._epoch))

    # The log.

    def _begin_epoch(self, epoch: str) -> None:
        self._epoch = epoch
        self._records.append(EpochBegan(self._now, epoch))

    def _commit(self, tenant: str, call: str, request_id: str, agents: dict[str, AgentIs]) -> Committed:
        log = self._log(tenant)
        number = log.head + 1
        previous = log.entries[-1].hash if log.entries else ""
        own = _hash(tenant, number, request_id, previous)
        at = At(number, self._epoch)
        entry = Committed(self._now, tenant, at, call, request_id, own, previous, agents)
        log.add(entry)
        return entry

    def _restore(self) -> None:
        """An older copy of the files comes back, under another epoch."""
        self._restart()
        self._keep_logs()
        self._tick()
        self._begin_epoch(f"{self._epoch}+")
        for tenant, log in list(self._logs.items()):
            kept = TenantLog(tenant, self._epoch)
            for entry in log.entries[: self._random.randint(0, log.head)]:
                kept.add(replace(entry, at=At(entry.at.number, self._epoch)))
            self._logs[tenant] = kept
        self._floors = {}
        self._tick()

    def _keep_logs(self) -> None:
        for log in self._logs.values():
            self._records += log.entries

    def _trim(self, tenant: str) -> None:
        head = self._log(tenant).head
        if head > 4:
            self._floors[tenant] = max(self._floors.get(tenant, 0), head - 4)
            self._records.append(Floor(self._now, tenant, At(self._floors[tenant], self._epoch)))
            # A stream may not know it at once; the model keeps clear of that.
            self._now += 2.0

    # Calls.

    def _write(self, tenant: str) -> None:
        agents = self._log(tenant).states[-1]
        agent = self._random.choice(AGENTS)
        now = agents.get(agent)
        request_id = self._name("r")
        if now is None:
            call = "CreateAgent"
        elif now.deleted:
            call = "UndeleteAgent"
        else:
            call = self._random.choice(["UpdateAgentConfig"] * 3 + ["DeleteAgent", "RollbackAlias"])
        fails = {"CreateAgent": "AGENT_EXISTS", "UndeleteAgent": "AGENT_NOT_DELETED"}
        if now is not None and not now.deleted and self._random.random() < 0.1:
            call = self._random.choice(sorted(fails))
            self._answer(call, tenant, agent, request_id, "refused", fails[call])
            return
        lost = self._random.random() < 0.15
        if lost and self._random.random() < 0.5:
            self._answer(call, tenant, agent, request_id, "unknown")
            return
        changed = {agent: self._changed(call, now)}
        other = self._random.choice(AGENTS)
        if other in agents and other not in changed and not agents[other].deleted:
            changed[other] = self._changed("UpdateAgentConfig", agents[other])
        entry = self._commit(tenant, call, request_id, changed)
        what = changed[agent]
        if lost:
            self._answer(call, tenant, agent, request_id, "unknown")
            if self._random.random() < 0.5:
                return
            self._tick()
        self._answer(call, tenant, agent, request_id, "ok", at=entry.at, agents={agent: what})

    def _changed(self, call: str, now: AgentIs | None) -> AgentIs:
        etag = self._name("agent-")
        if now is not None and call in ("DeleteAgent", "UndeleteAgent"):
            return replace(now, etag=etag, deleted=call == "DeleteAgent")
        labels = now.labels if now else {"tier": self._random.choice(["gold", "tin"])}
        content = self._name("content-")
        # Some changes are of the agent alone, and leave the bundle as it is.
        if now is not None and self._random.random() < 0.4:
            return replace(now, etag=etag)
        return AgentIs(etag, False, labels, _hash(content, sorted(labels.items())), [content])

    def _read(self, tenant: str) -> None:
        log = self._log(tenant)
        agent = self._random.choice(AGENTS)
        at = At(log.head, self._epoch)
        if self._random.random() < 0.5:
            self._answer("ListAgents", tenant, "", "", "ok", at=at, agents=log.states[-1])
        elif agent in log.states[-1]:
            self._answer("GetAgent", tenant, agent, "", "ok", at=at, agents={agent: log.states[-1][agent]})
        else:
            self._answer("GetAgent", tenant, agent, "", "refused", "AGENT_NOT_FOUND")

    def _answer(
        self,
        call: str,
        tenant: str,
        agent: str,
        request_id: str,
        outcome: str,
        reason: str = "",
        at: At | None = None,
        agents: dict[str, AgentIs] | None = None,
    ) -> None:
        shown = agents or {}
        self._records.append(
            Operation(
                self._now - self._random.uniform(0, 0.009),
                self._now + self._random.uniform(0, 0.5 if outcome == "unknown" else 0.009),
                "writer",
                call,
                tenant,
                agent,
                "ok" if outcome == "ok" else "refused" if outcome == "refused" else "unknown",
                reason,
                request_id,
                at=at,
                etags={name: what.etag for name, what in shown.items()},
                deleted=[name for name, what in shown.items() if what.deleted],
            )
        )

    # Streams.

    def _open(self, watcher: _Stream) -> None:
        watcher.stream = self._name("s")
        watcher.nonce, watcher.sequence, watcher.level = 0, 0, {}
        watcher.declared = dict(watcher.held)
        watcher.sent = set()
        self._records.append(
            Subscribed(
                self._now,
                watcher.name,
                watcher.stream,
                watcher.scope.tenant,
                sorted(watcher.scope.agent_ids),
                dict(watcher.scope.labels),
                watcher.name if watcher.node else "",
                {tenant: held.at for tenant, held in watcher.held.items()},
                {name: etag for held in watcher.held.values() for name, etag in held.etags.items()},
                sorted(watcher.contents),
            )
        )
        self._tick()

    def _end(self, watcher: _Stream, code: str) -> None:
        if watcher.stream:
            self._records.append(Ended(self._now, watcher.stream, code))
            watcher.stream = ""

    def _restart(self) -> None:
        self._records.append(Fault(self._now, "kill", "begin", "server"))
        for watcher in self._watchers:
            self._end(watcher, "UNAVAILABLE")
        self._tick()
        self._records.append(Fault(self._now, "kill", "end", "server"))

    def _look(self, watcher: _Stream) -> None:
        """The stream is shown the newest state of its tenants."""
        if not watcher.stream:
            self._open(watcher)
        tenants = [watcher.scope.tenant]
        if watcher.scope.tenant == "-":
            tenants = [tenant for tenant, log in self._logs.items() if log.head or tenant in watcher.declared]
        for tenant in tenants:
            if tenant in watcher.level:
                self._next(watcher, tenant)
            else:
                self._first(watcher, tenant)
        if watcher.node and watcher.held and self._random.random() < 0.5:
            self._report(watcher)

    def _first(self, watcher: _Stream, tenant: str) -> None:
        log = self._log(tenant)
        have = watcher.declared.get(tenant)
        right = log.shown(watcher.scope, log.head)
        if have is None:
            self._send(watcher, tenant, Start("FULL", "no start revision"), right, [], {})
            return
        # A bundle that is there by an etag that was withheld is not withheld.
        trimmed = have.at.number < self._floors.get(tenant, 0)
        if have.at.epoch != self._epoch or trimmed or not have.etags:
            self._send(watcher, tenant, Start("FULL", "cannot be built on"), right, [], {})
            return
        changed = {name: etag for name, etag in right.items() if have.etags.get(name) != etag}
        withheld = {name: etag for name, etag in changed.items() if watcher.refused.get(name) == etag}
        changed = {name: etag for name, etag in changed.items() if name not in withheld}
        removed = [name for name in have.etags if name not in right]
        brings = changed or removed or withheld or self._missing(watcher, tenant, right)
        intent = "DELTA" if brings else "NONE"
        skipped = max(0, log.head - have.at.number - 1)
        start = Start(intent, "resumed", have.at.number, skipped)
        self._send(watcher, tenant, start, changed, removed, withheld)

    def _next(self, watcher: _Stream, tenant: str) -> None:
        log, have = self._log(tenant), watcher.held[tenant]
        if log.head <= watcher.level[tenant]:
            return
        watcher.level[tenant] = log.head
        right = log.shown(watcher.scope, log.head)
        counted = have.etags | have.withheld
        changed = {name: etag for name, etag in right.items() if counted.get(name) != etag}
        removed = [name for name in counted if name not in right]
        if changed or removed:
            start = Start("DELTA", "changed", have.at.number, log.head - have.at.number - 1)
            self._send(watcher, tenant, start, changed, removed, {})

    def _missing(self, watcher: _Stream, tenant: str, bundles: dict[str, str]) -> list[str]:
        """The contents of bundles that the client has not."""
        log = self._log(tenant)
        needed = [
            content
            for agent, what in log.states[-1].items()
            if bundle_name(tenant, agent) in bundles
            for content in what.contents
        ]
        return [content for content in dict.fromkeys(needed) if content not in watcher.contents]

    def _send(
        self,
        watcher: _Stream,
        tenant: str,
        start: Start,
        changed: dict[str, str],
        removed: list[str],
        withheld: dict[str, str],
    ) -> None:
        log = self._log(tenant)
        right = log.shown(watcher.scope, log.head)
        contents = [] if start.intent == "NONE" else self._missing(watcher, tenant, right)
        if start.intent == "DELTA":
            contents = self._missing(watcher, tenant, right)
        bundles = [self._bundle(log, name, etag) for name, etag in changed.items()]
        at = At(log.head, self._epoch)
        synced = Synced(bundles_digest(right), len(right))
        parts = [Transfer(tenant, at, start, bundles, removed, contents, withheld, synced)]
        if len(bundles) > 1 and self._random.random() > WHOLE:
            parts = [
                Transfer(tenant, at, start, bundles[:1], [], contents, withheld),
                Transfer(tenant, at, None, bundles[1:], removed, [], {}, synced),
            ]
        for part in parts:
            self._message(watcher, transfer=part)
        have = watcher.held.get(tenant)
        etags = dict(have.etags) if have is not None and start.intent != "FULL" else {}
        kept = dict(have.withheld) if have is not None and tenant in watcher.level else {}
        etags = {name: etag for name, etag in (etags | changed).items() if name not in removed}
        kept = {name: etag for name, etag in kept.items() if name not in changed and name not in removed}
        watcher.held[tenant] = Held(at, etags, kept | withheld)
        watcher.level[tenant] = log.head
        watcher.contents.update(contents)

    def _bundle(self, log: TenantLog, name: str, etag: str) -> Bundle:
        agent = name.rpartition("/")[2]
        revision = log.bundle_since(agent, log.head)
        return Bundle(name, etag, revision, log.states[-1][agent].contents)

    def _heartbeat(self, watcher: _Stream) -> None:
        if not watcher.stream:
            return
        beat: dict[str, At] = {}
        for tenant in watcher.level:
            log, have = self._log(tenant), watcher.held[tenant]
            at = At(watcher.level[tenant], self._epoch)
            same = log.shown(watcher.scope, at.number) == have.etags | have.withheld
            if at.number > have.at.number and same:
                beat[tenant] = at
                watcher.held[tenant] = replace(have, at=at)
        self._message(watcher, beat=beat)

    def _message(
        self, watcher: _Stream, transfer: Transfer | None = None, beat: dict[str, At] | None = None
    ) -> None:
        self._tick()
        watcher.nonce += 1
        stream_id = f"id-{watcher.stream}"
        self._records.append(
            Received(self._now, watcher.stream, stream_id, str(watcher.nonce), transfer, beat)
        )

    def _report(self, watcher: _Stream) -> None:
        watcher.sequence += 1
        statuses: dict[str, tuple[str, str]] = {}
        for held in watcher.held.values():
            for name, etag in held.etags.items():
                bad = self._random.random() < 0.2
                statuses[name] = (etag, "FAILED" if bad else "APPLIED")
                if bad:
                    watcher.refused[name] = etag
                else:
                    watcher.refused.pop(name, None)
        self._records.append(
            Reported(
                self._now,
                watcher.stream,
                f"id-{watcher.stream}",
                str(watcher.nonce),
                watcher.sequence,
                statuses,
                taken=True,
            )
        )
        # What it has refused it gives up for what it had before: here nothing.
        for tenant, held in watcher.held.items():
            kept = {name: etag for name, etag in held.etags.items() if watcher.refused.get(name) != etag}
            given_up = {name: etag for name, etag in held.etags.items() if name not in kept}
            watcher.held[tenant] = Held(held.at, kept, held.withheld | given_up)

    # The end.

    def _quiesce(self) -> None:
        for watcher in self._watchers:
            self._tick()
            self._look(watcher)
            self._heartbeat(watcher)
        for tenant, log in self._logs.items():
            right = log.shown(Scope(tenant), log.head)
            at = At(log.head, self._epoch)
            self._records.append(Fetched(self._now, tenant, at, bundles_digest(right), right))
            self._records.append(Converged(self._now, tenant, True))
        for watcher in self._watchers:
            self._records.append(
                Final(
                    self._now,
                    watcher.name,
                    watcher.scope.tenant,
                    sorted(watcher.scope.agent_ids),
                    dict(watcher.scope.labels),
                    dict(watcher.held),
                )
            )
        self._keep_logs()
