"""A job on its stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import structlog

from agent_node.relay.board import Attachment, Board
from agent_node.relay.sessions import Seat
from voxplane.errors import VoxplaneError, to_status
from voxplane.names import agent_name
from voxplane.node.v1 import relay_service_pb2 as relay_pb2

AttachContext = grpc.aio.ServicerContext[relay_pb2.AttachRequest, relay_pb2.AttachResponse]

_log = structlog.stdlib.get_logger(__name__)


class AttachedJob:
    """Joins a job's stream with its agent's bundles and its session.

    A job that follows another agent gets its bundles as soon as the node has
    one that works. If it has none the job keeps the agent that it has, and is
    told so.
    """

    def __init__(
        self, board: Board, attachment: Attachment, seat: Seat, caller: relay_pb2.CallerContext
    ) -> None:
        self._board = board
        self._attachment = attachment
        self._seat = seat
        self._caller = caller
        self._writing = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None

    async def serve(self, requests: AsyncIterator[relay_pb2.AttachRequest], context: AttachContext) -> bool:
        """Until the stream is over; whether the job has ended it."""
        if self._seat.legacy is not None:
            await context.write(relay_pb2.AttachResponse(legacy=self._seat.legacy))
        reading = asyncio.create_task(self._take(requests, context))
        tasks = (
            reading,
            asyncio.create_task(self._feed_bundles(context)),
            asyncio.create_task(self._feed_commands(context)),
        )
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await self._writing.acquire()  # gRPC cannot end a call while a message of it is written
        finally:
            for task in tasks:
                task.cancel()
        for task in done:
            task.result()
        return reading in done

    def close(self) -> None:
        """The stream is over."""
        if self._following is not None:
            self._following.cancel()
        self._attachment.close()

    async def _take(self, requests: AsyncIterator[relay_pb2.AttachRequest], context: AttachContext) -> None:
        async for request in requests:
            match request.WhichOneof("event"):
                case "status":
                    self._attachment.report(request.status)
                case "follow":
                    if self._following is not None:
                        self._following.cancel()
                    self._following = asyncio.create_task(self._follow(request.follow.agent_id, context))
                case _:
                    self._seat.take(request)

    async def _follow(self, agent_id: str, context: AttachContext) -> None:
        names = {"tenant_id": self._caller.tenant_id, "session_id": self._caller.session_id}
        try:
            await self._board.move(self._attachment, agent_name(self._caller.tenant_id, agent_id))
        except VoxplaneError as error:
            _log.error("session keeps its agent", **names, wanted=agent_id, reason=error.message)
            refused = relay_pb2.FollowRefused(agent_id=agent_id, error=to_status(error))
            await self._write(context, relay_pb2.AttachResponse(follow_refused=refused))
            return
        self._seat.follows(agent_id)
        _log.info("session follows another agent", **names, agent=agent_id)

    async def _feed_bundles(self, context: AttachContext) -> None:
        while True:
            offer = await self._attachment.next()
            if offer is None:
                await self._write(context, relay_pb2.AttachResponse(removed=relay_pb2.BundleRemoved()))
            else:
                await self._write(context, relay_pb2.AttachResponse(bundle=offer.delivery()))

    async def _feed_commands(self, context: AttachContext) -> None:
        while True:
            command = await self._seat.commands.get()
            await self._write(context, relay_pb2.AttachResponse(command=command))

    async def _write(self, context: AttachContext, response: relay_pb2.AttachResponse) -> None:
        async with self._writing:
            await context.write(response)
