"""How a stream of reports ended, and how long to wait before the next: pure.

What a server does not have, or does not permit, it will not have in a moment:
then the waits are long, and grow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

import grpc

from agent_node.upstream import NO_TENANT, Waits, ended_by

REFUSED_SECONDS_MIN = 60.0
REFUSED_SECONDS_MAX = 900.0
DOUBLINGS_MAX = 16

_REFUSED = frozenset(
    {
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)


class EndingKind(Enum):
    """Why a stream ended."""

    FAILED = auto()
    INVALID = auto()
    """The server does not take what was sent."""
    REPLACED = auto()
    """Another node has the same id."""
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a stream. `retry_after` is what the server asked for, in
    seconds."""

    kind: EndingKind
    reason: str
    retry_after: float | None = None


def ending_of(error: grpc.aio.AioRpcError) -> Ending:
    """What an error says."""
    ended = ended_by(error, "", 0.0)
    kind = EndingKind.FAILED
    if error.code() in _REFUSED:
        kind = EndingKind.REFUSED
    elif ended.replaced:
        kind = EndingKind.REPLACED
    elif ended.refused != NO_TENANT:
        kind = EndingKind.INVALID
    return Ending(kind, ended.reason, ended.retry_after)


class Pauses:
    """`jitter` returns 0 to 1."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._waits = Waits(jitter)
        self._refused = 0

    def start_over(self) -> None:
        """Something was acknowledged."""
        self._waits.start_over()
        self._refused = 0

    def after(self, ending: Ending, now: float) -> float:
        """The wait before the next stream, in seconds."""
        if ending.kind is EndingKind.REPLACED:
            return self._waits.taken_over(now)
        if ending.kind is EndingKind.REFUSED:
            longest = min(REFUSED_SECONDS_MIN * 2.0 ** min(self._refused, DOUBLINGS_MAX), REFUSED_SECONDS_MAX)
            self._refused += 1
            return longest * (1 + self._jitter()) / 2
        return self._waits.failed(ending.retry_after)
