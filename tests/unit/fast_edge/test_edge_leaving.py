"""How a connection ends without a request being lost (RFC 9113, 6.8)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control_plane.fast_edge.connection import Connection
from control_plane.fast_edge.events import Asked, Began, Event, Over
from control_plane.fast_edge.leaving import ANSWER_SECONDS_MAX
from tests.unit.fast_edge import frames
from tests.unit.fast_edge.edge_world import LIMITS, connection
from tests.unit.fast_edge.frames import message

OK = ((b"grpc-status", b"0"),)
ALL_STREAMS = 2**31 - 1


class Client:
    """Writes frames by hand, at a time that it is told."""

    def __init__(self, server: Connection) -> None:
        self.server = server
        self.now = 0.0
        self.send(frames.hello())
        self.server.outgoing.take()

    def send(self, data: bytes) -> list[Event]:
        """What the server makes of it."""
        return self.server.receive(data, self.now)

    def call(self, stream_id: int) -> list[Event]:
        """Send a request of one message."""
        body = frames.frame(frames.DATA, frames.END_STREAM, stream_id, message(b"ask"))
        return self.send(frames.headers(stream_id) + body)

    def said(self) -> list[tuple[int, int, int, bytes]]:
        """The frames that have come since the last look."""
        return frames.split(self.server.outgoing.take())

    def leaves(self) -> bytes:
        """The server begins to leave; what its PING carries."""
        self.server.leave(self.now)
        goaway, ping = self.said()
        assert last_stream(goaway) == ALL_STREAMS
        assert (ping[0], ping[1]) == (frames.PING, 0)
        return ping[3]

    def answer(self, ping: bytes) -> list[Event]:
        """Send the answer to a PING."""
        return self.send(frames.frame(frames.PING, frames.ACK, 0, ping))


def last_stream(frame: tuple[int, int, int, bytes]) -> int:
    """What a GOAWAY without an error names."""
    kind, _, _, payload = frame
    assert (kind, payload[4:8]) == (frames.GOAWAY, b"\0\0\0\0")
    return int.from_bytes(payload[:4], "big")


@pytest.fixture
def client() -> Client:
    """A client of a connection that has just begun."""
    return Client(connection())


def test_a_call_that_crosses_the_first_word_is_served(client: Client) -> None:
    """Until the client has answered, its calls are taken; the last word names the
    last of them, and the connection ends when they have ended."""
    client.call(1)
    ping = client.leaves()
    assert isinstance(client.call(3)[0], Began)
    assert client.answer(ping) == []
    [goaway] = client.said()
    assert last_stream(goaway) == 3
    assert client.server.told
    for stream_id in (1, 3):
        assert client.server.tick(1.0) == []
        assert client.server.send(stream_id, b"answer")
        client.server.finish(stream_id, OK)
    assert [type(event) for event in client.server.tick(2.0)] == [Over]


def test_a_call_after_the_last_word_is_not_taken(client: Client) -> None:
    """The client knows that it was not, and asks elsewhere; those before it go on."""
    client.send(frames.headers(1) + frames.frame(frames.DATA, 0, 1, message(b"one")))
    client.answer(client.leaves())
    client.said()
    assert client.call(3) == []
    assert client.said() == []
    told = client.send(frames.frame(frames.DATA, frames.END_STREAM, 1, message(b"two")))
    assert Asked(1) in told
    assert client.server.send(1, b"answer")


def test_without_calls_the_answer_ends_it(client: Client) -> None:
    """There is nothing to wait for after the round trip."""
    ping = client.leaves()
    assert [type(event) for event in client.answer(ping)] == [Over]
    assert last_stream(client.said()[0]) == 0


def test_an_answer_is_not_waited_for_long(client: Client) -> None:
    """A client that does not answer has the last word in time all the same; one
    without calls is left then."""
    client.call(1)
    client.leaves()
    assert client.server.tick(ANSWER_SECONDS_MAX - 0.1) == []
    assert client.said() == []
    assert client.server.tick(ANSWER_SECONDS_MAX) == []
    assert last_stream(client.said()[0]) == 1
    idle = Client(connection())
    idle.leaves()
    assert idle.server.tick(ANSWER_SECONDS_MAX - 0.1) == []
    assert [type(event) for event in idle.server.tick(ANSWER_SECONDS_MAX)] == [Over]


def test_another_answer_is_none(client: Client) -> None:
    """Only the answer to the PING that came with the first word is taken for it;
    the first word is said once."""
    client.call(1)
    ping = client.leaves()
    client.answer(b"\0" * 8)
    client.server.leave(client.now)
    assert client.said() == []
    client.answer(ping)
    client.answer(ping)
    assert len(client.said()) == 1


def test_a_connection_leaves_at_its_age() -> None:
    """At its age it says the first word; the calls that run have a time of grace,
    and are ended after it."""
    limits = replace(LIMITS, age_seconds_max=100.0, age_grace_seconds=50.0, ping_seconds=1e6)
    client = Client(connection(limits))
    client.call(1)
    client.server.tick(99.0)
    assert client.said() == []
    client.server.tick(100.0)
    goaway, ping = client.said()
    assert last_stream(goaway) == ALL_STREAMS
    client.now = 100.1
    client.answer(ping[3])
    assert last_stream(client.said()[0]) == 1
    assert client.server.send(1, b"still")
    assert client.server.tick(149.0) == []
    assert [type(event) for event in client.server.tick(150.0)] == [Over]
