"""One connection of the fast edge, without a socket: what comes, and what goes."""

from __future__ import annotations

from typing import Any

import pytest
from google.rpc import code_pb2
from h2.events import ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.settings import SettingCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.fast_edge import wire
from control_plane.fast_edge.events import Asked, Began, Came, Gone, Over, Refused, Went
from control_plane.fast_edge.guard import FORGOTTEN_FACTOR
from tests.unit.fast_edge import frames
from tests.unit.fast_edge.edge_world import Pair, connection
from tests.unit.fast_edge.frames import REQUEST, message

OK = wire.trailers(0)


def headers_of(event: Any) -> dict[str, str]:
    """The headers of an event of h2."""
    return {str(name): str(value) for name, value in event.headers}


def test_a_call_from_its_request_to_its_status() -> None:
    """A request comes with its metadata and its message; the answer has headers,
    messages and a status, and then the call is forgotten."""
    pair = Pair()
    stream = pair.call(message(b"hello"), headers=(*REQUEST, ("x-request-id", "7"), ("grpc-timeout", "2S")))
    began, came, asked = pair.told
    assert isinstance(began, Began)
    assert (began.request.path, began.request.timeout) == ("/test.Service/Call", 2.0)
    assert dict(began.request.metadata)["x-request-id"] == "7"
    assert (came, asked) == (Came(stream, b"hello"), Asked(stream))
    assert pair.server.send(stream, b"shared", b"own")
    pair.server.finish(stream, wire.trailers(5, "no €", (("a-bin", b"\x01\x02"),)))
    pair.flow()
    assert headers_of(pair.of(ResponseReceived)[0]) == {":status": "200", "content-type": "application/grpc"}
    assert pair.body(stream) == message(b"sharedown")
    trailers = headers_of(pair.of(TrailersReceived)[0])
    assert trailers == {"grpc-status": "5", "grpc-message": "no %E2%82%AC", "a-bin": "AQI"}
    assert (pair.server.calls, len(pair.of(StreamReset))) == (0, 0)


def test_an_error_without_a_message_is_one_frame() -> None:
    """A call that fails at once is answered by trailers alone."""
    pair = Pair()
    stream = pair.call(message(b""))
    pair.server.finish(stream, wire.trailers(12, "no"))
    frame, *rest = frames.split(pair.server.outgoing.take())
    assert frame[:3] == (frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream)
    assert not rest


def test_a_status_does_not_wait_for_the_rest_of_a_request() -> None:
    """A client that still sends is told to stop, without an error."""
    pair = Pair()
    stream = pair.call(message(b"first"), end=False)
    pair.server.finish(stream, wire.trailers(3, "no"))
    pair.flow()
    assert headers_of(pair.of(ResponseReceived)[0])["grpc-status"] == "3"
    reset: Any = pair.of(StreamReset)[0] if pair.of(StreamReset) else None
    assert reset is None or reset.error_code == 0
    assert pair.server.receive(frames.frame(frames.DATA, 0, stream, message(b"late")), 0.0) == []
    assert not pair.server.over


@settings(max_examples=60, deadline=None)
@given(
    window=st.integers(0, 400),
    size=st.integers(0, 2_000),
    opened=st.lists(st.integers(1, 300), max_size=40),
)
def test_no_byte_goes_beyond_a_window(window: int, size: int, opened: list[int]) -> None:
    """Whatever the client's windows are, and however they grow, the message goes
    in order, and no faster than they allow."""
    pair = Pair({SettingCodes.INITIAL_WINDOW_SIZE: window})
    stream = pair.call(message(b""))
    sent = message(bytes(index % 251 for index in range(size)))
    whole = pair.server.send(stream, sent[5:])
    pair.flow()
    allowed = window
    for more in opened:
        assert pair.body(stream) == sent[:allowed]
        pair.client.increment_flow_control_window(more, stream)
        pair.flow()
        allowed += more
    assert pair.body(stream) == sent[:allowed]
    assert (whole or Went(stream) in pair.told) == (len(sent) <= allowed)


