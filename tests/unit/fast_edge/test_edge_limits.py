"""What one connection of the fast edge may cost: floods, limits, and ages."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from control_plane.fast_edge import wire
from control_plane.fast_edge.events import Began, Over, Refused
from control_plane.fast_edge.limits import Budget
from tests.unit.fast_edge import frames
from tests.unit.fast_edge.edge_world import Pair, connection
from tests.unit.fast_edge.frames import REQUEST, message

OK = wire.trailers(0)


FLOODS = {
    "ping": frames.frame(frames.PING, 0, 0, b"12345678"),
    "settings": frames.frame(frames.SETTINGS),
    "empty data": frames.frame(frames.DATA, 0, 1),
    "priority": frames.frame(frames.PRIORITY, 0, 1, b"\0\0\0\3\1"),
    "windows": frames.window(0, 1),
    "windows of a stream": frames.window(1, 1),
    "unknown": frames.frame(0xFE, 0, 0, b"?"),
}


@pytest.mark.parametrize("name", FLOODS)
def test_frames_that_carry_nothing_are_bounded(name: str) -> None:
    """A flood ends its connection, and what it makes the server say is bounded;
    the same at a human pace goes on for ever."""
    slow, fast = connection(), connection()
    for each in (slow, fast):
        each.receive(frames.hello() + frames.headers(1), 0.0)
    for second in range(1, 60):
        assert not any(isinstance(event, Over) for event in slow.receive(FLOODS[name] * 100, float(second)))
    said = 0
    for _ in range(100):
        fast.receive(FLOODS[name] * 100, 1.0)
        said += len(fast.outgoing.take())
        if fast.over:
            break
    assert fast.over
    assert said < 100_000


def test_rapid_reset_ends_its_connection() -> None:
    """Streams that are opened and reset at once are few (CVE-2023-44487)."""
    server = connection()
    server.receive(frames.hello(), 0.0)
    calls = 0
    for stream in range(1, 4_001, 2):
        reset = frames.frame(frames.RST_STREAM, 0, stream, b"\0\0\0\x08")
        told = server.receive(frames.headers(stream, end=True) + reset, 0.0)
        calls += sum(isinstance(event, Began) for event in told)
        if server.over:
            break
    assert server.over
    assert calls <= server._limits.resets_burst + 1  # pyright: ignore[reportPrivateUsage]
    assert frames.last_goaway(server.outgoing.take()) == (frames.GOAWAY, 11)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("x", lambda stream: frames.window(stream, 2**31 - 1)),
        ("content-length", lambda stream: frames.frame(0, 0, stream, b"22")),
    ],
    ids=["window", "length"],
)
def test_streams_that_the_server_is_made_to_reset_are_few(field: str, wrong: Callable[[int], bytes]) -> None:
    """An error of a stream is a reset by another name (CVE-2025-8671)."""
    server = connection()
    server.receive(frames.hello(), 0.0)
    calls = 0
    for stream in range(1, 4_001, 2):
        told = server.receive(frames.headers(stream, (*REQUEST, (field, "1"))) + wrong(stream), 0.0)
        calls += sum(isinstance(event, Began) for event in told)
    assert server.over
    assert calls <= server._limits.resets_burst + 1  # pyright: ignore[reportPrivateUsage]
    assert frames.last_goaway(server.outgoing.take()) == (frames.GOAWAY, 11)


def test_headers_are_bounded() -> None:
    """Large headers, many headers and many CONTINUATION frames are refused,
    and cost no more memory than the bound (CVE-2024-27316)."""
    large = (*REQUEST, *((f"x-{index}", "y" * 1_000) for index in range(40)))
    pair = Pair()
    pair.call(message(b""), headers=large)
    assert not any(isinstance(event, Began) for event in pair.told)
    assert pair.server.calls == 0
    many = connection()
    many.receive(frames.hello() + frames.frame(frames.HEADERS, 0, 1, frames.block()), 0.0)
    for _ in range(20):
        many.receive(frames.frame(frames.CONTINUATION, 0, 1, b"\0\1a\1b"), 0.0)
    assert many.over


def test_streams_of_a_connection_are_bounded() -> None:
    """One more than may be open is refused; the others go on."""
    pair = Pair(streams_max=3)
    raw = b"".join(frames.headers(stream) for stream in (1, 3, 5, 7))
    server = connection(pair.limits)
    told = server.receive(frames.hello() + raw, 0.0)
    assert [event.stream_id for event in told if isinstance(event, Began)] == [1, 3, 5]
    refused = [frame for frame in frames.split(server.outgoing.take()) if frame[0] == frames.RST_STREAM]
    assert refused == [(frames.RST_STREAM, 0, 7, b"\0\0\0\7")]
    assert server.calls == 3


def test_unfinished_requests_of_all_connections_are_bounded() -> None:
    """Requests that never end share one budget; what is given up is given back."""
    budget = Budget(100_000)
    servers = [connection(budget=budget) for _ in range(5)]
    refused = 0
    for server in servers:
        server.receive(frames.hello() + frames.headers(1), 0.0)
        body = b"\0\0\xff\xff\xff" + b"x" * 16_000
        told = server.receive(frames.frame(frames.DATA, 0, 1, body), 0.0)
        told += server.receive(frames.frame(frames.DATA, 0, 1, b"x" * 16_000), 0.0)
        refused += sum(isinstance(event, Refused) for event in told)
        assert budget.left >= 0
    assert refused == 2
    for server in servers:
        server.close("over")
    assert budget.left == 100_000


def test_a_request_that_does_not_come_whole_is_ended() -> None:
    """A client that sends a byte a minute holds nothing for long."""
    server = connection()
    server.receive(frames.hello() + frames.headers(1) + frames.frame(0, 0, 1, b"\0\0\0"), 0.0)
    server.receive(frames.frame(frames.PING, 0, 0, b"12345678"), 59.0)
    assert server.tick(59.0) == []
    assert [type(event) for event in server.tick(60.0)] == [Refused]
    assert server.calls == 0


def test_a_request_of_which_nothing_comes_is_ended() -> None:
    """A head alone holds a call no longer than half a message does; a client's
    stream has its messages when it has them."""
    server = connection()
    server.receive(frames.hello() + frames.headers(1) + frames.headers(3), 0.0)
    server.streams(3)
    server.receive(frames.frame(frames.PING, 0, 0, b"12345678"), 59.0)
    assert server.tick(59.0) == []
    assert [(type(event), event.stream_id) for event in server.tick(60.0)] == [(Refused, 1)]  # type: ignore[union-attr]
    assert server.calls == 1


@pytest.mark.parametrize(
    ("first", "ends"),
    [(b"", 10.0), (frames.hello(), 10.0), (frames.hello() + frames.headers(1, end=True), 1e9)],
)
def test_a_client_that_does_not_begin_is_left(first: bytes, ends: float) -> None:
    """A connection without a call ends soon."""
    server = connection()
    if first:
        server.receive(first, 0.0)
    over: float | None = None
    for second in range(1, 29):
        if any(isinstance(event, Over) for event in server.tick(float(second))):
            over = over or float(second)
    assert (over or 1e9) == ends


def test_a_client_without_calls_is_left_later() -> None:
    """A connection whose calls have ended may have others, for a while."""
    server = connection()
    server.receive(frames.hello() + frames.headers(1, end=True), 0.0)
    server.finish(1, OK)
    ping = frames.frame(frames.PING, 0, 0, b"12345678")
    seconds = 0.0
    while not server.over:
        seconds += 10.0
        server.receive(ping, seconds)
        server.tick(seconds)
    assert 300 <= seconds <= 320


def test_a_client_that_gives_no_sign_of_life_is_left() -> None:
    """The server asks after half a minute of silence, and leaves when there is
    no answer; any frame is one."""
    server = connection()
    server.receive(frames.hello() + frames.headers(1, end=True), 0.0)
    server.outgoing.take()
    assert server.tick(29.0) == []
    assert server.outgoing.take() == b""
    server.tick(30.0)
    assert frames.split(server.outgoing.take())[0][0] == frames.PING
    server.receive(frames.window(0, 1), 31.0)
    assert server.tick(51.0) == []
    server.tick(61.0)
    assert [type(event) for event in server.tick(82.0)] == [Over]


def test_a_message_of_a_long_stream_has_the_time_of_a_request() -> None:
    """A client that has streamed for hours may be in the midst of a message
    when time passes; one that does not come whole in time ends the call."""
    server = connection()
    server.receive(frames.hello() + frames.headers(1), 0.0)
    server.streams(1)
    hello = message(b"hello")
    whole, half, more = (frames.frame(frames.DATA, 0, 1, part) for part in (hello, hello[:7], hello[7:8]))
    for second in range(10, 200, 10):
        server.receive(whole, float(second))
        server.taken(1)
    assert server.tick(200.0) == []
    server.receive(half, 200.0)
    assert server.tick(200.5) == []
    server.receive(more, 230.0)
    assert server.tick(259.5) == []
    assert any(isinstance(event, Refused) for event in server.tick(260.0))


@pytest.mark.parametrize("kind", [frames.DATA, frames.WINDOW_UPDATE])
def test_nothing_comes_between_the_frames_of_headers(kind: int) -> None:
    """Headers that have begun are followed by CONTINUATION alone, also where the
    engine does not see the frame of another stream."""
    server = connection()
    server.receive(frames.hello() + frames.headers(1), 0.0)
    server.streams(1)
    server.receive(frames.frame(frames.HEADERS, 0, 3, frames.block()[:10]), 0.0)
    between = message(b"x") if kind == frames.DATA else b"\0\0\0\1"
    told = server.receive(frames.frame(kind, 0, 1, between), 0.0)
    assert [type(event) for event in told] == [Over]
    assert frames.last_goaway(server.outgoing.take()) == (frames.GOAWAY, 1)
