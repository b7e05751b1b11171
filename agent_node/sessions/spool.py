"""The spool: what of the node's sessions the control plane may not have yet, on
disk, so that it outlives the node.

One file. Entries are added to it; when it has grown to its share of the bound it
is written anew, with what still counts, and put in place of the old one. What
counts is at most a third of the bound, the file at most two thirds: so both are
there, and nothing is copied more than once for each byte that is added.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import structlog

from agent_node.sessions.frames import HEAD_BYTES, MAGIC, Frame, TornFrame, body_bytes, decode, encode

NAME = "sessions.spool"
BAD_SUFFIX = ".bad"
NEW_SUFFIX = ".new"
CHUNK_FRAMES = 1_000

_log = structlog.stdlib.get_logger(__name__)


class Spool:
    """A file of a folder. The calls block; they raise OSError, but for `load`
    and `close`."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder = folder
        self._path = folder / NAME
        self._file_bytes_max = bytes_max * 2 // 3
        self._file: BinaryIO | None = None
        self.size = 0
        self.content_bytes_max = bytes_max // 3

    def load(self) -> tuple[list[Frame], float]:
        """All entries that can be read, and when the last one was written, in
        seconds since 1970 (0: there is none)."""
        frames: list[Frame] = []
        try:
            with _open(self._path) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or file.read(len(MAGIC)) != MAGIC:
                    self._set_aside("it is no spool that this version of the node reads")
                    return [], 0.0
                frames.extend(_frames(file))
                self.size = status.st_size
                return frames, status.st_mtime
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.error("session spool not read", file=self._path.name, reason=str(error))
        return frames, 0.0

    def has_room(self, frames: Sequence[Frame]) -> bool:
        """Whether they can be added; else write the file anew."""
        return self._file is not None and self.size + sum(f.size for f in frames) <= self._file_bytes_max

    def append(self, frames: Sequence[Frame]) -> None:
        """Add entries; they are on disk when this returns. After an error the
        file must be written anew."""
        assert self._file is not None
        try:
            self._write(self._file, frames)
        except OSError:
            self.close()
            raise

    def rewrite(self, frames: Sequence[Frame]) -> None:
        """Replace the file by one with these entries."""
        self.close()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._path.with_name(NAME + NEW_SUFFIX)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.fdopen(os.open(fresh, flags, 0o600), "wb", buffering=0)
        try:
            self.size = file.write(MAGIC)
            self._write(file, frames)
            fresh.replace(self._path)
            self._sync_folder()
        except OSError:
            file.close()
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)  # half a file must not fill the disk
            raise
        self._file = file

    def close(self) -> None:
        """Let go of the file; it is written anew before anything is added."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, file: BinaryIO, frames: Sequence[Frame]) -> None:
        for start in range(0, len(frames), CHUNK_FRAMES):
            data = memoryview(b"".join(map(encode, frames[start : start + CHUNK_FRAMES])))
            while data:
                written = file.write(data)
                self.size += written
                data = data[written:]
        os.fdatasync(file.fileno())

    def _set_aside(self, reason: str) -> None:
        _log.error("session spool set aside", file=self._path.name, reason=reason)
        try:
            self._path.replace(self._path.with_name(NAME + BAD_SUFFIX))
        except OSError as error:
            _log.error("session spool stays where it is", reason=str(error))

    def _sync_folder(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _open(path: Path) -> BinaryIO:
    """A file, or what is in its place; a FIFO must not hang the start."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IsADirectoryError(f"{path.name} is a folder")
    return os.fdopen(descriptor, "rb")


def _frames(file: BinaryIO) -> Iterator[Frame]:
    """Up to the end, or to what is no entry."""
    while head := file.read(HEAD_BYTES):
        try:
            yield decode(head, file.read(body_bytes(head)))
        except TornFrame as error:
            rest = os.fstat(file.fileno()).st_size - file.tell()
            _log.warning("session spool ends early", reason=str(error), bytes_left=rest)
            return
