"""What the sessions of a node add up to, for its metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import TypeVar

from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.v1 import session_pb2

BUCKETS_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
LABELS_MAX = 50
"""Kinds of swaps, and sources of errors, that are counted by name."""
OTHER = "other"

_K = TypeVar("_K")

STAGES = {
    "transcription": "transcription_delay",
    "end_of_turn": "end_of_turn_delay",
    "llm_first_token": "first_token",
    "tts_first_speech": "first_speech",
    "response": "response",
}
"""The stages of a turn, and what a SessionTurn calls how long they took."""


class Histogram:
    """How often something took how long; the last bucket has no bound."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_SECONDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """It took so long once."""
        self.counts[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.sum += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """Of each bucket its bound, and the count up to it."""
        bounds = [*map(str, BUCKETS_SECONDS), "+Inf"]
        return list(zip(bounds, accumulate(map(float, self.counts)), strict=True))


class SessionTally:
    """Counts since the node started. `ended` is by outcome, `tokens` by
    direction, `swaps` by effect and result, `errors` by source."""

    def __init__(self) -> None:
        self.ended: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter(input=0, output=0)
        self.swaps: Counter[tuple[str, str]] = Counter()
        self.errors: Counter[str] = Counter()
        self.latencies = {stage: Histogram() for stage in STAGES}
        self.turns = 0
        self.interruptions = 0
        self.orphans = 0
        self.replacements = 0
        self.invalid_reports = 0

    def turn(self, turn: session_pb2.SessionTurn) -> None:
        """A turn has ended."""
        self.turns += 1
        self.interruptions += turn.interrupted
        self.tokens["input"] += turn.input_tokens
        self.tokens["output"] += turn.output_tokens
        for stage, name in STAGES.items():
            if turn.HasField(name):
                self.latencies[stage].observe(getattr(turn, name).ToNanoseconds() / 1e9)

    def end(self, outcome: session_pb2.SessionOutcome) -> None:
        """A session has ended."""
        self.ended[session_pb2.SessionOutcome.Name(outcome).removeprefix("SESSION_OUTCOME_").lower()] += 1

    def figures(self, figures: relay_pb2.JobFigures) -> None:
        """What a job has counted."""
        for key, count in figures.swaps.items():
            effect, _, result = key.rpartition(" ")
            self.swaps[_bounded(self.swaps, (effect, result), (OTHER, OTHER))] += count
        for source, count in figures.errors.items():
            self.errors[_bounded(self.errors, source, OTHER)] += count


def _bounded(counted: Counter[_K], key: _K, other: _K) -> _K:
    return key if key in counted or len(counted) < LABELS_MAX else other
