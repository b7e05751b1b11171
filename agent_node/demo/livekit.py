"""`voxplane demo-livekit`: a LiveKit server that keeps to this machine.

Signalling is on the loopback. Media cannot be: WebRTC does not look at it. So
it goes over the address of one of the machine's own interfaces, and a packet
to an own address never leaves. Neither the server nor a client is given a
STUN server elsewhere.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import shutil
import signal
import socket
import sys
from typing import Annotated, NoReturn

import psutil
import typer

PROGRAM = "livekit-server"
STOP_SECONDS_MAX = 2.0
"""It waits for callers to leave; they have left before."""


def command(port: Annotated[int, typer.Option(help="Port of the loopback for signalling.")]) -> None:
    """Run livekit-server for the demo, until SIGTERM.

    LIVEKIT_API_KEY and LIVEKIT_API_SECRET are its one key.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        _fail(f"{PROGRAM} is not on the PATH")
    address = own_address()
    if address is None:
        _fail("media needs an interface with an IPv4 address besides the loopback, and there is none")
    keys = {os.environ["LIVEKIT_API_KEY"]: os.environ["LIVEKIT_API_SECRET"]}
    sys.exit(asyncio.run(_run(program, config(port, address, _free_udp_port(address), keys))))


def own_address() -> str | None:
    """An IPv4 address of an interface that is up, besides the loopback; None if there is none."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    for name, addresses in psutil.net_if_addrs().items():
        for each in addresses:
            if name in up and each.family is socket.AF_INET and not _is_loopback(each.address):
                return each.address
    return None


def config(port: int, address: str, media_port: int, keys: dict[str, str]) -> dict[str, object]:
    """The server's config."""
    return {
        "port": port,
        "bind_addresses": ["127.0.0.1"],
        "keys": keys,
        "logging": {"json": True, "level": "info"},
        "rtc": {
            "node_ip": address,
            "use_external_ip": False,
            "udp_port": media_port,
            "tcp_port": 0,
            "ips": {"includes": [f"{address}/32"]},
            # never the address of the media itself: with it no client connects
            "stun_servers": [f"127.0.0.1:{media_port}"],
        },
    }


async def _run(program: str, settings: dict[str, object]) -> int:
    """Run it until it ends, or SIGTERM does; the exit code."""
    # by the environment: others see the command line
    process = await asyncio.create_subprocess_exec(
        program, stdin=asyncio.subprocess.DEVNULL, env={**os.environ, "LIVEKIT_CONFIG": json.dumps(settings)}
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ending, stopping = asyncio.create_task(process.wait()), asyncio.create_task(stop.wait())
    await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if stopping.done() and process.returncode is None:
        process.terminate()
        await asyncio.wait({ending}, timeout=STOP_SECONDS_MAX)
        if process.returncode is None:
            process.kill()
        await ending
        return 0
    stopping.cancel()
    return ending.result()


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _free_udp_port(address: str) -> int:
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)
