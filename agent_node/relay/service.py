"""RelayService: what the processes of one node say to each other."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, TypeVar

import grpc
import protovalidate
import structlog
from google.protobuf.message import Message
from grpc_status import rpc_status  # pyright: ignore[reportMissingTypeStubs]

from agent_node.relay.admission import Admission
from agent_node.relay.attached import AttachContext, AttachedJob
from agent_node.relay.board import Board
from agent_node.relay.sessions import SessionDesk
from agent_node.relay.text_job import TextJob
from agent_node.relay.text_pool import TextPool
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError, to_status
from voxplane.names import agent_name
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc
from voxplane.v1 import error_reason_pb2 as reason_pb2

SESSION_ID_PREFIX = "text-"

TextContext = grpc.aio.ServicerContext[relay_pb2.ServeTextRequest, relay_pb2.ServeTextResponse]
StatusContext = grpc.aio.ServicerContext[relay_pb2.GetNodeStatusRequest, relay_pb2.GetNodeStatusResponse]
ChatContext = grpc.aio.ServicerContext[relay_pb2.ChatRequest, relay_pb2.ChatResponse]

_M = TypeVar("_M", bound=Message)

_log = structlog.stdlib.get_logger(__name__)


class RelayService(relay_grpc.RelayServiceServicer):
    """Joins jobs, chats, the board and the desk. Every handler ends when its peer does.

    `admission` decides on new calls, but for those of jobs that were `let_in`
    before; `status` gives the node's own."""

    def __init__(
        self,
        board: Board,
        pool: TextPool,
        clock: Clock,
        *,
        admission: Admission,
        desk: SessionDesk,
        status: Callable[[], relay_pb2.GetNodeStatusResponse],
        let_in: Callable[[relay_pb2.JobHello], bool] = lambda hello: False,
    ) -> None:
        self._board = board
        self._pool = pool
        self._clock = clock
        self._admission = admission
        self._desk = desk
        self._status = status
        self._let_in = let_in

    async def GetNodeStatus(  # noqa: N802  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request: relay_pb2.GetNodeStatusRequest, context: StatusContext
    ) -> relay_pb2.GetNodeStatusResponse:
        """What the node has, and how old it may be."""
        return self._status()

    async def Attach(  # noqa: N802  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request_iterator: AsyncIterator[relay_pb2.AttachRequest], context: AttachContext
    ) -> None:
        """Give a job its agent's bundles and what is wanted of its session, and
        take its reports."""
        try:
            hello = (await _first(request_iterator, "hello")).hello
            caller = hello.caller
            name = agent_name(caller.tenant_id, caller.agent_id)
            await self._board.ready(name)
            # a text job's call was let in by Chat, and one that is taken over long ago
            known = hello.pid in self._pool.pids or self._desk.awaits(hello)
            if not known and not self._let_in(hello):
                self._admission.check(caller)
            seat = self._desk.attach(hello)
        except VoxplaneError as error:
            await _abort(context, error)
        job = AttachedJob(self._board, self._board.attach(name), seat, caller)
        _log_session("session attached", caller, hello.pid)
        orderly = False
        try:
            orderly = await job.serve(request_iterator, context)
        finally:
            job.close()
            seat.leave(orderly=orderly)
            _log_session("session detached", caller, hello.pid)

    async def ServeText(  # noqa: N802  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request_iterator: AsyncIterator[relay_pb2.ServeTextRequest], context: TextContext
    ) -> None:
        """Give a text job its session, and pass on what it says."""
        try:
            ready = await _first(request_iterator, "ready")
        except VoxplaneError as error:
            await _abort(context, error)
        job = self._pool.ready(ready.ready.pid)
        if job is None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not a job of this node")
        listening = asyncio.create_task(_take_outputs(request_iterator, job))
        try:
            caller = await job.caller()
            if caller is not None:
                await context.write(relay_pb2.ServeTextResponse(open=caller))
                async for item in job.inputs:
                    await context.write(relay_pb2.ServeTextResponse(input=item))
        finally:
            listening.cancel()
            job.finish()

    async def Chat(  # noqa: N802  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request_iterator: AsyncIterator[relay_pb2.ChatRequest], context: ChatContext
    ) -> None:
        """Open a text session and hold it until either side ends it."""
        try:
            caller = (await _first(request_iterator, "open")).open
            await self._board.ready(agent_name(caller.tenant_id, caller.agent_id))
            self._admission.check(caller)
            job = await self._pool.take()
        except VoxplaneError as error:
            await _abort(context, error)
        except TimeoutError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no process for the session has started in time")
        if not caller.session_id:
            caller.session_id = SESSION_ID_PREFIX + uuid.uuid4().hex[:12]
        job.open(caller)
        typing = asyncio.create_task(_take_inputs(request_iterator, job))
        try:
            async for response in job.outputs:
                await context.write(response)
            if typing.done():
                typing.result()
                return
            code = await job.exited(self._clock)
        except VoxplaneError as error:
            await _abort(context, error)
        finally:
            typing.cancel()
            self._pool.give_back(job)
        if code:
            text = f"the process of the session ended (exit code {code}); open a new session"
            await context.abort(grpc.StatusCode.UNAVAILABLE, text)


async def _first(requests: AsyncIterator[_M], event: str) -> _M:
    try:
        request = await anext(requests)
    except StopAsyncIteration:
        raise VoxplaneError(reason_pb2.ERROR_REASON_INVALID_REQUEST, f"{event} was expected") from None
    if request.WhichOneof("event") != event:
        raise VoxplaneError(reason_pb2.ERROR_REASON_INVALID_REQUEST, f"the first message must be {event}")
    _check(request)
    return request


def _check(request: Message) -> None:
    try:
        protovalidate.validate(request)
    except protovalidate.ValidationError as error:
        raise VoxplaneError(reason_pb2.ERROR_REASON_INVALID_REQUEST, str(error)) from error


async def _take_outputs(requests: AsyncIterator[relay_pb2.ServeTextRequest], job: TextJob) -> None:
    try:
        async for request in requests:
            if request.WhichOneof("event") == "chat":
                await job.outputs.put(request.chat)
    finally:
        job.finish()


async def _take_inputs(requests: AsyncIterator[relay_pb2.ChatRequest], job: TextJob) -> None:
    try:
        async for request in requests:
            if request.WhichOneof("event") == "input":
                _check(request)
                await job.inputs.put(request.input)
    finally:
        job.finish()


async def _abort(context: Any, error: VoxplaneError) -> NoReturn:
    status = rpc_status.to_status(to_status(error))  # pyright: ignore[reportUnknownMemberType]
    await context.abort_with_status(status)
    raise AssertionError("abort returned")


def _log_session(event: str, caller: relay_pb2.CallerContext, pid: int) -> None:
    _log.info(event, tenant_id=caller.tenant_id, agent=caller.agent_id, session_id=caller.session_id, pid=pid)
