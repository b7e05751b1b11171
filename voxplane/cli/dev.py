"""`voxplane dev`: a control plane, a node and the demo tenant on this machine."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import grpc
import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from voxplane.cli.chat import relay_socket
from voxplane.cli.children import Child, start_child
from voxplane.cli.connect import DEFAULT_ADDRESS, DEFAULT_DATA_DIR, TLS_ENV, Client, Server, open_channel, run
from voxplane.cli.demo_tenant import load_demo
from voxplane.cli.failures import CommandError
from voxplane.cli.livekit_server import NoLiveKit, answers, free_port, start_livekit
from voxplane.cli.tour import Place, play
from voxplane.cli.tour_call import LiveKit
from voxplane.v1 import node_service_pb2 as nodes_pb2

TENANT = "demo"
NODE_ID = "dev"
START_SECONDS_MAX = 60.0
NODE_STOP_SECONDS_MAX = 15.0
SERVER_STOP_SECONDS_MAX = 12.0
POLL_SECONDS = 0.1
NO_TLS = (*TLS_ENV, "VOXPLANE_TLS_CLIENT_CA")
"""Meant for a control plane elsewhere: here nothing speaks TLS."""
_HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"
"""HealthCheckResponse{status: SERVING}; the library for it is an extra."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run, and where."""

    address: str
    data_dir: Path
    tour: bool
    leave: bool

    @property
    def logs(self) -> Path:
        """The folder of the children's logs."""
        return self.data_dir / "logs"


def command(
    data_dir: Annotated[
        Path | None,
        typer.Option(envvar="VOXPLANE_DATA_DIR", help="Folder of database, cache and logs. [.voxplane]"),
    ] = None,
    grpc_listen: Annotated[
        str | None,
        typer.Option(envvar="VOXPLANE_GRPC_LISTEN", help="HOST:PORT of the control plane. [127.0.0.1:50051]"),
    ] = None,
    tour: Annotated[bool, typer.Option("--tour", help="Play the tour first, about 20 seconds.")] = False,
    leave: Annotated[
        bool,
        typer.Option(
            "--exit", help="End after the tour; in a fresh folder and on a free port unless told otherwise."
        ),
    ] = False,
) -> None:
    """Run a control plane and a node with a demo tenant on this machine.

    Needs no key, and speaks no TLS. Ctrl-C ends everything that it started.

    Example: voxplane dev --tour
    """
    with _folder(data_dir, fresh=leave) as folder:
        address = (
            _free_address("127.0.0.1:0") if leave and not grpc_listen else grpc_listen or DEFAULT_ADDRESS
        )
        run(_dev(Plan(_free_address(address), folder, tour or leave, leave)))


