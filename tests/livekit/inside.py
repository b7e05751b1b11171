"""Holds a network of its own, and lets this machine's tests in: python -m tests.livekit.inside SOCKET=PORT …

It runs where `unshare --net` has put it. There it makes the loopback and one
interface with an address, which leads nowhere: nothing that is sent here
reaches another machine, and no port is taken from anybody. Each Unix socket
leads to the port of the loopback inside. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path

ADDRESS = "10.77.0.1"
"""Of the interface besides the loopback; clients of WebRTC do not look at the loopback."""
LIVEKIT_PORT = 7880
LIVEKIT_URL = f"ws://127.0.0.1:{LIVEKIT_PORT}"
READY = "ready"
READ_BYTES = 65_536

_IPV6_OFF = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
_LINKS = (
    "link set lo up",
    "link add voice0 type veth peer name voice1",
    f"address add {ADDRESS}/24 dev voice0",
    "link set voice0 up",
    "link set voice1 up",
)


def lay_out() -> None:
    """Make the interfaces. Raises CalledProcessError."""
    # one candidate is enough; where the machine does not let this be set, there are two
    with contextlib.suppress(OSError):
        _IPV6_OFF.write_text("1")
    for link in _LINKS:
        subprocess.run(("ip", *link.split()), check=True)


async def serve(doors: dict[Path, int]) -> None:
    """Keep the doors open until the standard input ends."""
    for path, port in doors.items():
        await asyncio.start_unix_server(_door(port), path)
    print(READY, flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)


def _door(port: int):
    async def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.wait(
            (
                asyncio.create_task(_pass(reader, inner_writer)),
                asyncio.create_task(_pass(inner_reader, writer)),
            )
        )

    return enter


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


def main() -> None:
    """Make the network and hold it."""
    lay_out()
    pairs = (word.rpartition("=") for word in sys.argv[1:])
    asyncio.run(serve({Path(path): int(port) for path, _, port in pairs}))


if __name__ == "__main__":
    main()
