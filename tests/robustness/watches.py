"""Checks the streams of a history against the logs.

A watch is level-triggered: it may skip revisions, and says so. What has to
hold is that whenever a transfer or a bookmark says "you have revision r", the
client has exactly what the log shows at r of what is watched. From that, and
from what each transfer declares, the properties follow:

- filtered: only tenants and bundles that were asked for, removals included;
- ordered: revisions rise, along a stream and from one to the next;
- unique: no bundle, content or revision twice;
- atomic and reliable: no part of a revision is missing, and no change;
- bookmarkable: a bookmark changes nothing, so nothing was due;
- resumable: the first transfer builds on what was declared, and is FULL only
  where it cannot; another epoch is one such reason, a trimmed history another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.robustness.arrival import Arrival, Have, check_declared, joined
from tests.robustness.findings import Findings, Property
from tests.robustness.held import check_held
from tests.robustness.history import (
    At,
    Ended,
    History,
    Received,
    Reported,
    Subscribed,
    Transfer,
)
from tests.robustness.logs import Logs, Scope, split_name

REFUSED = frozenset({"FAILED", "REVERTED"})


@dataclass(slots=True)
class _Watcher:
    """What a client has seen, over all its streams."""

    newest: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    epoch: dict[str, str] = field(default_factory=dict[str, str])


class WatchChecker:
    """Checks all streams. Make one for a history, and `run` it once."""

    def __init__(self, history: History, logs: Logs, findings: Findings) -> None:
        self._history = history
        self._logs = logs
        self._findings = findings

    def run(self) -> None:
        """Check everything."""
        watchers: dict[str, _Watcher] = {}
        streams: dict[str, StreamChecker] = {}
        refused: dict[str, set[tuple[str, str]]] = {}
        ids: dict[str, str] = {}
        for record in self._history:
            match record:
                case Subscribed():
                    watcher = watchers.setdefault(record.watcher, _Watcher())
                    streams[record.stream] = StreamChecker(
                        record,
                        self._logs,
                        self._findings,
                        watcher,
                        refused.setdefault(record.node, set()),
                    )
                case Received(stream=stream, stream_id=stream_id):
                    streams[stream].receive(record)
                    owner = ids.setdefault(stream_id, stream)
                    self._findings.require(
                        owner == stream, Property.NUMBERED, f"two streams have the id {stream_id}", record
                    )
                case Reported(stream=stream):
                    streams[stream].reported(record)
                case Ended(stream=stream):
                    streams[stream].ended(record)
                case _:
                    pass
        self._check_replaced(streams)

    def _check_replaced(self, streams: Mapping[str, StreamChecker]) -> None:
        """A stream is replaced by a newer one of the same node only."""
        for stream in streams.values():
            end = stream.end
            if end is None or end.reason != "NODE_REPLACED":
                continue
            opened = stream.request
            newer = any(
                other.request.node == opened.node and opened.time <= other.request.time <= end.time
                for other in streams.values()
                if other is not stream
            )
            self._findings.require(newer, Property.TRUTHFUL, "no other stream has replaced it", opened, end)


class StreamChecker:
    """Checks one stream, message by message. `refused` are the bundles that
    the node has refused so far, by name and etag."""

    def __init__(
        self,
        request: Subscribed,
        logs: Logs,
        findings: Findings,
        watcher: _Watcher,
        refused: set[tuple[str, str]],
    ) -> None:
        self.request = request
        self.end: Ended | None = None
        self._logs = logs
        self._findings = findings
        self._require = findings.require
        self._watcher = watcher
        self._refused = refused
        self._scope = Scope.of(request.tenant, request.agent_ids, request.labels)
        self._nonce = 0
        self._stream_id = ""
        self._sequence = 0
        self._have: dict[str, Have] = {}
        contents = frozenset(request.contents)
        for tenant, at in request.start_revisions.items():
            self._have[tenant] = Have(at, declared=contents)
        for name, etag in request.known.items():
            tenant, _ = split_name(name)
            self._have.setdefault(tenant, Have(declared=contents)).etags[name] = etag

    def receive(self, message: Received) -> None:
        """The next message."""
        number = int(message.nonce or 0)
        self._require(
            number == self._nonce + 1 and self._stream_id in ("", message.stream_id) and self.end is None,
            Property.NUMBERED,
            f"message {message.nonce} of {message.stream_id} after {self._nonce} of {self._stream_id}",
            message,
        )
        self._nonce, self._stream_id = number, message.stream_id
        if message.transfer is not None:
            self._part(message, message.transfer)
        for tenant, at in (message.beat or {}).items():
            self._bookmark(message, tenant, at)
        if message.missing_sequence is not None:
            self._require(
                bool(self.request.node) and 0 < message.missing_sequence < self._sequence,
                Property.TRUTHFUL,
                f"report {message.missing_sequence} is not missing",
                message,
            )

    def reported(self, report: Reported) -> None:
        """The client has sent a report."""
        self._sequence = max(self._sequence, report.sequence)
        for name, (etag, phase) in report.statuses.items():
            if phase in REFUSED:
                self._refused.add((name, etag))

    def ended(self, end: Ended) -> None:
        """The stream is over."""
        self.end = end
        if end.reason == "REVISION_IN_FUTURE":
            ahead = any(
                (log := self._logs.at(tenant, at)) is None or log.epoch != at.epoch
                for tenant, at in self.request.start_revisions.items()
            )
            self._require(
                ahead, Property.RESUMABLE, "a revision that was made is refused as a future one", end
            )
        self._require(
            end.reason not in ("INTERNAL", "INVALID_REQUEST", "PERMISSION_LOST", "CREDENTIAL_EXPIRED")
            and end.code not in ("UNKNOWN", "UNIMPLEMENTED"),
            Property.HEALTHY,
            f"the stream ended by {end.code} {end.reason}",
            self.request,
            end,
        )

    def _part(self, message: Received, part: Transfer) -> None:
        tenant = part.tenant
        have = self._have.setdefault(tenant, Have(declared=frozenset(self.request.contents)))
        self._check_filter(message, part, have)
        if part.start is not None:
            self._require(
                not have.parts, Property.ATOMIC, "a transfer begins within another", *have.parts, message
            )
            have.parts = []
        elif not self._require(
            bool(have.parts), Property.ATOMIC, "a part of a transfer that has not begun", message
        ):
            return
        have.parts.append(message)
        if part.synced is not None:
            parts, have.parts = have.parts, []
            self._transfer(parts, have)

    def _check_filter(self, message: Received, part: Transfer, have: Have) -> None:
        scope = self._scope
        self._require(
            scope.names_tenant(part.tenant) and not part.tenant_removed,
            Property.FILTERED,
            f"tenant {part.tenant} was not asked for, or is not gone",
            message,
        )
        for name in [*(bundle.name for bundle in part.bundles), *part.withheld]:
            tenant, agent = split_name(name)
            self._require(
                tenant == part.tenant and (not scope.agent_ids or agent in scope.agent_ids),
                Property.FILTERED,
                f"{name} was not asked for",
                message,
            )
        for name in part.removed:
            self._require(
                name in have.counted, Property.FILTERED, f"{name} is removed, and was never there", message
            )

    def _transfer(self, messages: list[Received], have: Have) -> None:
        """A whole transfer: its first message has `start`, its last `synced`."""
        whole = joined(messages)
        start, synced, last = whole.start, whole.synced, messages[-1]
        assert start is not None
        assert synced is not None
        log = self._logs.at(whole.tenant, whole.at)
        if not self._require(
            log is not None, Property.DURABLE, f"the log has no revision {whole.at}", *messages
        ):
            return
        assert log is not None
        arrival = Arrival(self.request, self._scope, messages, whole, start, synced, have, log)
        self._check_order(last, whole, have)
        check_declared(arrival, self._logs, self._refused, self._findings)
        have.take(whole, start)
        check_held(arrival, have.declared | self._all_sent(), self._findings)

    def _check_order(self, last: Received, whole: Transfer, have: Have) -> None:
        tenant, at = whole.tenant, whole.at
        seen = self._watcher.newest.get((at.epoch, tenant), 0)
        known = have.at.number if have.at is not None and have.at.epoch == at.epoch else 0
        which = Property.ORDERED if have.level else Property.RESUMABLE
        self._require(
            at.number >= max(seen, known), which, f"revision {at.number} after {max(seen, known)}", last
        )
        if have.level:
            self._require(at.number > known, Property.UNIQUE, f"revision {at.number} twice", last)
        before = self._watcher.epoch.get(tenant, at.epoch)
        order = [epoch.epoch for epoch in self._logs.epochs]
        self._require(
            order.index(at.epoch) >= order.index(before) if before in order else True,
            Property.ORDERED,
            f"epoch {at.epoch} after {before}",
            last,
        )
        self._require(
            self._logs.epoch_ends(at.epoch) >= self.request.time,
            Property.ORDERED,
            f"epoch {at.epoch} had ended when the stream began",
            last,
        )
        self._watcher.newest[at.epoch, tenant] = max(seen, at.number)
        self._watcher.epoch[tenant] = at.epoch

    def _all_sent(self) -> set[str]:
        return set[str]().union(*(have.sent for have in self._have.values()))

    def _bookmark(self, message: Received, tenant: str, at: At) -> None:
        have = self._have.get(tenant)
        log = self._logs.at(tenant, at)
        if not self._require(log is not None, Property.DURABLE, f"the log has no revision {at}", message):
            return
        assert log is not None
        if have is None or have.at is None or not have.level or have.parts:
            self._require(False, Property.BOOKMARKABLE, "a bookmark before the end of a transfer", message)
            return
        self._require(
            at.epoch == have.at.epoch and at.number > have.at.number,
            Property.ORDERED,
            f"a bookmark of {at.number} after {have.at.number}",
            message,
        )
        self._require(
            log.shown(self._scope, at.number) == have.counted,
            Property.BOOKMARKABLE,
            f"changes up to revision {at.number} have not come",
            message,
        )
        have.at = at
        seen = self._watcher.newest.get((at.epoch, tenant), 0)
        self._watcher.newest[at.epoch, tenant] = max(seen, at.number)
