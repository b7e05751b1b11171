"""Clients that send anything: no crash, no memory without bound, and the others
are not disturbed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.fast_edge.events import Over
from control_plane.fast_edge.limits import Limits
from tests.unit.fast_edge import fake_socket, frames
from tests.unit.fast_edge.edge_world import connection
from tests.unit.fast_edge.fake_socket import PATH, STREAM_PATH, WATCH_PATH, FakeListener
from tests.unit.fast_edge.frames import message

CASES = 3_000
CASES_LONG = 100_000
HEALTHY_EVERY = 250
SAID_BYTES_MAX = 2_000_000
TASKS_MAX = 50
LIMITS = replace(
    Limits(), message_bytes_max=65_536, request_bytes_max_total=300_000, streams_max=8, window_bytes=65_536
)


NAMES = ("grpc-timeout", "x-bin", "grpc-encoding", "content-type", "te", "x", "Connection", ":path")
VALUES = ("", "1n", "!", "gzip", "x" * 300, "\xff")
SETTINGS = (0, 1, 100, 65_535, 2**31 - 1, 2**32 - 1)
MANY = (frames.frame(frames.PING, 0, 0, b"12345678"), frames.setting(frames.INITIAL_WINDOW, 0), b"\0")


class Client:
    """Makes up what one client sends. It errs in a share of its frames."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.wild = chance.choice([0.0, 0.05, 0.3])
        self.newest = -1
        self.open: list[int] = []

    def case(self) -> bytes:
        """All that it sends."""
        chance = self.chance
        raw = frames.hello() if chance.random() < 0.97 else b""
        for _ in range(chance.randrange(1, 25)):
            raw += self.wild_frame() if chance.random() < self.wild else self.frame()
        if chance.random() < 0.1:
            raw += chance.choice(MANY) * 3_000
        if chance.random() < 0.2 and raw:
            broken = bytearray(raw)
            for _ in range(chance.randrange(1, 4)):
                broken[chance.randrange(len(broken))] = chance.randrange(256)
            raw = bytes(broken)
        return raw[: chance.randrange(len(raw))] if chance.random() < 0.1 and raw else raw

    def request(self) -> tuple[tuple[str, str], ...]:
        """The head of a call, mostly good."""
        chance = self.chance
        fields = [*frames.REQUEST]
        fields[2] = (":path", chance.choice([PATH, PATH, STREAM_PATH, STREAM_PATH, WATCH_PATH, "/none/Such"]))
        if chance.random() < self.wild:
            fields.insert(chance.randrange(len(fields) + 1), (chance.choice(NAMES), chance.choice(VALUES)))
        if chance.random() < self.wild / 2:
            del fields[chance.randrange(len(fields))]
        return tuple(fields)

    def frame(self) -> bytes:
        """A frame that fits what came before."""
        chance = self.chance
        if not self.open or chance.random() < 0.2:
            self.newest += 2
            self.open.append(self.newest)
            return frames.headers(self.newest, self.request())
        stream = chance.choice(self.open)
        match chance.randrange(10):
            case 0:
                return frames.setting(frames.INITIAL_WINDOW, chance.choice([0, 1, 100, 65_535]))
            case 1:
                return frames.window(chance.choice([0, stream]), chance.choice([1, 1_000, 100_000]))
            case 2:
                self.open.remove(stream)
                return frames.frame(frames.RST_STREAM, 0, stream, b"\0\0\0\x08")
            case 3:
                self.open.remove(stream)
                return frames.frame(frames.DATA, frames.END_STREAM, stream, self.body())
            case _:
                return frames.frame(frames.DATA, 0, stream, self.body())

    def body(self) -> bytes:
        """Some of a request: a message, two, or a part of one."""
        chance = self.chance
        body = message(chance.randbytes(chance.choice([0, 1, 30, 3_000])))
        return chance.choice([body, body, body * 2, body[: chance.randrange(len(body))]])

    def wild_frame(self) -> bytes:
        """A frame that may be anything."""
        chance = self.chance
        stream = chance.choice([0, 1, 3, 2, self.newest & 0x7FFF_FFFF, 2**31 - 1, 2**31 + 1])
        flags = chance.choice([0, 1, 4, 5, 8, 0x20, chance.randrange(256)])
        kind = chance.choice([*range(10), 0, 0, 1, 1, 8, chance.randrange(256)])
        if kind == frames.SETTINGS and chance.random() < 0.7:
            return frames.setting(chance.randrange(10), chance.choice(SETTINGS))
        if kind == frames.WINDOW_UPDATE and chance.random() < 0.7:
            return frames.window(stream, chance.choice([0, 1, 1_000, 2**31 - 1]))
        size = chance.choice([0, 1, 4, 5, 6, 8, chance.randrange(60), chance.randrange(17_000)])
        return frames.frame(kind, flags, stream, chance.randbytes(size))


