"""What a checker has found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from tests.robustness.history import Record

RECORDS_SHOWN_MAX = 3
RECORD_CHARS_SHOWN = 500


class Property(StrEnum):
    """What has to hold. The value is the sentence that is shown."""

    CHAINED = "revisions have no gap, come once, and are chained by hash"
    DURABLE = "what was acknowledged or shown is in the log, for good"
    ONCE = "a request is carried out at most once"
    LINEARIZABLE = "calls take effect between their start and their end, in the order of revisions"
    TRUTHFUL = "answers and declarations say what is so"
    FILTERED = "a watch brings what was asked for and nothing else"
    ORDERED = "a watch never goes back"
    UNIQUE = "a watch brings nothing twice"
    ATOMIC = "a revision comes whole, in one transfer"
    BOOKMARKABLE = "a bookmark comes after all that it covers"
    RELIABLE = "a watch loses no change"
    RESUMABLE = "a stream goes on from what its client declared"
    COMPLETE = "a bundle's contents are there with it"
    PROVEN = "digest and count are those of the revision"
    NUMBERED = "nonces rise by one, within one stream of one id"
    HEALTHY = "the server answers without a fault of its own"
    CONVERGED = "left alone, all have the newest state"


@dataclass(frozen=True, slots=True)
class Violation:
    """A property that does not hold, why, and the records that show it."""

    property: Property
    reason: str
    records: tuple[Record, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.property.name}: {self.reason}"]
        lines += [f"    {str(record)[:RECORD_CHARS_SHOWN]}" for record in self.records[:RECORDS_SHOWN_MAX]]
        return "\n".join(lines)


@dataclass(slots=True)
class Findings:
    """Violations, and how often each property was looked at."""

    violations: list[Violation] = field(default_factory=list[Violation])
    checked: Counter[Property] = field(default_factory=Counter[Property])

    def require(self, holds: bool, which: Property, reason: str, *records: Record) -> bool:
        """Note that a property was looked at; if it does not hold, it is
        violated. Returns `holds`."""
        self.checked[which] += 1
        if not holds:
            self.violations.append(Violation(which, reason, records))
        return holds

    @property
    def violated(self) -> set[Property]:
        """The properties that do not hold."""
        return {violation.property for violation in self.violations}