def test_a_window_that_shrinks_below_nothing() -> None:
    """SETTINGS take back what the client has granted: nothing goes until the
    window is above nothing again."""
    pair = Pair({SettingCodes.INITIAL_WINDOW_SIZE: 100})
    stream = pair.call(message(b""))
    assert not pair.server.send(stream, b"x" * 295)
    pair.flow()
    pair.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 10})
    pair.flow()
    pair.client.increment_flow_control_window(80, stream)
    pair.flow()
    assert len(pair.body(stream)) == 100
    pair.client.increment_flow_control_window(20, stream)
    pair.flow()
    assert len(pair.body(stream)) == 110
    pair.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1_000})
    assert Went(stream) in pair.flow()
    assert len(pair.body(stream)) == 300


def test_a_window_of_all_streams_that_grows_beside_an_answer_in_http() -> None:
    """A message that goes by it is told of, whatever else comes in that piece;
    and nothing goes by new settings before word that they are taken."""
    server = connection()
    server.receive(frames.hello(frames.setting(frames.INITIAL_WINDOW, 0)) + frames.headers(1, end=True), 0.0)
    server.begin(1)
    assert not server.send(1, b"hello")
    server.outgoing.take()
    get = tuple((dict(REQUEST) | {":method": "GET"}).items())
    wider = frames.setting(frames.INITIAL_WINDOW, 1_000)
    assert server.receive(wider + frames.headers(3, get, end=True), 0.0) == [Went(1)]
    said = [(kind, flags) for kind, flags, _, _ in frames.split(server.outgoing.take())]
    data = [place for place, (kind, _) in enumerate(said) if kind == frames.DATA]
    assert len(data) == 2
    assert said.index((frames.SETTINGS, frames.ACK)) < data[0]
    assert server.calls == 1


@settings(max_examples=80, deadline=None)
@given(shared=st.integers(0, 50_000), own=st.sampled_from([0, 1, 5, 80, 16_384, 20_000]))
def test_a_message_that_goes_at_once_is_whole_in_its_frames(shared: int, own: int) -> None:
    """Whatever its two parts measure, it goes in frames that a client takes, as
    far as both windows are open, and uses up just as much of each."""
    pair = Pair()
    stream = pair.call(message(b""))
    pair.server.begin(stream)
    pair.flow()
    sending = pair.server.sending(stream)
    assert sending is not None
    parts = (bytes(index % 251 for index in range(shared)), bytes(own))
    made = sending.frames(*parts)
    sent = message(b"".join(parts))
    if len(sent) > 65_535:
        assert made == b""
        return
    pair.client.receive_data(b"")
    pair.seen += pair.client.receive_data(made)
    assert pair.body(stream) == sent
    assert all(len(body) <= 16_384 for _, _, _, body in frames.split(made))
    assert sending.window == pair.server.outgoing.window == 65_535 - len(sent)
    assert not sending.frames(b"", bytes(sending.window))


def test_nothing_goes_at_once_when_the_call_is_over() -> None:
    """Nor before its headers, nor while the socket takes nothing."""
    pair = Pair()
    stream = pair.call(message(b""))
    sending = pair.server.sending(stream)
    assert sending is not None
    assert sending.frames(b"a", b"b") == b""
    pair.server.begin(stream)
    assert sending.frames(b"a", b"b") != b""
    pair.server.outgoing.blocked = True
    assert sending.frames(b"a", b"b") == b""
    pair.server.outgoing.blocked = False
    pair.server.finish(stream, OK)
    assert sending.frames(b"a", b"b") == b""
    assert pair.server.sending(stream) is None


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(0, 20_000), st.booleans()), min_size=20, max_size=60))
def test_a_clients_stream_never_runs_dry(sizes: list[tuple[int, bool]]) -> None:
    """However a client cuts and pads its messages, all arrive in order, and its
    windows are opened again for what was taken."""
    pair = Pair()
    stream = pair.call(end=False)
    pair.server.streams(stream)
    came: list[bytes] = []
    for number, (size, padded) in enumerate(sizes):
        body = message(number.to_bytes(2, "big") + bytes(size))
        while body:
            room = min(pair.client.local_flow_control_window(stream), 16_000)
            assert room > 300, "the windows are not opened again"
            part, body = body[: room - 300], body[room - 300 :]
            pair.client.send_data(stream, part, pad_length=17 if padded else None)
            for event in pair.flow():
                assert isinstance(event, Came)
                came.append(event.message)
                pair.server.taken(stream)
            pair.flow()
    assert [int.from_bytes(each[:2], "big") for each in came] == list(range(len(sizes)))
    pair.client.end_stream(stream)
    assert pair.flow() == [Asked(stream)]


