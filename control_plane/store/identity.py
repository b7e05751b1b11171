"""Which file a path names: a copy is another file, whatever it holds.

An inode number is given again when its file is gone; with the time of birth,
which no program can set, it is unique. A file keeps both when it is written
to, renamed, or given another owner.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from pathlib import Path

_AT_FDCWD = -100
_STATX_BTIME = 0x800
_STATX_BYTES = 256
_MASK_AT, _BORN_AT = 0, 80
"""Where struct statx has stx_mask and stx_btime, on every Linux."""


@dataclass(frozen=True, slots=True)
class Identity:
    """`born` is in nanoseconds since 1970; 0 where the file system does not
    tell, and then a number that was given again cannot be seen."""

    inode: int
    born: int


def identify(path: Path) -> Identity | None:
    """The file's identity; None if there is no file. Raises OSError."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return Identity(found.st_ino, _born(path, found))


def _born(path: Path, found: os.stat_result) -> int:
    seconds = getattr(found, "st_birthtime", None)
    if seconds is not None:
        return int(seconds * 1e9)
    statx = getattr(ctypes.CDLL(None), "statx", None)
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    if statx is None or statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, answer):
        return 0
    (mask,) = struct.unpack_from("I", answer.raw, _MASK_AT)
    whole, part = struct.unpack_from("qI", answer.raw, _BORN_AT)
    return whole * 1_000_000_000 + part if mask & _STATX_BTIME else 0
