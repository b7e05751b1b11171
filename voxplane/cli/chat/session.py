"""A text session over the node's relay, as a client sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from voxplane.cli.failures import CommandError, StatusError
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc

SOCKET = Path("node") / "relay.sock"
OPEN_SECONDS_MAX = 90.0
"""A node that has just started loads its first process meanwhile."""
LEAVE_SECONDS_MAX = 5.0
_NO_NODE = "start one by `voxplane dev` (or `voxplane node`), or name another's socket by --node-socket"

Call = grpc.aio.StreamStreamCall[relay_pb2.ChatRequest, relay_pb2.ChatResponse]


def relay_socket(data_dir: Path, node_socket: Path | None = None) -> Path:
    """Where the node of a data folder listens."""
    return (node_socket or data_dir / SOCKET).absolute()


class ChatSession:
    """An open session. `opened` says what it began with."""

    def __init__(self, call: Call, opened: relay_pb2.ChatOpened) -> None:
        self._call = call
        self.opened = opened

    async def say(self, text: str) -> None:
        """Send a message of the user."""
        await self._call.write(relay_pb2.ChatRequest(input=relay_pb2.ChatInput(text=text)))

    async def receive(self) -> relay_pb2.ChatResponse | None:
        """What happens next; None when the session has ended."""
        return await _read(self._call)

    async def hang_up(self) -> None:
        """Say that no more messages come; the session then ends by itself."""
        await self._call.done_writing()


@asynccontextmanager
async def open_session(socket: Path, caller: relay_pb2.CallerContext) -> AsyncGenerator[ChatSession]:
    """A session on the node that listens on the socket, for the block.

    Raises CommandError if no node does, StatusError if the node cannot run
    the session, and grpc.aio.AioRpcError if it refuses it.
    """
    if not socket.is_socket():  # noqa: ASYNC240 - no wait: the file is local
        raise CommandError(f"no node runs here: there is no socket {socket}", _NO_NODE)
    options = [("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=options) as channel:
        call: Call = relay_grpc.RelayServiceStub(channel).Chat()
        try:
            yield ChatSession(call, await _open(call, socket, caller))
        finally:
            call.cancel()


async def _open(call: Call, socket: Path, caller: relay_pb2.CallerContext) -> relay_pb2.ChatOpened:
    try:
        async with asyncio.timeout(OPEN_SECONDS_MAX):
            await call.write(relay_pb2.ChatRequest(open=caller))
            first = await _read(call)
    except TimeoutError:
        raise CommandError(f"the node did not open the session within {OPEN_SECONDS_MAX:g} s") from None
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
        if await call.code() is grpc.StatusCode.UNAVAILABLE and "connect" in (await call.details() or ""):
            raise CommandError(f"no node answers on {socket}", _NO_NODE) from None
        if isinstance(error, grpc.aio.AioRpcError):
            raise
        first = await _read(call)  # raises what ended the call
    match first.WhichOneof("event") if first else None:
        case "opened":
            assert first is not None
            return first.opened
        case "error":
            assert first is not None
            raise StatusError(first.error)
        case _:
            raise CommandError("the node ended the session before it began; its log says why")


async def _read(call: Call) -> relay_pb2.ChatResponse | None:
    message = await call.read()
    return message if isinstance(message, relay_pb2.ChatResponse) else None
