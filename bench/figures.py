"""Figures out of several rounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def middle(rounds: Iterable[list[float] | None], share: float) -> float | None:
    """The median of the rounds' percentiles; None if nothing was measured."""
    found = [percentile(values, share) for values in rounds if values]
    return statistics.median(found) if found else None


def median(rounds: Iterable[float]) -> float | None:
    """The median; None if nothing was measured."""
    found = list(rounds)
    return statistics.median(found) if found else None
