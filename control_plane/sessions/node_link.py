"""One stream of a node: carries out what its state decides."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from google.rpc import status_pb2

from control_plane.fleet import in_turns
from control_plane.sessions.intake import take_in
from control_plane.sessions.link_state import Action, Greet, Keep, LinkState, Settle
from control_plane.sessions.outlet import Outlet, Write
from control_plane.sessions.refusals import limit_reached, unreachable
from control_plane.store import SessionId
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError
from voxplane.v1 import session_service_pb2 as pb2

COMMANDS_MAX = 1_000
"""That one node has still to answer."""
COMMAND_ID_BYTES = 8


class Keeper(Protocol):
    """Where a link takes what it is told. Both raise VoxplaneError."""

    async def greet(self, link: NodeLink, node_id: str, running: frozenset[SessionId]) -> None:
        """The link is this node's from now on."""
        ...

    async def keep(self, link: NodeLink, reports: Sequence[pb2.SessionReport]) -> None:
        """Store reports; over when they are durable."""
        ...


class NodeLink:
    """`serve` runs in its caller's task; a second task reads."""

    def __init__(self, keeper: Keeper, clock: Clock, write: Write[pb2.ReportSessionsResponse]) -> None:
        self.node_id = ""
        self._keeper = keeper
        self._clock = clock
        self._outlet = Outlet(write)
        self._state = LinkState()
        self._unsent: dict[str, pb2.SessionCommand] = {}
        self._unanswered: dict[str, asyncio.Future[status_pb2.Status]] = {}

    async def serve(self, requests: AsyncIterator[pb2.ReportSessionsRequest]) -> None:
        """Serve until the node ends its side. Raises the VoxplaneError that the
        stream is ended with."""
        reading = asyncio.get_running_loop().create_task(self._read(requests))
        reading.add_done_callback(lambda _: self._outlet.wake())
        try:
            while True:
                message = self._next()
                if message is not None:
                    await self._outlet.send(message)
                elif reading.done():
                    return reading.result()
                else:
                    await self._outlet.wait()
        finally:
            self._give_up()
            reading.cancel()
            await asyncio.wait([reading])
            if not reading.cancelled():
                reading.exception()

    async def command(self, command: pb2.SessionCommand, seconds: float) -> status_pb2.Status:
        """Have the node do something; the command is given its id. Returns what
        the node answers. Raises VoxplaneError NODE_UNREACHABLE,
        LIMIT_REACHED."""
        if len(self._unanswered) >= COMMANDS_MAX:
            raise limit_reached(f"node {self.node_id} has {COMMANDS_MAX} commands to answer")
        command.command_id = secrets.token_hex(COMMAND_ID_BYTES)
        answer: asyncio.Future[status_pb2.Status] = asyncio.get_running_loop().create_future()
        self._unanswered[command.command_id] = answer
        self._unsent[command.command_id] = command
        self._outlet.wake()
        timer = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait({answer, timer}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            raise unreachable(self.node_id, f"has not answered within {seconds:g} s")
        finally:
            timer.cancel()
            self._unanswered.pop(command.command_id, None)
            self._unsent.pop(command.command_id, None)

    def end(self, error: VoxplaneError) -> None:
        """End the stream, at once."""
        self._give_up()
        self._outlet.end(error)

    async def _read(self, requests: AsyncIterator[pb2.ReportSessionsRequest]) -> None:
        async for message in requests:
            action = self._state.receive(message)
            if action is not None:
                await self._carry_out(action)

    async def _carry_out(self, action: Action) -> None:
        match action:
            case Greet(node_id, running):
                self.node_id = node_id
                await self._keeper.greet(self, node_id, running)
            case Keep(node_id, batch):
                await self._keeper.keep(self, await in_turns(take_in(batch, node_id)))
                self._state.stored(batch.sequence)
                self._outlet.wake()
            case Settle(command_id, status):
                answer = self._unanswered.get(command_id)
                if answer is not None and not answer.done():
                    answer.set_result(status)

    def _next(self) -> pb2.ReportSessionsResponse | None:
        """What is to be sent next; commands go first."""
        if self._unsent:
            return pb2.ReportSessionsResponse(command=self._unsent.pop(next(iter(self._unsent))))
        if sequence := self._state.acknowledge():
            return pb2.ReportSessionsResponse(stored_sequence=sequence)
        return None

    def _give_up(self) -> None:
        """Nobody answers any more."""
        for answer in self._unanswered.values():
            if not answer.done():
                answer.set_exception(unreachable(self.node_id, "has gone before it answered"))
        self._unsent.clear()
