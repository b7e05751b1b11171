"""One call, as the handlers see it: what grpc.aio's context is elsewhere."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NoReturn, Protocol

import grpc
import structlog
from google.protobuf.message import DecodeError
from google.rpc import code_pb2

from control_plane.edge.around import Proceed
from control_plane.fast_edge import wire
from control_plane.fast_edge.wire import CallError, Headers, Metadata, Request
from control_plane.services.config_sync import Method
from control_plane.services.incoming import Take
from control_plane.watch.serving import Pieces, Push

NO_MESSAGE = "the request is no message of the contract"
FAULT = CallError(code_pb2.INTERNAL, "a fault of the server")
ANSWER_SECONDS_MAX = 120.0
"""How long a client may take to take the only message of an answer."""
UNTAKEN = CallError(code_pb2.DEADLINE_EXCEEDED, "the answer was not taken in time")
DEADLINE = CallError(code_pb2.DEADLINE_EXCEEDED, "the call has not ended in time")

_log = structlog.get_logger(__name__)


class Line(Protocol):
    """The connection that a call is on."""

    def begin(self, stream_id: int) -> None:
        """Send headers."""
        ...

    def send(self, stream_id: int, shared: bytes, own: bytes) -> bool:
        """Send a message; False if it waits."""
        ...

    def pusher(self, stream_id: int) -> Push | None:
        """What sends messages that go at once."""
        ...

    def taken(self, stream_id: int) -> None:
        """A message of the request is of no more concern."""
        ...

    def finish(self, stream_id: int, trailers: Headers) -> None:
        """Send the status."""
        ...

    def ended(self, stream_id: int) -> None:
        """The call is over."""
        ...


class Call:
    """One call. It is served in a task of its own, from when its request has
    come; the messages of a client's stream are its request."""

    __slots__ = (
        "_aborted",
        "_asked",
        "_began",
        "_behaviour",
        "_code",
        "_inbox",
        "_line",
        "_metadata",
        "_method",
        "_overdue",
        "_stream_id",
        "_take",
        "_task",
        "_timer",
        "_trailing",
        "_waiter",
        "_waits",
    )

    def __init__(
        self, line: Line, stream_id: int, request: Request, method: Method, behaviour: Proceed
    ) -> None:
        self._line = line
        self._stream_id = stream_id
        self._metadata: Metadata = request.metadata
        self._method = method
        self._behaviour = behaviour
        self._inbox: deque[bytes] | None = deque() if method.streams_in else None
        self._asked = False
        self._began = False
        """Whether its task has had a turn: one that is cancelled before has none."""
        self._waits = False
        """Whether a message has not gone out whole."""
        self._trailing: Metadata = ()
        self._take: Take | None = None
        self._aborted: Headers | None = None
        self._code: grpc.StatusCode | None = None
        self._overdue = False
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        if request.timeout is not None:
            self._timer = asyncio.get_running_loop().call_later(request.timeout, self._expire)
        if method.streams_in:
            self._start(_Messages(self))

    def came(self, message: bytes) -> CallError | None:
        """A message has come; says what is wrong about that, if anything is."""
        if self._inbox is not None:
            if not self._taken_at_once(message):
                self._inbox.append(message)
                self._wake()
            return None
        if self._task is not None or self._asked:
            return CallError(code_pb2.INTERNAL, "the call takes one message")
        self._asked = True
        try:
            request = self._method.read_in(message)
        except DecodeError:
            return CallError(code_pb2.INTERNAL, NO_MESSAGE)
        # In this order: what it answers at once goes out with what waits.
        self._start(request)
        self._line.taken(self._stream_id)
        return None

    def _taken_at_once(self, message: bytes) -> bool:
        """Have a message taken without a turn of the call's task, which waits
        for it. What is wrong about one is the task's to tell."""
        take, waiter = self._take, self._waiter
        if take is None or self._inbox or waiter is None or waiter.done():
            return False
        try:
            request = self._method.read_in(message)
        except DecodeError:
            return False
        if not take(request):
            return False
        self._line.taken(self._stream_id)
        return True

    def take_at_once(self, take: Take) -> None:
        """Have messages taken as they come."""
        self._take = take

    def asked(self) -> CallError | None:
        """The client has sent all; says what is wrong about that, if anything is."""
        if self._inbox is None and not self._asked:
            return CallError(code_pb2.INTERNAL, "the call takes one message, and there is none")
        self._asked = True
        if self._inbox is not None:
            self._wake()
        return None

    def went(self) -> None:
        """The message that waited has gone out."""
        self._waits = False
        self._wake()

    def gone(self) -> None:
        """The call is over, whatever it does."""
        if self._timer is not None:
            self._timer.cancel()
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if not self._began:
            self._line.ended(self._stream_id)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _expire(self) -> None:
        self._overdue = True
        if not self._began:
            self._line.finish(self._stream_id, wire.trailers(DEADLINE.code, DEADLINE.message))
        self._cancel()

    def _start(self, request: Any) -> None:
        self._task = asyncio.get_running_loop().create_task(self._serve(request))

    async def _serve(self, request: Any) -> None:
        self._began = True
        served = self._behaviour(request, self)
        del request
        try:
            response = await served
            if not self._method.streams_out:
                answer = self._method.write_out(response)
                del response
                if not self._sent((answer, b"")):
                    # Many may hold one of their own, for as long as they like.
                    async with asyncio.timeout(ANSWER_SECONDS_MAX):
                        await self._whole()
            self._line.finish(self._stream_id, wire.trailers(code_pb2.OK, "", self._trailing))
        except grpc.aio.AbortError:
            assert self._aborted is not None
            self._line.finish(self._stream_id, self._aborted)
        except asyncio.CancelledError:
            if not self._overdue:
                raise
            self._line.finish(self._stream_id, wire.trailers(DEADLINE.code, DEADLINE.message, self._trailing))
        except TimeoutError:
            self._line.finish(self._stream_id, wire.trailers(UNTAKEN.code, UNTAKEN.message, self._trailing))
        except Exception:
            _log.exception("a layer around a call failed")
            self._line.finish(self._stream_id, wire.trailers(FAULT.code, FAULT.message))
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._line.ended(self._stream_id)

    async def next_message(self) -> bytes | None:
        """The next message of a client's stream; None after the last."""
        inbox = self._inbox
        assert inbox is not None
        while not inbox:
            if self._asked:
                return None
            await self._wait()
        self._line.taken(self._stream_id)
        return inbox.popleft()

    async def read_in(self, message: bytes) -> Any:
        """A message of the client's stream. Raises AbortError."""
        try:
            return self._method.read_in(message)
        except DecodeError:
            await self.abort(grpc.StatusCode.INTERNAL, NO_MESSAGE)

    # What follows is part of grpc.aio's interface.

    def invocation_metadata(self) -> Metadata:
        """Pairs that the client has sent."""
        return self._metadata

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """Pairs that go with the status."""
        self._trailing = tuple(trailing_metadata)

    def code(self) -> grpc.StatusCode | None:
        """The code that the call was aborted with."""
        return self._code

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        """End the call with a status. Raises grpc.aio.AbortError."""
        self._code = code
        self._aborted = wire.trailers(code.value[0], details, trailing_metadata or self._trailing)
        raise grpc.aio.AbortError

    async def send_initial_metadata(self, initial_metadata: object) -> None:
        """Let headers go out."""
        self._line.begin(self._stream_id)

    async def write(self, message: Pieces) -> None:
        """Send a message; returns when the next can be taken."""
        if not self._sent(message):
            await self._whole()

    def _sent(self, message: Pieces) -> bool:
        """Send a message; False if it waits."""
        self._waits = True
        return self._line.send(self._stream_id, *message)

    async def _whole(self) -> None:
        # The socket may have taken the rest in the same turn.
        while self._waits:
            await self._wait()

    def pusher(self) -> Push | None:
        """What sends messages that go at once; None if the call is over."""
        return self._line.pusher(self._stream_id)


class _Messages:
    """The messages of a client's stream, one after another."""

    __slots__ = ("_call", "take_at_once")

    def __init__(self, call: Call) -> None:
        self._call = call
        self.take_at_once = call.take_at_once

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> Any:
        message = await self._call.next_message()
        if message is None:
            raise StopAsyncIteration
        return await self._call.read_in(message)
