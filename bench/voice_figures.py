"""What bench.voice makes of its measurements. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bench.figures import percentile

Subject = Literal["voxplane", "plain"]
SUBJECTS: tuple[Subject, ...] = ("voxplane", "plain")
DROPOUT_SECONDS = 0.02
"""Of silence within a reply; less is not heard."""
MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """What was heard of a reply, in seconds, and the samples that the receiver made up for lost ones.

    delay: from the caller's last word to the reply's first sound. gap: the longest
    silence within it. wait: the longest between two frames of 10 ms.
    """

    delay: float
    gap: float
    wait: float
    concealed: int

    @property
    def drops(self) -> bool:
        """Whether it has a dropout that can be heard."""
        return self.gap >= DROPOUT_SECONDS


@dataclass(frozen=True, slots=True)
class Step:
    """So many calls that talked at once.

    machine: share of all processors that was in use, 0 to 1. cores: what the
    subject's processes took of a processor, for each call. failed: replies that
    did not come.
    """

    calls: int
    machine: float
    cores: float
    replies: Sequence[Reply]
    failed: int = 0

    @property
    def dropped(self) -> int:
        """Replies with a dropout, or that did not come."""
        return sum(reply.drops for reply in self.replies) + self.failed

    @property
    def clean(self) -> bool:
        """Whether all replies came without a dropout."""
        return bool(self.replies) and not self.dropped


@dataclass(slots=True)
class Found:
    """What was found of one subject. Times in seconds, memory in bytes."""

    ready: list[float] = field(default_factory=list[float])
    first_sound: list[float] = field(default_factory=list[float])
    pss: list[float] = field(default_factory=list[float])
    steps: list[Step] = field(default_factory=list[Step])

    def replies(self, calls: int) -> list[Reply]:
        """All replies of the steps with so many calls."""
        return [reply for step in self.steps if step.calls == calls for reply in step.replies]


@dataclass(slots=True)
class Swaps:
    """Changes in a call that runs: seconds from commit to applied, and replies with and without one."""

    applied: list[float] = field(default_factory=list[float])
    without: list[Reply] = field(default_factory=list[Reply])
    swapped: list[Reply] = field(default_factory=list[Reply])


def clean_calls(steps: Iterable[Step]) -> int:
    """The most calls at once of which no reply dropped out, before the first that did."""
    best = 0
    by_calls: dict[int, list[Step]] = {}
    for step in steps:
        by_calls.setdefault(step.calls, []).append(step)
    for calls in sorted(by_calls):
        if not all(step.clean for step in by_calls[calls]):
            break
        best = calls
    return best


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The medians' ratio; None if either is missing."""
    if not ours or not theirs or not statistics.median(theirs):
        return None
    return statistics.median(ours) / statistics.median(theirs)


def spread(values: Sequence[float], scale: float, unit: str) -> str:
    """Median and the longest, for people; empty if there are none."""
    if not values:
        return ""
    return f"{_number(statistics.median(values) * scale)} ({_number(max(values) * scale)}) {unit}"


def tail(values: Sequence[float], scale: float, unit: str) -> str:
    """p50 and p99, for people; empty if there are none."""
    if not values:
        return ""
    shown = (_number(percentile(list(values), share) * scale) for share in (0.5, 0.99))
    return f"{' / '.join(shown)} {unit}"


def dropouts(replies: Sequence[Reply]) -> str:
    """How many replies have a dropout, and the longest silence, for people."""
    if not replies:
        return ""
    dropped = sum(reply.drops for reply in replies)
    return f"{dropped} of {len(replies)}, longest {max(reply.gap for reply in replies) * 1e3:.0f} ms"


def losses(replies: Sequence[Reply]) -> str:
    """The longest wait between two frames, and the most samples made up in a reply, for people."""
    if not replies:
        return ""
    wait, concealed = max(reply.wait for reply in replies), max(reply.concealed for reply in replies)
    return f"{wait * 1e3:.0f} ms, {concealed} samples"


def _number(value: float) -> str:
    if value < 1:
        return f"{value:.3f}"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"
