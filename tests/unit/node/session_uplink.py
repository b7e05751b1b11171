"""A node's stream of session reports, and servers for it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_status import rpc_status

from agent_node.sessions import SessionUplink, Spool
from agent_node.sessions.frames import Frame
from agent_node.sessions.uplink import QUIET_SECONDS, SAVE_SECONDS
from tests.virtual_clock import VirtualClock
from voxplane.errors import VoxplaneError, to_status
from voxplane.v1 import session_service_pb2 as pb2
from voxplane.v1 import session_service_pb2_grpc as session_grpc

SECONDS_MAX = 20.0
SPOOL_BYTES = 3_000_000


async def until(true: Callable[[], Any]) -> None:
    """Wait for what other tasks, threads and servers do; no time passes."""
    async with asyncio.timeout(SECONDS_MAX):
        while not true():  # noqa: ASYNC110 - there is no event for every state
            await asyncio.sleep(0.001)


@dataclass
class Server(session_grpc.SessionServiceServicer):
    """Takes reports, and acknowledges them while `acknowledges`. It refuses
    streams with `refusal`, and batches that have a session of `refused`."""

    acknowledges: bool = True
    refusal: VoxplaneError | grpc.StatusCode | None = None
    refused: set[str] = field(default_factory=set)
    hellos: list[pb2.SessionReporter] = field(default_factory=list)
    batches: list[pb2.SessionBatch] = field(default_factory=list)
    results: list[pb2.SessionCommandResult] = field(default_factory=list)
    commands: asyncio.Queue[pb2.SessionCommand] = field(default_factory=asyncio.Queue)

    async def ReportSessions(self, requests, context):  # type: ignore[no-untyped-def]  # noqa: N802
        """Part of the service's interface."""
        await context.send_initial_metadata(())
        await self.refuse(context, self.refusal)
        commanding = asyncio.create_task(self.command(context))
        async for request in requests:
            match request.WhichOneof("event"):
                case "hello":
                    self.hellos.append(request.hello)
                case "result":
                    self.results.append(request.result)
                case _:
                    names = {each.session.session_id for each in request.batch.reports}
                    if names & self.refused:
                        await self.refuse(context, grpc.StatusCode.INVALID_ARGUMENT)
                    self.batches.append(request.batch)
                    if self.acknowledges:
                        await context.write(
                            pb2.ReportSessionsResponse(stored_sequence=request.batch.sequence)
                        )
        commanding.cancel()

    async def command(self, context: Any) -> None:
        """Pass commands on."""
        while True:
            await context.write(pb2.ReportSessionsResponse(command=await self.commands.get()))

    async def refuse(self, context: Any, refusal: VoxplaneError | grpc.StatusCode | None) -> None:
        """End a stream with an error, if there is one."""
        if isinstance(refusal, VoxplaneError):
            await context.abort_with_status(rpc_status.to_status(to_status(refusal)))
        if refusal is not None:
            await context.abort(refusal, "refused")

    def told(self) -> list[tuple[str, int]]:
        """The sessions of all reports, with their sequences."""
        return [
            (each.session.session_id, each.session.sequence)
            for batch in self.batches
            for each in batch.reports
        ]


@asynccontextmanager
async def listening(folder: Path, server: Server | None) -> AsyncIterator[None]:
    """A server, or one without the service, for the block."""
    listener = grpc.aio.server()
    if server is not None:
        session_grpc.add_SessionServiceServicer_to_server(server, listener)
    listener.add_insecure_port(f"unix:{folder}/s.sock")
    await listener.start()
    try:
        yield
    finally:
        await listener.stop(0)


class FullSpool(Spool):
    """Nothing can be added to it while it is full."""

    full = False

    def append(self, frames: Sequence[Frame]) -> None:
        """Add a part of it, and fail as a full disk does."""
        super().append(frames[:1] if self.full else frames)
        if self.full:
            self.close()
            raise OSError(errno.ENOSPC, "No space left on device")


class Node:
    """An uplink in virtual time, and the commands that it was given."""

    def __init__(self, spool: Path, stub: session_grpc.SessionServiceAsyncStub, jitter: float) -> None:
        self.clock = VirtualClock()
        self.commands: list[pb2.SessionCommand] = []
        self.spool = FullSpool(spool, SPOOL_BYTES)
        self.uplink = SessionUplink("n1", stub, self.spool, self.clock, lambda: jitter)

    async def connected(self) -> None:
        """Until a stream is open, however long that takes."""
        async with asyncio.timeout(SECONDS_MAX):
            while not self.uplink.connected:
                await self.clock.advance(0.5)
                await asyncio.sleep(0.01)

    async def flushed(self) -> None:
        """Until everything is acknowledged; time passes only as far as reports wait for others."""
        await until(lambda: self.uplink.connected)
        await self.clock.advance(QUIET_SECONDS)
        await until(lambda: self.uplink.state.unacknowledged == 0)

    async def saved(self) -> None:
        """Until the spool is up to date."""
        async with asyncio.timeout(SECONDS_MAX):
            while self.uplink.unsaved:
                await self.clock.advance(SAVE_SECONDS)
                await asyncio.sleep(0.01)

    async def failed(self, streams: int) -> None:
        """Until so many streams have failed; no time passes."""
        await until(lambda: self.uplink.figures.back_offs >= streams)


@asynccontextmanager
async def node_of(folder: Path, *, jitter: float = 1.0, spool: Path | None = None) -> AsyncIterator[Node]:
    """A node whose control plane is at the folder's socket, for the block."""
    options = [
        ("grpc.initial_reconnect_backoff_ms", 10),
        ("grpc.min_reconnect_backoff_ms", 10),
        ("grpc.max_reconnect_backoff_ms", 10),
    ]
    async with grpc.aio.insecure_channel(f"unix:{folder}/s.sock", options=options) as channel:
        node = Node(spool or folder / "spool", session_grpc.SessionServiceStub(channel), jitter)
        async with node.uplink.running(node.commands.append):
            yield node
