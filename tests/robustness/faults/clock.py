"""Steps of the wall clock of a process, by clock_shim.c."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from tests.robustness.faults.shims import shim

HOUR = 3600.0
DAY = 24 * HOUR

_CONTROL = struct.Struct("qq")


class ClockSteps:
    """The wall clock of all processes that run with `environment`. It begins
    right; the monotonic clock stays what it is."""

    def __init__(self, control: Path) -> None:
        control.write_bytes(bytes(_CONTROL.size))
        with control.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), _CONTROL.size)
        self.environment = {"LD_PRELOAD": str(shim("clock")), "FAULT_CLOCK_CONTROL": str(control)}

    def set(self, seconds: float) -> None:
        """Have the clock be wrong by so many seconds, from now on."""
        struct.pack_into("q", self._control, 0, round(seconds * 1e9))

    @property
    def waits(self) -> int:
        """Count of the waits until a time of the wall clock so far."""
        return _CONTROL.unpack_from(self._control)[1]

    def close(self) -> None:
        """Let go of the control file; the clocks stay as they are."""
        self._control.close()
