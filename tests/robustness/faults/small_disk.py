"""A disk of a few megabytes, which one can fill: a tmpfs that only the
processes that are started in it see."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

FILLED_BYTES = 4096
PROBE_SECONDS_MAX = 10
_HOLD = 'mount -t tmpfs -o size="$1" none "$2" && echo ready && exec cat'


def why_not() -> str:
    """Why there can be none here, and what would help; empty if there can."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return "needs unshare and nsenter of util-linux"
    tried = subprocess.run(
        [*_unshare(), "sh", "-c", "mount -t tmpfs -o size=64k none /tmp"],
        capture_output=True,
        timeout=PROBE_SECONDS_MAX,
        check=False,
    )
    if tried.returncode:
        return (
            "needs a mount namespace: run as root, or allow it by sysctl kernel.unprivileged_userns_clone=1"
        )
    return ""


class SmallDisk:
    """Its files are at `folder`, for processes whose command begins with
    `prefix`, and at `seen` for this one."""

    def __init__(self, folder: Path, holder: int) -> None:
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        self.folder = folder
        self.prefix: Sequence[str] = ("nsenter", f"--target={holder}", "--mount", *user)
        self.seen = Path(f"/proc/{holder}/root{folder}")

    def fill(self) -> None:
        """Leave no byte free."""
        with (self.seen / "filler").open("ab", buffering=0) as file:
            for size in (1024 * 1024, 64 * 1024, FILLED_BYTES):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        """Give back what was taken."""
        (self.seen / "filler").unlink(missing_ok=True)


@asynccontextmanager
async def small_disk(folder: Path, size: int) -> AsyncGenerator[SmallDisk]:
    """A disk of so many bytes at a folder, which is there already, gone with
    the block. Raises OSError if there can be none."""
    holder = await asyncio.create_subprocess_exec(
        *(*_unshare(), "sh", "-c", _HOLD, "sh", str(size), str(folder)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        if await holder.stdout.readline() != b"ready\n":
            raise OSError(f"no disk: {why_not() or 'mount failed'}")
        yield SmallDisk(folder, holder.pid)
    finally:
        # It ends at the end of its input, also when this process is killed.
        holder.stdin.close()
        await holder.wait()


def _unshare() -> list[str]:
    return ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
