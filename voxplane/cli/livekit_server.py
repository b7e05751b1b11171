"""A LiveKit server of this machine, for the tour's steps by voice."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
from pathlib import Path

from voxplane.cli.children import Child, start_child
from voxplane.cli.tour_call import LiveKit

PROGRAM = "livekit-server"
INSTALL = "go install github.com/livekit/livekit-server/cmd/server@v1.13.5"
READY_SECONDS_MAX = 10.0
STOP_SECONDS_MAX = 4.0
POLL_SECONDS = 0.05
SECRET_BYTES = 32


class NoLiveKit(Exception):
    """There is no LiveKit server; the message says why."""


async def start_livekit(logs: Path) -> tuple[Child, LiveKit]:
    """Start one on a free port, and wait until it answers. Raises NoLiveKit."""
    if url := os.environ.get("LIVEKIT_URL"):
        raise NoLiveKit(f"the node serves the LiveKit of LIVEKIT_URL, {url}")
    if shutil.which(PROGRAM) is None:
        raise NoLiveKit(
            f"{PROGRAM} is not on the PATH. Get it by `{INSTALL}`; the program is called server: "
            f"link it as {PROGRAM}"
        )
    port = free_port()
    livekit = LiveKit(f"ws://127.0.0.1:{port}", "tour", secrets.token_hex(SECRET_BYTES))
    child = await start_child(
        "LiveKit server",
        *("demo-livekit", "--port", str(port)),
        log=logs / "livekit.log",
        environment=livekit.environment,
        stop_seconds=STOP_SECONDS_MAX,
    )
    try:
        async with asyncio.timeout(READY_SECONDS_MAX):
            while not await answers(port):
                if child.exit_code is not None:
                    raise NoLiveKit(" | ".join(child.last_words()[-1:]) or f"{PROGRAM} does not start")
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        await child.stop(asyncio.Event())
        raise NoLiveKit(f"{PROGRAM} did not answer within {READY_SECONDS_MAX:g} s") from None
    except BaseException:
        await child.stop(asyncio.Event())
        raise
    return child, livekit


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


async def answers(port: int, path: str = "/") -> bool:
    """Whether what listens on a port of the loopback says that it is well."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()
