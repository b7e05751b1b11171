"""Faults of the disk under a process, by disk_shim.c."""

from __future__ import annotations

import asyncio
import errno
import mmap
import struct
from enum import IntEnum
from pathlib import Path

from tests.robustness.faults.shims import shim

CONTROL_BYTES = 4096
COMMAND_SECONDS_MAX = 10.0
COMMAND_POLL_SECONDS = 0.002
ONLY_BYTES_MAX = 63

_RULE = struct.Struct("IIIIQQ")
_COMMAND = struct.Struct("II")
_COMMAND_AT = 3 * _RULE.size
_ONLY_AT = _COMMAND_AT + _COMMAND.size
_PASS, _FAIL, _SHORT, _HANG, _LIE = range(5)
_FORGET, _POWER_OFF = 1, 2


class Call(IntEnum):
    """What a process does with a file. SYNC is fsync and fdatasync."""

    WRITE = 0
    SYNC = 1
    READ = 2


class DiskFaults:
    """The disk below a folder, for processes that run with `environment`.

    All of them share the faults. Faults begin at once, or after so many calls
    of the kind that pass, and go on until `heal`, or so many times. With
    `remembers` one process at a time may use it, and the disk plays the page
    cache too: see `forget` and `power_off`.
    """

    def __init__(self, folder: Path, control: Path, *, remembers: bool = False) -> None:
        control.write_bytes(bytes(CONTROL_BYTES))
        with control.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), CONTROL_BYTES)
        self.environment = {
            "LD_PRELOAD": str(shim("disk")),
            "FAULT_DISK_FOLDER": str(folder.resolve()),
            "FAULT_DISK_CONTROL": str(control),
            **({"FAULT_DISK_REMEMBER": "1"} if remembers else {}),
        }

    def fail(self, call: Call, *, error: int = errno.EIO, after: int = 0, times: int = 0) -> None:
        """Have calls fail with an errno, without effect. A sync that fails may
        have lost what was written before it."""
        self._rule(call, _FAIL, after, times, error)

    def shorten(self, *, after: int = 0, times: int = 0) -> None:
        """Have writes take half of what they are given."""
        self._rule(Call.WRITE, _SHORT, after, times, 0)

    def hang(self, call: Call, *, after: int = 0) -> None:
        """Have calls wait for `heal`; then they succeed."""
        self._rule(call, _HANG, after, 0, 0)

    def lie(self) -> None:
        """Have syncs succeed and do nothing."""
        self._rule(Call.SYNC, _LIE, 0, 0, 0)

    def heal(self) -> None:
        """Have all calls succeed."""
        for call in Call:
            self._rule(call, _PASS, 0, 0, 0)

    def only(self, ending: str = "") -> None:
        """Have faults only in files whose names end so."""
        encoded = ending.encode()
        assert len(encoded) <= ONLY_BYTES_MAX
        self._control[_ONLY_AT : _ONLY_AT + ONLY_BYTES_MAX + 1] = encoded.ljust(ONLY_BYTES_MAX + 1, b"\0")

    def met(self, call: Call) -> int:
        """Count of the calls so far. Reads are counted while they may fail."""
        return self._counts(call)[0]

    def faults(self, call: Call) -> int:
        """Count of the calls that had a fault."""
        return self._counts(call)[1]

    async def forget(self) -> None:
        """Have the cache lose what a failed sync has left in it alone: reads
        show again what the disk has. Raises TimeoutError if no process that
        has written is there."""
        await self._command(_FORGET)

    async def power_off(self) -> None:
        """Kill the process, and lose all that it has not synced. Raises
        TimeoutError as `forget` does."""
        await self._command(_POWER_OFF)

    def close(self) -> None:
        """Let go of the control file; processes go on with the faults they have."""
        self._control.close()

    def _rule(self, call: Call, act: int, after: int, times: int, error: int) -> None:
        start = call * _RULE.size
        # What is done last begins it.
        struct.pack_into("III", self._control, start + 4, after, times, error)
        struct.pack_into("I", self._control, start, act)

    def _counts(self, call: Call) -> tuple[int, int]:
        *_, met, faults = _RULE.unpack_from(self._control, call * _RULE.size)
        return met, faults

    async def _command(self, number: int) -> None:
        _, done = _COMMAND.unpack_from(self._control, _COMMAND_AT)
        struct.pack_into("I", self._control, _COMMAND_AT, number)
        async with asyncio.timeout(COMMAND_SECONDS_MAX):
            while _COMMAND.unpack_from(self._control, _COMMAND_AT)[1] == done:  # noqa: ASYNC110 - another process counts
                await asyncio.sleep(COMMAND_POLL_SECONDS)
        struct.pack_into("I", self._control, _COMMAND_AT, 0)
