"""Calls of the fast edge whose clients are in a hurry, or slow, or want harm: on
a socket in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hpack import Encoder

from control_plane.fast_edge import wire
from control_plane.fast_edge.call import ANSWER_SECONDS_MAX
from control_plane.fast_edge.limits import Limits
from control_plane.services.config_sync import Method
from control_plane.services.incoming import take_at_once
from tests.unit.fast_edge import fake_socket, frames
from tests.unit.fast_edge.edge_world import connection
from tests.unit.fast_edge.fake_socket import FakeListener
from tests.unit.fast_edge.frames import message

BODY = frames.frame(frames.DATA, frames.END_STREAM, 1, message(b"a"))
TWO = frames.frame(frames.DATA, frames.END_STREAM, 1, message(b"a") * 2)
RESET = frames.frame(frames.RST_STREAM, 0, 1, b"\0\0\0\x08")
ANSWER_BYTES_MAX = 2_000


def to(path: str) -> tuple[tuple[str, str], ...]:
    """The head of a call of a method."""
    return tuple((dict(frames.REQUEST) | {":path": path}).items())


async def turns() -> None:
    """Let the calls do what they can."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("path", [fake_socket.PATH, fake_socket.STREAM_PATH, fake_socket.WATCH_PATH])
@pytest.mark.parametrize("raw", [BODY + RESET, TWO + RESET, TWO], ids=["reset", "two and reset", "two"])
async def test_a_call_that_ends_before_its_first_turn_is_forgotten(path: str, raw: bytes) -> None:
    """A request, and what ends it, in one piece: the listener holds nothing of it."""
    protocol, _ = FakeListener(Limits()).connect()
    protocol.data_received(frames.hello() + frames.headers(1, to(path)) + raw)
    await turns()
    assert protocol.calls == 0


@pytest.mark.parametrize("pieces", [1, 2, 5])
async def test_messages_are_taken_in_order_whoever_takes_them(pieces: int) -> None:
    """Those that are taken as they come and those that wait for the call's task
    reach it once each and in order, however many come together."""
    seen: list[bytes] = []
    sizes = [2, 2, 3, 2, 5, 2, 2, 7, 2, 2]

    async def keep(requests: Any, context: Any) -> bytes:
        take_at_once(requests, lambda message: len(message) == 2 and not seen.append(message))
        async for each in requests:
            await asyncio.sleep(0)
            seen.append(each)
        return b"%d" % len(seen)

    listener = FakeListener(Limits())
    listener.methods["/test.Service/Keep"] = (Method(keep, bytes, bytes, streams_in=True), keep)
    protocol, socket = listener.connect()
    protocol.data_received(frames.hello() + frames.headers(1, to("/test.Service/Keep")))
    await turns()
    sent = [bytes((number,)) * size for number, size in enumerate(sizes)]
    parts = [frames.frame(frames.DATA, 0, 1, message(body)) for body in sent]
    for start in range(0, len(parts), pieces):
        protocol.data_received(b"".join(parts[start : start + pieces]))
        if start % 2:
            await turns()
    protocol.data_received(frames.frame(frames.DATA, frames.END_STREAM, 1))
    await turns()
    assert seen == sent
    assert frames.status_of(bytes(socket.written))["grpc-status"] == "0"


class EagerLoop(asyncio.SelectorEventLoop):
    """A loop for which a time that is next to nothing has passed, as for uvloop."""

    def call_later(self, delay, callback, *args, context=None):  # type: ignore[no-untyped-def, override]
        """See asyncio."""
        if delay >= 0.0005:
            return super().call_later(delay, callback, *args, context=context)
        return self.call_soon(callback, *args, context=context)


@pytest.mark.parametrize("path", [fake_socket.PATH, fake_socket.STREAM_PATH, fake_socket.WATCH_PATH])
def test_a_deadline_before_the_first_turn_is_told(path: str) -> None:
    """A client with no time at all is told that it has passed."""

    async def play() -> None:
        protocol, socket = FakeListener(Limits()).connect()
        fields = (*to(path), ("grpc-timeout", "1n"))
        protocol.data_received(frames.hello() + frames.headers(1, fields) + BODY)
        await turns()
        assert frames.status_of(bytes(socket.written))["grpc-status"] == "4"
        assert protocol.calls == 0

    with asyncio.Runner(loop_factory=EagerLoop) as runner:
        runner.run(play())


