"""What a node has said of each bundle of a tenant, in as little room as may be.

Which of two reports is older is told by where they stand in the order of the
node's reports, never by a clock of the node's; see `records`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from control_plane.fleet.words import Word
from control_plane.state import BundleRecord
from voxplane.names import AgentName
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

_APPLIED = sync_pb2.CONFIG_PHASE_APPLIED
_NS_MAX = 2**63 - 1
_MARKS = struct.Struct("<qqqI")


@dataclass(slots=True)
class BundleReport:
    """What a node has said of one bundle: the newest word, the newest one of a
    bundle that it runs and has not refused since, and where in the order of
    the node's reports each stood. `time` is ns of the node's clock, 0 for none,
    and decides nothing."""

    word: Word
    effective: Word | None
    order: int
    effective_order: int
    sessions: int
    time: int

    def take(self, word: Word, status: sync_pb2.BundleStatus, order: int) -> bool:
        """Take a later word, or an earlier one that comes late. Returns
        whether it tells anything new of what the node has or runs."""
        news = self._take_effect(word, order)
        if (order, word.revision) < (self.order, self.word.revision):
            return news
        news |= self.word != word
        self.word, self.order = word, order
        self.sessions, self.time = status.sessions, _time_of(status)
        return news

    def _take_effect(self, word: Word, order: int) -> bool:
        before = self.effective
        if (order, word.revision) < (self.effective_order, before.revision if before else 0):
            return False
        if word.phase == _APPLIED:
            refused_since = self.order > order and self.word.refuses and self.word.etag == word.etag
            self.effective = None if refused_since else word
            self.effective_order = self.order if refused_since else order
        elif word.refuses and before is not None and before.etag == word.etag:
            self.effective, self.effective_order = None, order
        return self.effective != before


class Reports:
    """By name, what was said of bundles. A fleet has many of these and nothing
    else in such numbers, so the numbers are packed, and the words are shared."""

    __slots__ = ("_effective", "_marks", "_words")

    def __init__(self) -> None:
        self._words: dict[AgentName, Word] = {}
        self._marks: dict[AgentName, bytes] = {}
        # Only where the node does not run just what its newest word is about.
        self._effective: dict[AgentName, Word] | None = None

    def __len__(self) -> int:
        return len(self._words)

    def __iter__(self) -> Iterator[AgentName]:
        return iter(self._words)

    def get(self, name: AgentName) -> BundleReport | None:
        """A copy of what was said of a bundle."""
        word = self._words.get(name)
        if word is None:
            return None
        order, effective_order, time, sessions = _MARKS.unpack(self._marks[name])
        return BundleReport(word, self._runs(name, word), order, effective_order, sessions, time)

    def word(self, name: AgentName) -> Word | None:
        """The newest word of a bundle."""
        return self._words.get(name)

    def take(self, name: AgentName, status: sync_pb2.BundleStatus, word: Word, order: int) -> bool:
        """Take what is said of a bundle; False if it tells nothing new."""
        report = self.get(name)
        if report is None:
            effective = word if word.phase == _APPLIED else None
            report = BundleReport(
                word, effective, order, order if effective else 0, status.sessions, _time_of(status)
            )
            news = True
        else:
            news = report.take(word, status, order)
        self._words[name] = report.word
        self._marks[name] = _MARKS.pack(report.order, report.effective_order, report.time, report.sessions)
        self._keep_effective(name, report)
        return news

    def forget(self, name: AgentName) -> None:
        """Nothing was said of the bundle."""
        if self._words.pop(name, None) is not None:
            del self._marks[name]
            if self._effective is not None:
                self._effective.pop(name, None)

    def effective(self, name: AgentName) -> Word | None:
        """The word of the bundle that the node runs."""
        word = self._words.get(name)
        return None if word is None else self._runs(name, word)

    def runs(self, bundle: BundleRecord) -> bool:
        """Whether the node runs the bundle. The same one by an older number
        counts as long as there is no word of another one since."""
        name = bundle.name
        word = self._words.get(name)
        if word is None:
            return False
        effective = self._runs(name, word)
        if effective is None or effective.etag != bundle.etag:
            return False
        return effective.revision >= bundle.revision or word.etag == bundle.etag

    def sessions(self) -> int:
        """Sessions that follow one of the bundles."""
        return sum(_MARKS.unpack(marks)[3] for marks in self._marks.values())

    def _runs(self, name: AgentName, word: Word) -> Word | None:
        if word.phase == _APPLIED:
            return word
        return self._effective.get(name) if self._effective is not None else None

    def _keep_effective(self, name: AgentName, report: BundleReport) -> None:
        if report.effective is None or report.effective is report.word:
            if self._effective is not None:
                self._effective.pop(name, None)
                self._effective = self._effective or None
        else:
            if self._effective is None:
                self._effective = {}
            self._effective[name] = report.effective


def _time_of(status: sync_pb2.BundleStatus) -> int:
    if not status.HasField("time"):
        return 0
    return min(max(status.time.seconds * 1_000_000_000 + status.time.nanos, 0), _NS_MAX)
