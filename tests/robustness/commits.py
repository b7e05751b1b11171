"""Checks the calls of a history against the logs.

A write that has landed is the entry with its request_id, so the order of the
writes is known, and linearizability comes down to comparing times:

- entry r lands after its call has begun, and before a call ends that was
  answered with it; a call that ended before another began is before it;
- a read shows one revision: not older than any that somebody knew before it
  began, and not newer than the calls that had begun when it ended;
- a call that is refused is refused for what was so at some such revision.

Each epoch is a log of its own: what a restored backup does not have is gone,
and that is no loss.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.robustness.findings import Findings, Property
from tests.robustness.history import AgentIs, At, Committed, History, Operation, Received
from tests.robustness.logs import NEVER, Logs, TenantLog

SERVER_FAULTS = frozenset({"INTERNAL", "rpc UNKNOWN"})
"""A reason of the contract, and a bare code: what an exception in a handler makes."""
READS = frozenset({"GetAgent", "ListAgents"})
NO_OPS = frozenset({"UpdateAgentConfig", "SetAlias", "SetTracing"})
"""Calls that are answered with the present state if they change nothing."""


@dataclass(slots=True)
class _Attempts:
    """All attempts of one request_id."""

    operations: list[Operation] = field(default_factory=list[Operation])

    @property
    def start(self) -> float:
        return min(operation.start for operation in self.operations)

    def end_at(self, at: At, same_entry: Iterator[At]) -> float:
        """When the request was first answered with one of the revisions."""
        wanted = {at, *same_entry}
        ends = (each.end for each in self.operations if each.outcome == "ok" and each.at in wanted)
        return min(ends, default=NEVER)

    def may_land(self, but: Operation) -> bool:
        """Whether another attempt may have happened, or has."""
        return any(each is not but and each.outcome != "refused" for each in self.operations)


@dataclass(slots=True)
class _Knowledge:
    """The newest revision of a tenant's log that somebody knew, by time."""

    times: list[float] = field(default_factory=list[float])
    newest: list[int] = field(default_factory=list[int])

    def learn(self, time: float, revision: int) -> None:
        self.times.append(time)
        self.newest.append(max(revision, self.newest[-1] if self.newest else 0))

    def before(self, time: float) -> int:
        place = bisect_left(self.times, time)
        return self.newest[place - 1] if place else 0


