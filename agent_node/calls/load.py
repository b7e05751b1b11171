"""How busy the node is, from 0 to 1, where 1 means that it takes no more calls.

It is the higher of two parts: calls against the most that it may hold, and the
machine's processors against the share of them that may be used.

- The processors' part is smoothed, and does not say at once that there is room
  again, so that a node at its bound does not flicker.
- A call costs nothing in the second in which it is accepted. So each young call
  is taken to cost what a call was measured to cost, until it shows by itself:
  callers who come all at once do not overload the node.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from agent_node.calls.slots import Slots
from voxplane.clock import Clock

CALL_CORES = 0.17
"""What a call was measured to cost, in processors; see docs/voice.md."""
YOUNG_SECONDS = 5.0
SMOOTHING_SECONDS = 2.5
AGAIN_FREE = 0.95
"""The part of the bound under which a busy machine takes calls again."""
NEARLY_FULL = 0.99
LIVEKIT_FULL = 0.7
"""The load from which LiveKit's server offers a worker no more jobs, whatever
the worker's status says: `agents.target_load` of its config, at its default."""
RETRY_SECONDS = 5.0

ReadCpu = Callable[[], Awaitable[float]]
"""Measures the machine's processors for a moment: the share that was in use, 0 to 1."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Load:
    """The two parts, each 0 to 1, where 1 is full."""

    sessions: float
    cpu: float

    @property
    def value(self) -> float:
        """The higher of them."""
        return max(self.sessions, self.cpu)


class LoadMeter:
    """Measures the load. `cores` is the count of processors that the node may
    use, `cpu_max` the share of them, 0 to 1, from which it takes no more calls."""

    def __init__(self, slots: Slots, clock: Clock, *, cpu_max: float, cores: float) -> None:
        self._slots = slots
        self._clock = clock
        self._cpu_max = cpu_max
        self._cores = max(cores, 0.01)
        self._smooth = 0.0
        self._sampled: float | None = None
        self._hot = False

    @property
    def cpu(self) -> float:
        """The share of the processors that is in use, 0 to 1, smoothed."""
        return self._smooth

    def sample(self, cpu: float) -> None:
        """A measurement, 0 to 1."""
        now = self._clock.monotonic()
        if self._sampled is None:
            self._smooth = cpu
        else:
            weight = 1 - math.exp(-(now - self._sampled) / SMOOTHING_SECONDS)
            self._smooth += weight * (cpu - self._smooth)
        self._sampled = now

    def load(self) -> Load:
        """The load now."""
        now = self._clock.monotonic()
        young = sum(now - slot.since < YOUNG_SECONDS for slot in self._slots)
        cpu = min(self._smooth + young * CALL_CORES / self._cores, 1.0) / self._cpu_max
        self._hot = cpu >= (AGAIN_FREE if self._hot else 1.0)
        sessions = len(self._slots) / self._slots.slots_max
        return Load(min(sessions, 1.0), 1.0 if self._hot else cpu)

    def told(self) -> float:
        """What LiveKit is told, where LIVEKIT_FULL is full. While a place is
        kept for a call that was interrupted, a full node must be offered that
        call."""
        value = self.load().value
        return LIVEKIT_FULL * (min(value, NEARLY_FULL) if self._slots.kept else value)


async def measure(meter: LoadMeter, read: ReadCpu, clock: Clock) -> None:
    """Feed the meter until cancelled; `read` takes the time that it measures."""
    while True:
        try:
            meter.sample(await read())
        except Exception as error:
            # without measurements the last one holds, and the count of calls is a bound still
            _log.error(
                "the machine's processors cannot be measured", error=f"{type(error).__name__}: {error}"
            )
            await clock.sleep(RETRY_SECONDS)
