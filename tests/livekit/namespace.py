"""A network namespace of the tests' own, and programs in it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.livekit.inside import READY

ROOT = Path(__file__).parents[2]
READY_SECONDS_MAX = 20.0
STOP_SECONDS_MAX = 5.0
PROGRAMS = {"unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux", "ip": "iproute2"}
NO_RIGHT = (
    "no network namespace can be made ({error}): run as root, or let users make them with "
    "sysctl -w kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0; "
    "a container needs --cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt apparmor=unconfined"
)
_ADD_LINK = ("ip", "link", "add", "voice0", "type", "veth", "peer", "name", "voice1")
_LIVES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


class NamespaceError(Exception):
    """There is no namespace; the message says why."""


def missing() -> str:
    """What is missing for a namespace, and how to get it; empty if nothing is."""
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            return f"{program} is missing; get it by: apt-get install {package}"
    tried = subprocess.run((*_unshare(), *_ADD_LINK), capture_output=True, text=True, check=False)
    return NO_RIGHT.format(error=tried.stderr.strip()) if tried.returncode else ""


class Namespace:
    """A network with a loopback and one interface, `async with Namespace({socket: port})`.

    Each Unix socket leads to a port of the loopback inside. The network is
    gone when nothing runs in it, however the tests end.
    """

    def __init__(self, doors: Mapping[Path, int], log: Path) -> None:
        self._doors = doors
        self._log = log
        self._holder: asyncio.subprocess.Process | None = None

    def entering(self, words: Sequence[str]) -> tuple[str, ...]:
        """The program's command line that runs it inside; it ends with this process."""
        assert self._holder is not None
        enter = ["nsenter", "--target", str(self._holder.pid), "--net"]
        if os.geteuid() != 0:
            enter += ["--user", "--preserve-credentials"]
        return (*enter, "--", *_LIVES_WITH_US, *words)

    async def __aenter__(self) -> Namespace:
        doors = (f"{path}={port}" for path, port in self._doors.items())
        with self._log.open("ab") as log:
            self._holder = await asyncio.create_subprocess_exec(
                *(*_unshare(), *_LIVES_WITH_US, sys.executable, "-m", "tests.livekit.inside", *doors),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
            )
        assert self._holder.stdout is not None
        said = await asyncio.wait_for(self._holder.stdout.readline(), READY_SECONDS_MAX)
        if said.decode().strip() != READY:
            await self._holder.wait()
            raise NamespaceError(f"the namespace cannot be laid out:\n{self._log.read_text()[-2000:]}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._holder is not None
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        try:
            await asyncio.wait_for(self._holder.wait(), STOP_SECONDS_MAX)
        except TimeoutError:
            self._holder.kill()
            await self._holder.wait()


def _unshare() -> tuple[str, ...]:
    if os.geteuid() == 0:
        return ("unshare", "--net", "--")
    return ("unshare", "--net", "--user", "--map-root-user", "--")
