"""A node's relay that plays a script, on a Unix socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from voxplane.node.v1 import relay_service_pb2 as pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc

Answer = Callable[[str], Iterable[pb2.ChatResponse]]


def opened(version: int = 3) -> pb2.ChatResponse:
    """A session that runs a version."""
    return pb2.ChatResponse(opened=pb2.ChatOpened(session_id="text-1", version=version))


def said(text: str, number: int = 1, version: int = 3, **fields: str) -> list[pb2.ChatResponse]:
    """A whole reply, in two pieces and with its fields."""
    turn = pb2.ChatTurn(turn=number, version=version, text=text)
    turn.first_token.FromMilliseconds(4)
    turn.total.FromMilliseconds(31)
    middle = len(text) // 2
    events = [pb2.ChatResponse(text_delta=text[:middle]), pb2.ChatResponse(text_delta=text[middle:])]
    for name, value in fields.items():
        turn.fields[name] = value
        events.append(pb2.ChatResponse(field=pb2.ChatField(name=name)))
        events[-1].field.value.string_value = value
    return [*events, pb2.ChatResponse(turn=turn)]


@dataclass(slots=True)
class FakeNode(relay_grpc.RelayServiceServicer):
    """Opens every session with `first`, hangs up if that is empty, and answers
    what is said by `answer`."""

    answer: Answer
    first: list[pb2.ChatResponse] = field(default_factory=lambda: [opened()])
    refusal: tuple[grpc.StatusCode, str] | None = None
    callers: list[pb2.CallerContext] = field(default_factory=list[pb2.CallerContext])
    heard: list[str] = field(default_factory=list[str])

    async def Chat(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[pb2.ChatRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb2.ChatResponse]:
        """See the contract."""
        async for request in request_iterator:
            if self.refusal:  # read first, as a node does: gRPC loses the status of a call that is written to
                await context.abort(*self.refusal)
            if request.HasField("open"):
                self.callers.append(request.open)
                for event in self.first:
                    yield event
                if not self.first:
                    return
            else:
                self.heard.append(request.input.text)
                for event in self.answer(request.input.text):
                    yield event


@asynccontextmanager
async def listening(node: FakeNode, folder: Path) -> AsyncIterator[Path]:
    """The node's socket, for the block."""
    socket = folder / "relay.sock"
    server = grpc.aio.server()
    relay_grpc.add_RelayServiceServicer_to_server(node, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield socket
    finally:
        await server.stop(0)