async def test_a_large_message_that_goes_at_once_is_followed_by_others() -> None:
    """More than is made at a time, to a client and a socket that take it all:
    the stream goes on."""
    protocol, socket = FakeListener(Limits()).connect()
    wide = frames.setting(frames.INITIAL_WINDOW, 2**30)
    protocol.data_received(frames.hello(wide) + frames.window(0, 2**30))
    protocol.data_received(frames.headers(1, to(fake_socket.WATCH_PATH)))
    body = message(b"x" * 400_000)
    for start in range(0, len(body), 16_384):
        protocol.data_received(frames.frame(frames.DATA, 0, 1, body[start : start + 16_384]))
    await turns()
    assert len(socket.written) > 3 * len(body)
    protocol.connection_lost(None)
    await turns()


@pytest.mark.parametrize("field", [":path", "name"])
async def test_an_answer_does_not_repeat_what_is_long(field: str) -> None:
    """A few bytes stand for a name of thousands by the dynamic table; the error
    about it is short all the same."""
    protocol, socket = FakeListener(Limits()).connect()
    head = [(name.encode(), value.encode()) for name, value in frames.REQUEST]
    if field == ":path":
        head[2] = (b":path", b"/" + b"\xff" * 3_000)
    else:
        head.append((b"x" * 3_000 + b"-bin", b"?"))
    block = Encoder().encode(head)
    protocol.data_received(frames.hello())
    first = frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, block)
    protocol.data_received(first)
    await turns()
    assert int(frames.status_of(bytes(socket.written))["grpc-status"]) in (3, 12)
    assert len(socket.written) < ANSWER_BYTES_MAX


async def test_a_fault_around_a_handler_is_told() -> None:
    """An error that no layer has seen to ends its call, and nothing else."""

    async def broken(request: bytes, context: object) -> bytes:
        raise KeyError("secret")

    listener = FakeListener(Limits())
    listener.methods[fake_socket.PATH] = (Method(broken, bytes, bytes), broken)
    protocol, socket = listener.connect()
    protocol.data_received(frames.hello() + frames.headers(1) + BODY)
    await turns()
    told = frames.status_of(bytes(socket.written))
    assert (told["grpc-status"], told["grpc-message"]) == ("13", "a fault of the server")
    assert protocol.calls == 0


@pytest.mark.parametrize("message", ["no", "€" * 20_000])
@pytest.mark.parametrize("details", [100_000, 10])
def test_a_status_is_told_whatever_belongs_to_it(message: str, details: int) -> None:
    """What no client would take is left out of the end of an answer, not the
    code, and not what the call is known by."""
    server = connection()
    server.receive(frames.hello() + frames.headers(1, end=True), 0.0)
    more = (("x-request-id", "7"), ("grpc-status-details-bin", b"x" * details))
    server.finish(1, wire.trailers(3, message, more))
    said = server.outgoing.take()
    told = frames.status_of(said)
    assert (told["grpc-status"], told["x-request-id"]) == ("3", "7")
    assert told["grpc-message"].startswith("no" if message == "no" else "%E2%82%AC")
    assert ("grpc-status-details-bin" in told) == (details == 10)
    assert len(said) < 16_384


class LeapingLoop(asyncio.SelectorEventLoop):
    """A loop whose time can be put forward."""

    ahead = 0.0

    def time(self) -> float:
        """See asyncio."""
        return super().time() + self.ahead


@pytest.mark.parametrize("taken", [True, False])
def test_an_answer_that_is_not_taken_is_dropped(*, taken: bool) -> None:
    """A client that opens no window holds an answer for minutes, not hours."""
    loop = LeapingLoop()

    async def play() -> None:
        protocol, socket = FakeListener(Limits()).connect()
        protocol.data_received(frames.hello(frames.setting(frames.INITIAL_WINDOW, 0)))
        protocol.data_received(frames.headers(1) + BODY)
        await turns()
        loop.ahead += ANSWER_SECONDS_MAX - 1
        await turns()
        assert protocol.calls == 1
        if taken:
            protocol.data_received(frames.window(1, 100))
            await turns()
        loop.ahead += 2
        await turns()
        assert protocol.calls == 0
        assert frames.status_of(bytes(socket.written))["grpc-status"] == ("0" if taken else "4")

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(play())