@contextmanager
def _folder(data_dir: Path | None, *, fresh: bool) -> Generator[Path]:
    """The data folder; a fresh one is removed with the block."""
    if data_dir is not None or not fresh:
        yield data_dir or DEFAULT_DATA_DIR
        return
    with tempfile.TemporaryDirectory(prefix="voxplane-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _free_address(address: str) -> str:
    """The address, with a free port for port 0. Raises CommandError if it is
    taken."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_server((host.strip("[]"), int(port))) as probe:
            return f"{host}:{probe.getsockname()[1]}"
    except (OSError, ValueError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "another program listens there" if taken else "it is no free HOST:PORT of this machine"
        hint = (
            "perhaps another `voxplane dev` runs: stop it, or choose a port by --grpc-listen 127.0.0.1:50061"
        )
        raise CommandError(f"cannot listen on {address}: {reason}", hint) from error


class Signals:
    """The wish to end: first in order, then at once."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._asked)

    def _asked(self) -> None:
        (self.hurry if self.stop.is_set() else self.stop).set()


class Stopped(Exception):
    """The user asked to end."""


@dataclass(slots=True)
class _Site:
    """What runs. There is a LiveKit server for the tour alone; `no_livekit` says why there is none."""

    children: list[Child] = field(default_factory=list[Child])
    livekit: LiveKit | None = None
    no_livekit: str = ""


async def _dev(plan: Plan) -> None:
    console = Console(highlight=False)
    signals = Signals()
    if unused := [name for name in NO_TLS if name in os.environ]:
        console.print(f"[yellow]no TLS on this machine: {', '.join(unused)} left out[/]", soft_wrap=True)
    try:
        async with _running(plan, signals, console) as site:
            until = _Until(signals, site.children)
            if plan.tour:
                socket = relay_socket(plan.data_dir)
                log = plan.logs / "caller.log"
                place = Place(plan.address, TENANT, socket, site.livekit, site.no_livekit, log)
                await until.done(play(place, console))
            if not plan.leave:
                _print_next(plan, console)
                await until.done(asyncio.Event().wait())
    except Stopped:
        console.print("[dim]stopped[/]")


class _Until:
    """Waits for work, unless the user wants to end or a child dies."""

    def __init__(self, signals: Signals, children: list[Child]) -> None:
        self._signals = signals
        self._children = children

    async def done(self, work: Coroutine[None, None, T]) -> T:
        """What the work returns. Raises Stopped, or CommandError with the last
        words of the child."""
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self._signals.stop.wait())
        ends = {asyncio.create_task(child.wait()): child for child in self._children}
        try:
            await asyncio.wait({working, stopping, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                raise Stopped
            for end, child in ends.items():
                if end.done():
                    raise _died(child)
            return working.result()
        finally:
            for task in (working, stopping, *ends):
                task.cancel()
            await asyncio.wait({working})


def _died(child: Child) -> CommandError:
    words = child.last_words()
    return CommandError(
        f"the {child.name} ended with exit code {child.exit_code}: {' | '.join(words) or 'without a word'}",
        f"its log is {child.log}",
    )


@asynccontextmanager
async def _running(plan: Plan, signals: Signals, console: Console) -> AsyncGenerator[_Site]:
    """Everything up for the block, and ended in the reverse order."""
    site = _Site()
    children = site.children
    until = _Until(signals, children)
    try:
        with console.status("starting the control plane") as status:
            children.append(await _start_server(plan))
            await until.done(_in_time(_served(plan.address), children[-1]))
            if plan.tour:
                status.update("starting a LiveKit server")
                try:
                    child, site.livekit = await until.done(start_livekit(plan.logs))
                    children.append(child)
                except NoLiveKit as why:
                    site.no_livekit = str(why)
            status.update("starting a node")
            metrics = free_port() if site.livekit else 0
            children.append(await _start_node(plan, site.livekit, metrics))
            await until.done(_in_time(_connected(plan.address), children[-1]))
            if site.livekit is not None:
                await until.done(_in_time(_takes_calls(metrics), children[-1]))
            status.update("loading the demo tenant")
            await until.done(_load(plan.address))
        yield site
    finally:
        for child in reversed(children):
            await child.stop(signals.hurry)


async def _start_server(plan: Plan) -> Child:
    return await start_child(
        "control plane",
        *("serve", "--grpc-listen", plan.address, "--data-dir", str(plan.data_dir)),
        log=plan.logs / "control_plane.log",
        environment={},
        stop_seconds=SERVER_STOP_SECONDS_MAX,
        without=NO_TLS,
    )


async def _start_node(plan: Plan, livekit: LiveKit | None, metrics: int) -> Child:
    """The node; with LiveKit it takes calls, on a busy machine too, and says on
    the port of its metrics whether it does."""
    direct = ",".join(filter(None, (os.environ.get("no_proxy"), "127.0.0.1", "localhost", "::1")))
    environment = {"no_proxy": direct}
    if livekit is not None:
        environment |= livekit.environment
        environment |= {"VOXPLANE_MAX_CPU_LOAD": "100", "VOXPLANE_METRICS_LISTEN": f"127.0.0.1:{metrics}"}
    return await start_child(
        "node",
        *("node", "--server", plan.address, "--data-dir", str(plan.data_dir), "--node-id", NODE_ID),
        log=plan.logs / "node.log",
        environment=environment,
        stop_seconds=NODE_STOP_SECONDS_MAX,
        without=NO_TLS,
    )


async def _takes_calls(metrics: int) -> None:
    """Until the node says that LiveKit offers it calls."""
    while True:
        if await answers(metrics, "/readyz"):
            return
        await asyncio.sleep(POLL_SECONDS)


async def _in_time(work: Coroutine[None, None, None], child: Child) -> None:
    try:
        async with asyncio.timeout(START_SECONDS_MAX):
            await work
    except TimeoutError:
        message = f"the {child.name} was not ready within {START_SECONDS_MAX:g} s"
        raise CommandError(message, f"its log is {child.log}") from None


async def _served(address: str) -> None:
    """Until the control plane says that it is healthy."""
    async with open_channel(Server(address)) as channel:
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_HEALTH_CHECK)
        while True:
            try:
                if await check(b"", wait_for_ready=True) == _SERVING:
                    return
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(POLL_SECONDS)


async def _connected(address: str) -> None:
    """Until the control plane sees the node."""
    async with open_channel(Server(address)) as channel:
        client = Client(channel)
        while True:
            answer = await client.nodes.ListNodes(nodes_pb2.ListNodesRequest())
            if any(node.node_id == NODE_ID and node.connected for node in answer.nodes):
                return
            await asyncio.sleep(POLL_SECONDS)


async def _load(address: str) -> None:
    async with open_channel(Server(address)) as channel:
        await load_demo(Client(channel), TENANT)


def _print_next(plan: Plan, console: Console) -> None:
    """Where everything is, and what to type next."""
    program = _program()
    server = "" if plan.address == DEFAULT_ADDRESS else f" --server {plan.address}"
    folder = "" if plan.data_dir == DEFAULT_DATA_DIR else f" --data-dir {plan.data_dir}"
    table = Table.grid(padding=(0, 2))
    table.add_row("control plane", plan.address)
    table.add_row("node", NODE_ID)
    table.add_row("tenant", TENANT)
    table.add_row("data", str(plan.data_dir))
    table.add_row("logs", f"{plan.logs}/")
    console.print(Panel(table, title="Voxplane is up", title_align="left", border_style="green"))
    console.print("Type in another terminal:")
    if unused := [name for name in TLS_ENV if name in os.environ]:
        console.print(f"  [cyan]unset {' '.join(unused)}[/]", soft_wrap=True)
    for line in (
        f"chat interview{folder}",
        f"agents add-field interview topic str{server}",
        f"agents history interview{server}",
        f"agents rollback interview{server}",
        f"watch{server}",
    ):
        console.print(f"  [cyan]{program} {line}[/]", soft_wrap=True)
    console.print("Ctrl-C stops everything.")


def _program() -> str:
    """How `voxplane` is called from here."""
    if shutil.which("voxplane"):
        return "voxplane"
    beside = Path(sys.executable).parent / "voxplane"
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)
