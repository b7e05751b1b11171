"""`voxplane dev` and its tour, as a newcomer has them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from bench.processes import free_port
from tests.certificates import Authority
from tests.livekit.namespace import Namespace
from tests.livekit.stage import missing
from voxplane.cli.livekit_server import PROGRAM
from voxplane.cli.tour import NEW_FIELD, STEPS
from voxplane.cli.tour_voice import VOICE_STEPS

UP = "Ctrl-C stops everything."
READY_SECONDS_MAX = 60.0
CALL_SECONDS_MAX = 180.0
"""For the tour by voice, on a machine that is busy with other tests."""
END_SECONDS_MAX = 30.0


class Dev:
    """A running `voxplane dev`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.text = ""

    async def until_up(self) -> None:
        """Until it has said what to type next."""
        assert self.process.stdout is not None
        async with asyncio.timeout(READY_SECONDS_MAX):
            while UP not in self.text:
                line = await self.process.stdout.readline()
                assert line, self.text
                self.text += line.decode()

    async def end(self, seconds: float = READY_SECONDS_MAX) -> int:
        """Read all it says to its end; the exit code."""
        out, _ = await asyncio.wait_for(self.process.communicate(), seconds)
        self.text += out.decode()
        return self.process.returncode or 0

    def family(self) -> list[psutil.Process]:
        """All processes below it."""
        return psutil.Process(self.process.pid).children(recursive=True)


@asynccontextmanager
async def dev(
    folder: Path,
    *arguments: str,
    network: Namespace | None = None,
    more: Mapping[str, str] | None = None,
) -> AsyncIterator[Dev]:
    """Run it in a folder, with `more` in its environment; in a network of its own with LiveKit's
    server, else without."""
    words = (sys.executable, "-m", "voxplane", "dev", *arguments)
    process = await asyncio.create_subprocess_exec(
        *(network.entering(words) if network else words),
        cwd=folder,
        env=environment(calls=network is not None) | dict(more or {}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Dev(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def environment(*, calls: bool) -> dict[str, str]:
    """The environment of a newcomer; without calls LiveKit's server is not on the PATH."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LIVEKIT_", "VOXPLANE_"))}
    if not calls:
        folders = kept["PATH"].split(os.pathsep)
        kept["PATH"] = os.pathsep.join(f for f in folders if not (Path(f) / PROGRAM).exists())
    return kept


async def all_gone(processes: list[psutil.Process]) -> bool:
    """Whether all of them end soon."""
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, END_SECONDS_MAX)
    return not alive


async def test_the_tour_plays_and_ends_with_0(tmp_path: Path) -> None:
    """Every step happens, the new field is seen, and nothing is left behind: no
    file in the folder, no process, no traceback."""
    async with dev(tmp_path, "--tour", "--exit") as running:
        assert await running.end() == 0, running.text
    for number, step in enumerate(STEPS, 1):
        assert f"{number}  {step.title}" in running.text
    assert NEW_FIELD in running.text
    assert "after the commit" in running.text
    assert f"all {len(STEPS)} steps happened" in running.text
    assert "Traceback" not in running.text
    assert "not by voice: livekit-server is not on the PATH" in running.text
    assert not os.listdir(tmp_path)


@pytest.mark.timeout(2 * CALL_SECONDS_MAX)
async def test_the_tour_goes_on_by_voice(tmp_path: Path) -> None:
    """Where LiveKit's server is there, the agent is called: it answers by voice, changes while it
    speaks, and is ended by the control plane. Nothing is left behind."""
    if lacking := missing():
        if os.environ.get("CI") == "true":
            pytest.fail(lacking)
        pytest.skip(lacking)
    folder = tmp_path / "demo"
    folder.mkdir()
    async with (
        Namespace({}, tmp_path / "network.log") as network,
        dev(folder, "--tour", "--exit", network=network) as running,
    ):
        assert await running.end(CALL_SECONDS_MAX) == 0, running.text
    for number, step in enumerate((*STEPS, *VOICE_STEPS), 1):
        assert f"{number}  {step.title}" in running.text
    for shown in ("the first sound comes", "in the new voice", "the call is over after", "operator ended"):
        assert shown in running.text
    assert f"all {len(STEPS) + len(VOICE_STEPS)} steps happened" in running.text
    assert "Traceback" not in running.text
    assert not os.listdir(folder)


async def test_it_stays_up_and_ends_in_peace(tmp_path: Path) -> None:
    """It says what to type next; Ctrl-C ends it with 0, in order, without a
    traceback; a second start finds the demo tenant and plays the tour on it."""
    address = f"127.0.0.1:{free_port()}"
    for options in ((), ("--tour",)):
        async with dev(tmp_path, "--grpc-listen", address, *options) as running:
            await running.until_up()
            assert "chat interview" in running.text
            family = running.family()
            assert len(family) >= 2
            running.process.send_signal(signal.SIGINT)
            assert await running.end() == 0
            assert running.text.rstrip().endswith("stopped")
            assert await all_gone(family)
    for log in (tmp_path / ".voxplane" / "logs").iterdir():
        assert "Traceback" not in log.read_text()


async def test_tls_of_the_environment_is_left_out(tmp_path: Path) -> None:
    """Whoever has set TLS for a control plane elsewhere, server or client, is told
    that here is none, and what to unset for the commands."""
    authority = Authority(tmp_path)
    identity = authority.identity("elsewhere.example")
    tls = {
        "VOXPLANE_TLS_CA": str(authority.ca),
        "VOXPLANE_TLS_CERT": str(identity.cert),
        "VOXPLANE_TLS_KEY": str(identity.key),
        "VOXPLANE_TLS_CLIENT_CA": str(authority.ca),
    }
    address = f"127.0.0.1:{free_port()}"
    async with dev(tmp_path, "--tour", "--grpc-listen", address, more=tls) as running:
        await running.until_up()
        assert f"no TLS on this machine: {', '.join(tls)} left out" in running.text
        assert "unset VOXPLANE_TLS_CA VOXPLANE_TLS_CERT VOXPLANE_TLS_KEY" in running.text
        running.process.send_signal(signal.SIGINT)
        assert await running.end() == 0


async def test_its_children_never_outlive_it(tmp_path: Path) -> None:
    """After kill -9 of `voxplane dev`, server, node and jobs end by themselves."""
    async with dev(tmp_path, "--grpc-listen", f"127.0.0.1:{free_port()}") as running:
        await running.until_up()
        family = running.family()
        running.process.kill()
        await running.process.wait()
        assert await all_gone(family)


@pytest.mark.parametrize("victim", ["serve", "node"])
async def test_a_child_that_dies_ends_it(tmp_path: Path, victim: str) -> None:
    """If the server or the node dies, the rest is ended, with 1 and the place of the log."""
    async with dev(tmp_path, "--grpc-listen", f"127.0.0.1:{free_port()}") as running:
        await running.until_up()
        family = running.family()
        next(each for each in family if victim in each.cmdline()).kill()
        assert await running.end() == 1
        assert "its log is" in running.text
        assert "Traceback" not in running.text
        assert await all_gone(family)


async def test_a_taken_port_is_explained(tmp_path: Path) -> None:
    """On a port that somebody listens on it ends at once with 1 and says what to do."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with dev(tmp_path, "--grpc-listen", address) as running:
            assert await running.end() == 1
    assert running.text.startswith(f"✗ cannot listen on {address}: another program listens there")
    assert "--grpc-listen" in running.text