def test_more_of_a_clients_stream_than_its_windows_are_open_for() -> None:
    """A client that sends on while nothing is taken is sent away, before what is
    kept for it is more than a window."""
    server = connection()
    server.receive(frames.hello() + frames.headers(1), 0.0)
    server.streams(1)
    part = frames.frame(frames.DATA, 0, 1, message(bytes(9_995)))
    kept = 0
    while not server.over:
        kept += sum(isinstance(event, Came) for event in server.receive(part, 0.0))
        assert kept * 10_000 <= 65_535
    *_, (kind, _, _, said) = frames.split(server.outgoing.take())
    assert (kind, said[7]) == (frames.GOAWAY, 3)


def test_a_clients_stream_that_says_its_length_is_held_to_it() -> None:
    """One that ends early is no request."""
    pair = Pair()
    stream = pair.call(end=False, headers=(*REQUEST, ("content-length", "100")))
    pair.server.streams(stream)
    pair.client.send_data(stream, message(b"short"))
    assert pair.flow() == [Came(stream, b"short")]
    server = pair.server
    end = frames.frame(frames.DATA, frames.END_STREAM, stream, message(b"end"))
    told = server.receive(end, 0.0)
    assert Asked(stream) not in told
    assert server.calls == 0


def test_what_waits_is_no_copy() -> None:
    """A reader that is slow holds a reference to the bytes that all share."""
    shared = b"s" * 1_000_000
    pair = Pair({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    waiting = [pair.call(message(b"")) for _ in range(20)]
    for stream in waiting:
        assert not pair.server.send(stream, shared, b"own")
        pieces = pair.server._calls[stream].sending.pending  # pyright: ignore[reportPrivateUsage]
        assert pieces[1] is shared
    assert sum(map(len, frames.split(pair.server.outgoing.take()))) < 10_000


@pytest.mark.parametrize("begun", [True, False])
def test_a_status_needs_no_window(begun: bool) -> None:
    """A client that takes nothing is still told how its call has ended, and
    what it was being sent is dropped."""
    pair = Pair({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    stream = pair.call(message(b""))
    if begun:
        assert not pair.server.send(stream, b"x" * 100)
    pair.server.finish(stream, wire.trailers(8, "too slow"))
    pair.flow()
    ended = pair.of(TrailersReceived if begun else ResponseReceived)[0]
    assert headers_of(ended)["grpc-status"] == "8"
    assert pair.body(stream) == b""
    assert (pair.server.calls, len(pair.of(StreamEnded))) == (0, 1)


def test_a_window_that_cannot_be_ends_its_stream_alone() -> None:
    """Beyond 2^31-1 a stream is reset, and the connection is ended."""
    server = connection()
    server.receive(frames.hello() + frames.headers(1) + frames.headers(3), 0.0)
    server.outgoing.take()
    told = server.receive(frames.window(1, 2**31 - 1), 0.0)
    assert (told, server.calls) == ([Gone(1)], 1)
    assert frames.split(server.outgoing.take()) == [(frames.RST_STREAM, 0, 1, b"\0\0\0\3")]
    assert isinstance(server.receive(frames.window(0, 2**31 - 1), 0.0)[-1], Over)
    assert frames.last_goaway(server.outgoing.take()) == (frames.GOAWAY, 3)


def test_unfinished_messages_take_turns() -> None:
    """Of two large messages on one connection neither waits for the other."""
    pair = Pair({SettingCodes.INITIAL_WINDOW_SIZE: 1_000_000})
    streams = [pair.call(message(b"")) for _ in range(2)]
    for stream in streams:
        pair.server.send(stream, b"x" * 500_000)
    for _ in range(20):
        pair.client.increment_flow_control_window(100_000)
        pair.flow()
    assert [len(pair.body(stream)) for stream in streams] == [500_005, 500_005]


def test_nothing_is_made_for_a_socket_that_takes_nothing() -> None:
    """While the socket is full, messages stay references; they go when it
    takes more."""
    pair = Pair()
    stream = pair.call(message(b""))
    pair.server.outgoing.blocked = True
    assert not pair.server.send(stream, b"x" * 100)
    pair.flow()
    assert pair.body(stream) == b""
    pair.server.outgoing.blocked = False
    assert pair.server.push() == [Went(stream)]
    pair.flow()
    assert pair.body(stream) == message(b"x" * 100)


@given(st.lists(st.binary(max_size=40), max_size=6), st.data())
@settings(max_examples=80, deadline=None)
def test_messages_come_whole_however_they_are_cut(bodies: list[bytes], data: st.DataObject) -> None:
    """The pieces in which bytes come make no difference, padded or not."""
    server = connection()
    stream = b"".join(map(message, bodies))
    raw = frames.hello() + frames.headers(1)
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        piece, stream = stream[:size], stream[size:]
        pad = data.draw(st.integers(0, 5))
        padded = bytes((pad,)) + piece + b"\0" * pad
        raw += frames.frame(frames.DATA, frames.PADDED, 1, padded) if pad else frames.frame(0, 0, 1, piece)
    raw += frames.frame(frames.DATA, frames.END_STREAM, 1)
    told: list[Any] = []
    while raw:
        size = data.draw(st.integers(1, len(raw)))
        told += server.receive(raw[:size], 0.0)
        raw = raw[size:]
    assert [event.message for event in told if isinstance(event, Came)] == bodies
    assert told[-1] == Asked(1)


def test_windows_open_when_a_call_has_taken_its_messages() -> None:
    """What a client may send ahead is bounded by what the call has taken."""
    pair = Pair(window_bytes=70_000)
    stream = pair.call(message(b"x" * 1_000), end=False)
    for _ in range(60):
        pair.client.send_data(stream, message(b"x" * 1_000))
        pair.flow()
    left = pair.client.local_flow_control_window(stream)
    assert left < 9_000
    for _ in range(61):
        pair.server.taken(stream)
    pair.flow()
    assert pair.client.local_flow_control_window(stream) > 60_000


@pytest.mark.parametrize(
    ("raw", "code", "says"),
    [
        (b"\1\0\0\0\0", code_pb2.INTERNAL, "compressed"),
        (b"\7\0\0\0\0", code_pb2.INTERNAL, "flag"),
        (b"\0\xff\xff\xff\xff", code_pb2.RESOURCE_EXHAUSTED, "at most"),
        (b"\0\0\0\0\5abc", code_pb2.INTERNAL, "within a message"),
    ],
)
def test_a_message_that_cannot_be_ends_its_call(raw: bytes, code: int, says: str) -> None:
    """The other calls of the connection go on."""
    pair = Pair()
    other = pair.call(message(b"good"), end=False)
    stream = pair.call(raw)
    refused = [event for event in pair.told if isinstance(event, Refused)]
    assert [(event.stream_id, event.code) for event in refused] == [(stream, code)]
    assert says in refused[0].message
    assert pair.server.send(other, b"fine")
    pair.flow()
    assert pair.body(other) == message(b"fine")


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({":method": "GET"}, "405"),
        ({"content-type": "text/html"}, "415"),
        ({"content-type": "application/grpcx"}, "415"),
    ],
)
def test_what_is_no_grpc_is_told_so(changed: dict[str, str], status: str) -> None:
    """Others are answered in HTTP."""
    pair = Pair()
    stream = pair.call(b"x=1", headers=tuple((dict(REQUEST) | changed).items()))
    assert headers_of(pair.of(ResponseReceived)[0])[":status"] == status
    assert pair.body(stream) == wire.HTTP_BODY
    assert (pair.told, pair.server.calls) == ([], 0)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (("content-type", "application/grpc+json"), code_pb2.UNIMPLEMENTED),
        (("grpc-encoding", "gzip"), code_pb2.UNIMPLEMENTED),
        (("grpc-timeout", "5X"), code_pb2.INVALID_ARGUMENT),
        (("grpc-timeout", "123456789S"), code_pb2.INVALID_ARGUMENT),
        (("x-bin", "!"), code_pb2.INVALID_ARGUMENT),
    ],
)
def test_what_cannot_be_served_is_refused_by_a_status(more: tuple[str, str], code: int) -> None:
    """The head of a call says what it needs; what we have not is UNIMPLEMENTED."""
    pair = Pair()
    pair.call(message(b""), headers=tuple((dict(REQUEST) | dict([more])).items()))
    began = pair.told[0]
    assert isinstance(began, Began)
    assert began.request.error is not None
    assert began.request.error.code == code


