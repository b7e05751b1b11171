"""A whole transfer, and what it may declare."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.robustness.findings import Findings, Property
from tests.robustness.history import At, Received, Start, Subscribed, Synced, Transfer
from tests.robustness.logs import Logs, Scope, TenantLog

SPARE_CONTENTS_MIN = 256
"""A server that has sent or been told of more contents may forget some."""
FLOOR_SECONDS = 1.0
"""A trim is known to streams at most so much later."""


@dataclass(slots=True)
class Have:
    """What the client of a stream has of one tenant. `at` is the revision
    that it knows of, `level` whether this stream has brought it in step,
    `parts` what has come of a transfer, `sent` the contents that have come."""

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

    def take(self, whole: Transfer, start: Start) -> None:
        """The client applies a transfer."""
        if start.intent == "FULL":
            self.etags, self.withheld = {}, {}
        for name in whole.removed:
            self.etags.pop(name, None)
            self.withheld.pop(name, None)
        for bundle in whole.bundles:
            self.etags[bundle.name] = bundle.etag
            self.withheld.pop(bundle.name, None)
        self.withheld.update(whole.withheld)
        self.sent.update(whole.contents)
        self.at = whole.at
        self.level = True


@dataclass(frozen=True, slots=True)
class Arrival:
    """A whole transfer: its messages, and all of them as one. `have` is what
    the client has of the tenant, `log` the log that the transfer is of."""

    request: Subscribed
    scope: Scope
    messages: list[Received]
    whole: Transfer
    start: Start
    synced: Synced
    have: Have
    log: TenantLog

    @property
    def last(self) -> Received:
        """The message that ends it."""
        return self.messages[-1]


def joined(messages: list[Received]) -> Transfer:
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


def check_declared(arrival: Arrival, logs: Logs, refused: set[tuple[str, str]], findings: Findings) -> None:
    """What the transfer says of itself, before it is taken. `refused` are the
    bundles that the node has refused, by name and etag."""
    _check_parts(arrival, findings)
    if arrival.have.level:
        _check_next(arrival, findings)
    else:
        _check_first(arrival, logs, findings)
    _check_skipped(arrival, findings)
    _check_withheld(arrival, refused, findings)
    _check_repeats(arrival, findings)


def _check_parts(arrival: Arrival, findings: Findings) -> None:
    whole = arrival.whole
    parts = [message.transfer for message in arrival.messages if message.transfer is not None]
    findings.require(
        all(part.at == whole.at for part in parts),
        Property.ATOMIC,
        "the parts of a transfer are of different revisions",
        *arrival.messages,
    )
    names = [*whole.removed, *whole.withheld, *(bundle.name for bundle in whole.bundles)]
    findings.require(
        len(names) == len(set(names)), Property.UNIQUE, "a name is twice in a transfer", *arrival.messages
    )


def _check_next(arrival: Arrival, findings: Findings) -> None:
    """A transfer to a client that was level."""
    whole, start, at = arrival.whole, arrival.start, arrival.have.at
    assert at is not None
    fits = start.intent == "DELTA" and start.from_revision == at.number
    findings.require(
        fits and bool(whole.bundles or whole.removed),
        Property.TRUTHFUL,
        f"{start.intent} from {start.from_revision} on a stream that is at {at.number}",
        arrival.last,
    )


def _check_first(arrival: Arrival, logs: Logs, findings: Findings) -> None:
    """The first transfer of a tenant on the stream."""
    whole, start, at = arrival.whole, arrival.start, arrival.have.at
    shown = (arrival.request, arrival.last)
    allowed, why = _intents(arrival, logs)
    findings.require(start.intent in allowed, Property.RESUMABLE, f"{start.intent} where {why}", *shown)
    findings.require(bool(start.reason), Property.TRUTHFUL, "an intent without a reason", arrival.last)
    if start.intent == "FULL" or at is None:
        return
    findings.require(
        start.from_revision == at.number,
        Property.RESUMABLE,
        f"from {start.from_revision}, and {at.number} was declared",
        *shown,
    )
    changes = bool(whole.bundles or whole.removed or whole.contents or whole.withheld)
    findings.require(
        changes == (start.intent == "DELTA"),
        Property.RESUMABLE,
        f"{start.intent}, and it brings {'changes' if changes else 'nothing'}",
        *shown,
    )


def _intents(arrival: Arrival, logs: Logs) -> tuple[set[str], str]:
    """The intents that are right for a first transfer, and why."""
    at, tenant, epoch = arrival.have.at, arrival.whole.tenant, arrival.whole.at.epoch
    if at is None:
        return {"FULL"}, "no revision was declared"
    if at.epoch not in ("", epoch):
        return {"FULL"}, "another epoch was declared"
    if at.number < logs.floor(tenant, epoch, arrival.request.time - FLOOR_SECONDS):
        return {"FULL"}, "the history after what was declared is trimmed"
    delta = {"DELTA", "NONE"}
    if at.number < logs.floor(tenant, epoch):
        return {"FULL", *delta}, "the history was being trimmed"
    if not arrival.have.etags:
        return {"FULL", *delta}, "no bundle was declared"
    return delta, "what was declared can be built on"


def _check_skipped(arrival: Arrival, findings: Findings) -> None:
    start = arrival.start
    between = max(0, arrival.whole.at.number - start.from_revision - 1)
    right = {between, 0} if start.intent == "FULL" else {between}
    findings.require(
        start.skipped in right, Property.TRUTHFUL, f"{start.skipped} skipped, not {between}", arrival.last
    )


def _check_withheld(arrival: Arrival, refused: set[tuple[str, str]], findings: Findings) -> None:
    request = arrival.request
    for name, etag in arrival.whole.withheld.items():
        findings.require(
            bool(request.node)
            and arrival.start.intent != "FULL"
            and (name, etag) in refused
            and request.known.get(name) != etag,
            Property.TRUTHFUL,
            f"{name} is withheld at {etag}, which was not refused or is there",
            arrival.last,
        )


def _check_repeats(arrival: Arrival, findings: Findings) -> None:
    whole, have = arrival.whole, arrival.have
    if arrival.start.intent == "DELTA":
        for bundle in whole.bundles:
            findings.require(
                have.counted.get(bundle.name) != bundle.etag,
                Property.UNIQUE,
                f"{bundle.name} at {bundle.etag} was there already",
                *arrival.messages,
            )
    if len(have.sent) + len(have.declared) < SPARE_CONTENTS_MIN:
        again = {one for one in whole.contents if one in have.sent or one in have.declared}
        findings.require(
            not again and len(set(whole.contents)) == len(whole.contents),
            Property.UNIQUE,
            f"contents {sorted(again)} were there already",
            *arrival.messages,
        )
