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

from tests.robustness.findings import Findings, Property
from tests.robustness.history import (
    At,
    Bundle,
    Ended,
    History,
    Received,
    Reported,
    Start,
    Subscribed,
    Synced,
    Transfer,
)
from tests.robustness.logs import Logs, Scope, TenantLog, bundle_name, split_name
from voxplane.digest import bundles_digest

SPARE_CONTENTS_MIN = 256
"""A server that has sent or been told of more contents may forget some."""
FLOOR_SECONDS = 1.0
"""A trim is known to streams at most so much later."""
REFUSED = frozenset({"FAILED", "REVERTED"})


@dataclass(slots=True)
class _Have:
    """What the client of a stream has of one tenant. `at` is the revision
    that it knows of, `level` whether this stream has brought it in step."""

    at: At | None = None
    etags: dict[str, str] = field(default_factory=dict[str, str])
    withheld: dict[str, str] = field(default_factory=dict[str, str])
    declared: frozenset[str] = frozenset()
    level: bool = False
    parts: list[Received] = field(default_factory=list[Received])
    sent: set[str] = field(default_factory=set[str])

    @property
    def counted(self) -> dict[str, str]:
        """The etags that the digest counts."""
        return self.etags | self.withheld


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
        self._require = findings.require
        self._watcher = watcher
        self._refused = refused
        self._scope = Scope.of(request.tenant, request.agent_ids, request.labels)
        self._nonce = 0
        self._stream_id = ""
        self._sequence = 0
        self._have: dict[str, _Have] = {}
        contents = frozenset(request.contents)
        for tenant, at in request.start_revisions.items():
            self._have[tenant] = _Have(at, declared=contents)
        for name, etag in request.known.items():
            tenant, _ = split_name(name)
            self._have.setdefault(tenant, _Have(declared=contents)).etags[name] = etag

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
        have = self._have.setdefault(tenant, _Have(declared=frozenset(self.request.contents)))
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

    def _check_filter(self, message: Received, part: Transfer, have: _Have) -> None:
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

    def _transfer(self, messages: list[Received], have: _Have) -> None:
        """A whole transfer: its first message has `start`, its last `synced`."""
        whole = _joined(messages)
        start, synced, last = whole.start, whole.synced, messages[-1]
        assert start is not None
        assert synced is not None
        log = self._logs.at(whole.tenant, whole.at)
        if not self._require(
            log is not None, Property.DURABLE, f"the log has no revision {whole.at}", *messages
        ):
            return
        assert log is not None
        self._check_parts(messages, whole)
        self._check_order(last, whole, have)
        if have.level:
            self._check_next(last, whole, start, have)
        else:
            self._check_first(last, whole, start, have, log)
        self._check_skipped(last, whole, start)
        self._check_withheld(last, whole, start)
        self._check_repeats(messages, whole, start, have)
        self._take(whole, start, have)
        self._check_contents(last, have, log, whole)
        self._check_proof(messages, have, log, whole.at.number, synced)

    def _check_parts(self, messages: list[Received], whole: Transfer) -> None:
        parts = [message.transfer for message in messages if message.transfer is not None]
        self._require(
            all(part.at == whole.at for part in parts),
            Property.ATOMIC,
            "the parts of a transfer are of different revisions",
            *messages,
        )
        names = [*whole.removed, *whole.withheld, *(bundle.name for bundle in whole.bundles)]
        self._require(
            len(names) == len(set(names)), Property.UNIQUE, "a name is twice in a transfer", *messages
        )

    def _check_order(self, last: Received, whole: Transfer, have: _Have) -> None:
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

    def _check_next(self, last: Received, whole: Transfer, start: Start, have: _Have) -> None:
        """A transfer to a client that was level."""
        assert have.at is not None
        fits = start.intent == "DELTA" and start.from_revision == have.at.number
        self._require(
            fits and bool(whole.bundles or whole.removed),
            Property.TRUTHFUL,
            f"{start.intent} from {start.from_revision} on a stream that is at {have.at.number}",
            last,
        )

    def _check_first(
        self, last: Received, whole: Transfer, start: Start, have: _Have, log: TenantLog
    ) -> None:
        """The first transfer of a tenant on the stream."""
        allowed, why = self._intents(last, whole, have, log)
        self._require(
            start.intent in allowed, Property.RESUMABLE, f"{start.intent} where {why}", self.request, last
        )
        self._require(bool(start.reason), Property.TRUTHFUL, "an intent without a reason", last)
        if start.intent == "FULL" or have.at is None:
            return
        self._require(
            start.from_revision == have.at.number,
            Property.RESUMABLE,
            f"from {start.from_revision}, and {have.at.number} was declared",
            self.request,
            last,
        )
        changes = bool(whole.bundles or whole.removed or whole.contents or whole.withheld)
        self._require(
            changes == (start.intent == "DELTA"),
            Property.RESUMABLE,
            f"{start.intent}, and it brings {'changes' if changes else 'nothing'}",
            last,
        )

    def _intents(self, last: Received, whole: Transfer, have: _Have, log: TenantLog) -> tuple[set[str], str]:
        """The intents that are right for a first transfer, and why."""
        if have.at is None:
            return {"FULL"}, "no revision was declared"
        if have.at.epoch not in ("", whole.at.epoch):
            return {"FULL"}, "another epoch was declared"
        if have.at.number < self._logs.floor(whole.tenant, log.epoch, self.request.time - FLOOR_SECONDS):
            return {"FULL"}, "the history after what was declared is trimmed"
        delta = {"DELTA", "NONE"}
        if have.at.number < self._logs.floor(whole.tenant, log.epoch):
            return {"FULL", *delta}, "the history was being trimmed"
        if not have.etags:
            return {"FULL", *delta}, "no bundle was declared"
        return delta, "what was declared can be built on"

    def _check_skipped(self, last: Received, whole: Transfer, start: Start) -> None:
        between = max(0, whole.at.number - start.from_revision - 1)
        right = {between, 0} if start.intent == "FULL" else {between}
        self._require(
            start.skipped in right, Property.TRUTHFUL, f"{start.skipped} skipped, not {between}", last
        )

    def _check_withheld(self, last: Received, whole: Transfer, start: Start) -> None:
        for name, etag in whole.withheld.items():
            self._require(
                bool(self.request.node)
                and start.intent != "FULL"
                and (name, etag) in self._refused
                and self.request.known.get(name) != etag,
                Property.TRUTHFUL,
                f"{name} is withheld at {etag}, which was not refused or is there",
                last,
            )

    def _check_repeats(self, messages: list[Received], whole: Transfer, start: Start, have: _Have) -> None:
        if start.intent == "DELTA":
            for bundle in whole.bundles:
                self._require(
                    have.etags.get(bundle.name) != bundle.etag,
                    Property.UNIQUE,
                    f"{bundle.name} at {bundle.etag} was there already",
                    *messages,
                )
        if len(have.sent) + len(have.declared) < SPARE_CONTENTS_MIN:
            again = {one for one in whole.contents if one in have.sent or one in have.declared}
            self._require(
                not again and len(set(whole.contents)) == len(whole.contents),
                Property.UNIQUE,
                f"contents {sorted(again)} were there already",
                *messages,
            )

    def _take(self, whole: Transfer, start: Start, have: _Have) -> None:
        """The client applies the transfer."""
        if start.intent == "FULL":
            have.etags, have.withheld = {}, {}
        for name in whole.removed:
            have.etags.pop(name, None)
            have.withheld.pop(name, None)
        for bundle in whole.bundles:
            have.etags[bundle.name] = bundle.etag
            have.withheld.pop(bundle.name, None)
        have.withheld.update(whole.withheld)
        have.sent.update(whole.contents)
        have.at = whole.at
        have.level = True

    def _check_contents(self, last: Received, have: _Have, log: TenantLog, whole: Transfer) -> None:
        state = log.states[whole.at.number]
        at_hand = have.declared | self._all_sent()
        for bundle in whole.bundles:
            what = state.get(split_name(bundle.name)[1])
            if what is not None and what.bundle == bundle.etag:
                self._check_bundle(last, bundle, log, whole.at.number, what.contents)
        for agent, what in state.items():
            name = bundle_name(whole.tenant, agent)
            if have.etags.get(name) == what.bundle:
                self._require(
                    at_hand.issuperset(what.contents),
                    Property.COMPLETE,
                    f"contents of {name} are missing: {sorted(set(what.contents) - at_hand)}",
                    last,
                )

    def _all_sent(self) -> set[str]:
        return set[str]().union(*(have.sent for have in self._have.values()))

    def _check_bundle(
        self, last: Received, bundle: Bundle, log: TenantLog, revision: int, contents: list[str]
    ) -> None:
        since = log.bundle_since(split_name(bundle.name)[1], revision)
        self._require(
            since <= bundle.revision <= revision and set(bundle.contents) == set(contents),
            Property.TRUTHFUL,
            f"{bundle.name} says revision {bundle.revision}, it is so since {since}",
            last,
        )

    def _check_proof(
        self, messages: list[Received], have: _Have, log: TenantLog, revision: int, synced: Synced
    ) -> None:
        right = log.shown(self._scope, revision)
        self._require(
            (synced.digest, synced.count) == (bundles_digest(right), len(right)),
            Property.PROVEN,
            f"the digest is not that of revision {revision}, or {synced.count} is not {len(right)}",
            *messages,
        )
        self._compare(messages, have, log, revision, right)

    def _compare(
        self, messages: list[Received], have: _Have, log: TenantLog, revision: int, right: dict[str, str]
    ) -> None:
        """The client has what the log shows; if not, which promise is broken."""
        counted = have.counted
        wrong = {name for name in {*right, *counted} if right.get(name) != counted.get(name)}
        for which in (Property.ATOMIC, Property.RELIABLE):
            self._require(True, which, "")
        for name in sorted(wrong):
            agent = split_name(name)[1]
            what = log.states[revision].get(agent)
            if name in counted and what is not None and not what.deleted and name not in right:
                which, reason = Property.FILTERED, f"{name} is not what was asked for"
            else:
                since = log.bundle_since(agent, revision)
                with_it = log.entries[since - 1].agents if since else {}
                came = any(bundle_name(log.tenant, other) not in wrong for other in with_it)
                which = Property.ATOMIC if came else Property.RELIABLE
                part = "a part" if came else "the change"
                reason = f"at revision {revision} {part} of revision {since} is missing: {name}"
            self._require(False, which, reason, *messages)

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


def _joined(messages: list[Received]) -> Transfer:
    """The parts of a transfer as one."""
    parts = [message.transfer for message in messages if message.transfer is not None]
    return Transfer(
        parts[0].tenant,
        parts[-1].at,
        parts[0].start,
        [bundle for part in parts for bundle in part.bundles],
        [name for part in parts for name in part.removed],
        [content for part in parts for content in part.contents],
        {name: etag for part in parts for name, etag in part.withheld.items()},
        parts[-1].synced,
    )