def test_a_reset_ends_the_call() -> None:
    """A client that wants no answer any more gets none."""
    pair = Pair()
    stream = pair.call(message(b""))
    pair.client.reset_stream(stream)
    assert pair.flow() == [Gone(stream)]
    assert pair.server.calls == 0
    pair.server.begin(stream)
    assert pair.server.send(stream, b"x")
    pair.server.finish(stream, OK)
    assert pair.server.outgoing.take() == b""


def test_a_call_that_is_reset_in_the_same_breath() -> None:
    """A request and its reset in one piece leave nothing behind."""
    server = connection()
    raw = frames.hello() + frames.headers(1, end=True) + frames.frame(frames.RST_STREAM, 0, 1, b"\0\0\0\x08")
    told = server.receive(raw, 0.0)
    assert told[-1] == Gone(1)
    assert (server.calls, server.over) == (0, False)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n" + b"x" * 40, 1),
        (frames.hello(frames.setting(frames.INITIAL_WINDOW, 2**31)), 3),
        (frames.hello() + frames.window(0, 0), 1),
        (frames.hello() + frames.frame(frames.HEADERS, 4, 2, frames.block()), 1),
        (frames.hello() + frames.frame(frames.HEADERS, 4, 1, b"\xff\xff\xff"), 9),
        (frames.hello() + frames.headers(1, end=True) + frames.headers(1, end=True), 5),
        (frames.hello() + frames.headers(1, end=True) + frames.frame(0, 0, 1, b"more"), 5),
        (frames.hello() + frames.frame(frames.DATA, 0, 0, b"x"), 1),
        (frames.hello() + frames.frame(frames.PUSH, 4, 1, b"\0\0\0\2"), 1),
        (frames.hello() + frames.frame(frames.SETTINGS, frames.ACK, 0, b"123456"), 6),
        (frames.hello() + frames.frame(frames.DATA, 0, 1, b"x" * 20_000), 6),
    ],
)
def test_a_breach_of_the_protocol_ends_the_connection(raw: bytes, code: int) -> None:
    """GOAWAY says why, and nothing that follows is looked at."""
    server = connection()
    told = server.receive(raw, 0.0)
    assert isinstance(told[-1], Over)
    assert frames.last_goaway(server.outgoing.take()) == (frames.GOAWAY, code)
    assert server.receive(frames.headers(9, end=True), 0.0) == []


def test_a_long_stream_outlives_calls_that_were_not_ended() -> None:
    """What is remembered of calls that only the server has ended is bounded,
    and is not at the cost of one that runs."""
    server = connection()
    server.receive(frames.hello() + frames.headers(1), 0.0)
    ended = FORGOTTEN_FACTOR * server._limits.streams_max + 10  # pyright: ignore[reportPrivateUsage]
    for stream in range(3, 3 + 2 * ended, 2):
        server.receive(frames.headers(stream), 0.0)
        server.finish(stream, OK)
    assert server.receive(frames.frame(frames.DATA, 0, 1, message(b"on")), 0.0) == [Came(1, b"on")]
    assert [type(event) for event in server.receive(frames.frame(frames.DATA, 0, 3, b"late"), 0.0)] == [Over]


def test_half_closed_streams_go_on() -> None:
    """A client that has sent all may still be answered, for ever."""
    pair = Pair()
    stream = pair.call(message(b""))
    for number in range(50):
        assert pair.server.send(stream, b"%d" % number)
        pair.flow()
    pair.server.finish(stream, OK)
    pair.flow()
    assert pair.body(stream).count(b"\0\0\0\0") == 50
    assert len(pair.of(StreamEnded)) == 1