def a_case(chance: random.Random) -> bytes:
    """What one client sends in all."""
    return Client(chance).case()


def pieces(raw: bytes, chance: random.Random) -> list[bytes]:
    """The bytes, cut anywhere."""
    cuts = sorted(chance.randrange(len(raw) + 1) for _ in range(chance.choice([0, 1, 5])))
    return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


async def healthy(listener: FakeListener) -> None:
    """A client that keeps to everything is served as if it were alone."""
    protocol, socket = listener.connect()
    fields = tuple((dict(frames.REQUEST) | {":path": PATH}).items())
    protocol.data_received(frames.hello() + frames.headers(1, fields))
    protocol.data_received(frames.frame(frames.DATA, frames.END_STREAM, 1, message(b"are you well?")))
    for _ in range(5):
        await asyncio.sleep(0)
    bodies = [payload for kind, _, _, payload in frames.split(bytes(socket.written)) if kind == frames.DATA]
    assert b"".join(bodies) == message(b"are you well?")
    protocol.connection_lost(None)


def disturb(listener: FakeListener, chance: random.Random) -> None:
    """One client that sends anything, with a socket that is full at times."""
    protocol, socket = listener.connect()
    for piece in pieces(a_case(chance), chance):
        if socket.closed:
            break
        if chance.random() < 0.1:
            protocol.pause_writing()
            protocol.resume_writing()
        protocol.data_received(piece)
        listener.now += chance.choice([0.0, 0.0, 0.5, 31.0])
        protocol.tick()
        assert len(socket.written) < SAID_BYTES_MAX
        assert protocol.calls <= LIMITS.streams_max + LIMITS.resets_burst
        assert listener.budget.left >= 0
        frames.split(bytes(socket.written))
    protocol.connection_lost(None)


@pytest.mark.timeout(1_200)
async def test_clients_that_send_anything(long_mode: bool) -> None:
    """Every case leaves the listener as it was: no error, no call, no byte of
    the budget, and a client of good manners is served in between."""
    listener = FakeListener(LIMITS)
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
    seed = random.randrange(2**32)
    for number in range(CASES_LONG if long_mode else CASES):
        try:
            disturb(listener, random.Random(seed + number))
            await asyncio.sleep(0)
            if number % HEALTHY_EVERY == 0:
                await healthy(listener)
                await asyncio.sleep(0)
                assert (listener.open, failures) == (set(), [])
                assert listener.budget.left == LIMITS.request_bytes_max_total
                assert len(asyncio.all_tasks()) < TASKS_MAX
        except BaseException as error:
            error.add_note(f"a_case(random.Random({seed + number}))")
            raise


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_bytes_that_are_anything(raw: bytes, begun: bool) -> None:
    """A connection takes any bytes, and says goodbye where they make no sense."""
    server = connection(LIMITS)
    told = server.receive(frames.hello() if begun else b"", 0.0)
    told += server.receive(raw, 0.0)
    frames.split(server.outgoing.take())
    assert server.over == any(isinstance(event, Over) for event in told)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 400), max_size=10))
def test_cuts_make_no_difference(seed: int, cuts: list[int]) -> None:
    """The same bytes in other pieces give the same events, up to the end of
    the connection."""

    def play(cut: Callable[[bytes], list[bytes]]) -> list[str]:
        server, told = connection(LIMITS), []
        for piece in cut(a_case(random.Random(seed))):
            told += server.receive(piece, 0.0)
        return [repr(event) for event in told if not isinstance(event, Over)]

    def cut_there(raw: bytes) -> list[bytes]:
        places = sorted({min(place, len(raw)) for place in cuts})
        return [raw[start:end] for start, end in zip([0, *places], [*places, len(raw)], strict=True)]

    whole, cut = play(lambda raw: [raw]), play(cut_there)
    assert cut[: len(whole)] == whole or whole[: len(cut)] == cut


async def test_a_fake_socket_serves_a_stream() -> None:
    """A server's stream ends with its connection."""
    listener = FakeListener(LIMITS)
    protocol, socket = listener.connect()
    fields = tuple((dict(frames.REQUEST) | {":path": fake_socket.WATCH_PATH}).items())
    protocol.data_received(frames.hello() + frames.headers(1, fields))
    protocol.data_received(frames.frame(frames.DATA, frames.END_STREAM, 1, message(b"hi")))
    for _ in range(20):
        await asyncio.sleep(0)
    assert socket.written.count(b"hi!") > 3
    protocol.connection_lost(None)
    await asyncio.sleep(0)
    assert (protocol.calls, listener.open) == (0, set())