class CommitChecker:
    """Checks all calls. Make one for a history, and `run` it once."""

    def __init__(self, history: History, logs: Logs, findings: Findings) -> None:
        self._logs = logs
        self._findings = findings
        self._operations = [record for record in history if isinstance(record, Operation)]
        self._requests: dict[tuple[str, str], _Attempts] = {}
        for operation in self._operations:
            if operation.request_id:
                key = (operation.tenant, operation.request_id)
                self._requests.setdefault(key, _Attempts()).operations.append(operation)
        self._known = _what_was_known(history)
        self._begun: dict[tuple[str, str], list[float]] = {}

    def run(self) -> None:
        """Check everything."""
        for entry, reason in self._logs.broken:
            self._findings.require(False, Property.CHAINED, reason, entry)
        for log in self._logs.by_tenant.values():
            self._check_log(log)
        for operation in self._operations:
            match operation.outcome:
                case "ok":
                    self._check_answer(operation)
                case "refused":
                    self._check_refusal(operation)
                case _:
                    pass
            self._findings.require(
                operation.reason not in SERVER_FAULTS,
                Property.HEALTHY,
                f"{operation.call} failed by a fault of the server",
                operation,
            )
        self._check_repeats()

    def _check_log(self, log: TenantLog) -> None:
        """Each entry is a request that was made, once, and in the order of time."""
        newest_start = 0.0
        begun = self._begun[log.epoch, log.tenant] = []
        for entry in log.entries:
            self._findings.require(True, Property.CHAINED, "")
            attempts = self._requests.get((log.tenant, entry.request_id))
            made = attempts is not None and all(each.call == entry.call for each in attempts.operations)
            self._findings.require(made, Property.DURABLE, "an entry that nobody has asked for", entry)
            if attempts is None:
                begun.append(newest_start)
                continue
            again = log.by_request[entry.request_id]
            self._findings.require(
                again[0] is entry, Property.ONCE, f"{entry.request_id} is in the log twice", *again
            )
            newest_start = max(newest_start, attempts.start)
            begun.append(newest_start)
            self._findings.require(
                attempts.end_at(entry.at, self._elsewhere(entry)) >= newest_start,
                Property.LINEARIZABLE,
                f"revision {entry.at.number} was answered before a call began that has an earlier revision",
                entry,
            )

    def _elsewhere(self, entry: Committed) -> Iterator[At]:
        """The same entry in the other epochs."""
        for epoch in self._logs.epochs:
            log = self._logs.get(epoch.epoch, entry.tenant)
            if entry.at.number <= log.head:
                other = log.entries[entry.at.number - 1]
                if other.hash == entry.hash:
                    yield other.at

    def _check_answer(self, operation: Operation) -> None:
        at = operation.at
        if at is None:
            self._findings.require(False, Property.TRUTHFUL, "an answer without a revision", operation)
            return
        log = self._logs.at(operation.tenant, at)
        if log is None:
            self._findings.require(False, Property.DURABLE, f"the log has no revision {at.number}", operation)
            return
        self._check_epoch(operation, at)
        if operation.call not in READS and at.number:
            entry = log.entries[at.number - 1]
            if entry.request_id == operation.request_id:
                self._check_shown(operation, log, at.number)
                return
            stored = operation.request_id in log.by_request
            self._findings.require(
                operation.call in NO_OPS and not stored,
                Property.DURABLE,
                f"{operation.call} was acknowledged at revision {at.number}, which is something else",
                operation,
                entry,
            )
        self._check_shown(operation, log, at.number)
        self._check_fresh(operation, log, at.number)

    def _check_epoch(self, operation: Operation, at: At) -> None:
        if operation.call in READS:
            self._findings.require(
                self._logs.epoch_ends(at.epoch) >= operation.start,
                Property.LINEARIZABLE,
                f"the answer is of epoch {at.epoch}, which had ended",
                operation,
            )

    def _check_shown(self, operation: Operation, log: TenantLog, revision: int) -> None:
        """The agents in the answer are those of the revision."""
        state = log.states[revision]
        for agent, etag in operation.etags.items():
            what = state.get(agent)
            self._findings.require(
                what is not None and (what.etag, what.deleted) == (etag, agent in operation.deleted),
                Property.TRUTHFUL,
                f"{agent} is not so at revision {revision}: {what}",
                operation,
            )
        if operation.call == "ListAgents":
            self._findings.require(
                set(operation.etags) == set(state),
                Property.TRUTHFUL,
                f"the agents at revision {revision} are {sorted(state)}",
                operation,
            )

    def _check_fresh(self, operation: Operation, log: TenantLog, revision: int) -> None:
        begun, earliest, latest = self._window(operation, log)
        self._findings.require(
            revision >= earliest,
            Property.LINEARIZABLE,
            f"revision {earliest} was known before the call began, and it shows {revision}",
            operation,
        )
        self._findings.require(
            revision <= latest,
            Property.LINEARIZABLE,
            f"only {latest} calls of {len(begun)} had begun when the answer showed {revision}",
            operation,
        )

    def _window(self, operation: Operation, log: TenantLog) -> tuple[list[float], int, int]:
        """The earliest and the latest revision that the call may have met."""
        start = operation.start
        if operation.request_id:
            start = self._requests[operation.tenant, operation.request_id].start
        begun = self._begun.get((log.epoch, log.tenant), [])
        known = self._known.get((log.epoch, log.tenant), _Knowledge())
        return begun, known.before(start), bisect_right(begun, operation.end)

    def _check_refusal(self, operation: Operation) -> None:
        attempts = self._requests.get((operation.tenant, operation.request_id))
        if attempts is not None and not attempts.may_land(operation):
            landed = [
                entry
                for log in self._logs.by_tenant.values()
                if log.tenant == operation.tenant
                for entry in log.by_request.get(operation.request_id, [])
            ]
            self._findings.require(
                not landed, Property.TRUTHFUL, "a refused call is in the log", operation, *landed
            )
        if operation.reason not in _REFUSALS:
            return
        met = False
        for epoch in self._logs.epochs_within(operation.start, operation.end):
            log = self._logs.get(epoch, operation.tenant)
            _, earliest, latest = self._window(operation, log)
            states = log.states[earliest : max(earliest, latest) + 1]
            met = met or any(_was_so(operation, state.get(operation.agent)) for state in states)
        self._findings.require(
            met, Property.LINEARIZABLE, f"at no time of the call it could be {operation.reason}", operation
        )

    def _check_repeats(self) -> None:
        """A repeat gets the first answer, within an epoch."""
        for attempts in self._requests.values():
            first: dict[str, Operation] = {}
            for operation in attempts.operations:
                if operation.outcome != "ok" or operation.at is None:
                    continue
                before = first.setdefault(operation.at.epoch, operation)
                self._findings.require(
                    (before.at, before.etags) == (operation.at, operation.etags),
                    Property.ONCE,
                    "a repeat got another answer",
                    before,
                    operation,
                )


_REFUSALS = frozenset(
    {"AGENT_NOT_FOUND", "AGENT_EXISTS", "AGENT_DELETED", "AGENT_NOT_DELETED", "ETAG_MISMATCH"}
)


def _was_so(operation: Operation, agent: AgentIs | None) -> bool:
    """Whether the reason of a refusal fits a state of the agent."""
    match operation.reason:
        case "AGENT_NOT_FOUND":
            return agent is None
        case "AGENT_EXISTS":
            return agent is not None
        case "AGENT_DELETED":
            return agent is not None and agent.deleted
        case "AGENT_NOT_DELETED":
            return agent is not None and not agent.deleted
        case _:
            return agent is not None and agent.etag != operation.expected


def _what_was_known(history: History) -> dict[tuple[str, str], _Knowledge]:
    """What calls and streams had shown, by epoch and tenant. `history` is in
    the order of time."""
    known: dict[tuple[str, str], _Knowledge] = {}

    def learn(time: float, tenant: str, at: At) -> None:
        known.setdefault((at.epoch, tenant), _Knowledge()).learn(time, at.number)

    for record in history:
        match record:
            case Operation(outcome="ok", at=At() as at):
                learn(record.end, record.tenant, at)
            case Received(transfer=transfer, beat=beat):
                if transfer is not None:
                    learn(record.time, transfer.tenant, transfer.at)
                for tenant, at in (beat or {}).items():
                    learn(record.time, tenant, at)
            case _:
                pass
    return known
