"""Which way a node's streams take: the first address, or the edge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_node.upstream.routes import (
    MOVE_SECONDS_MAX,
    MOVE_SECONDS_MIN,
    NEVER,
    RETRY_SECONDS_MAX,
    RETRY_SECONDS_MIN,
    STEADY_SECONDS,
    Edge,
    Routes,
)
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

OFFER = sync_pb2.EdgeOffer(address=":50052")


def routes(server: str = "127.0.0.1:50051", *, tls: bool = False, jitter: float = 0.5) -> Routes:
    """Routes of a node that has just started."""
    return Routes(server, tls=tls, jitter=lambda: jitter)


def on_the_edge(made: Routes) -> Routes:
    """Routes of a node whose stream has just taken the edge."""
    made.begin()
    made.told(OFFER)
    made.in_step(0.0)
    made.ready()
    made.ended(0.0, planned=False)
    assert made.begin() == Edge("127.0.0.1:50052", tls=False)
    return made


def test_an_offer_is_taken_when_the_stream_is_in_step() -> None:
    """A node has its configs first; then it moves, at a random time."""
    made = routes()
    assert made.begin() is None
    made.told(OFFER)
    assert made.due == NEVER
    made.in_step(100.0)
    assert 100 + MOVE_SECONDS_MIN <= made.due <= 100 + MOVE_SECONDS_MAX
    made.ready()
    assert not made.ended(0.0, planned=False)
    assert made.begin() == Edge("127.0.0.1:50052", tls=False)


def test_without_an_offer_nothing_moves() -> None:
    """An older server offers nothing, and is served as ever."""
    made = routes()
    made.begin()
    made.told(None)
    made.in_step(1.0)
    assert made.due == NEVER
    made.ended(0.0, planned=False)
    assert made.begin() is None


def test_an_edge_that_leads_to_nothing_is_left() -> None:
    """A stream of the edge that was never in step is followed by one to the
    first address; one that was is followed by another of the edge."""
    made = on_the_edge(routes())
    made.in_step(1.0)
    assert not made.ended(1.0 + STEADY_SECONDS, planned=False)
    assert made.begin() is not None
    assert made.ended(100.0, planned=False)
    assert made.begin() is None


def test_an_edge_that_cuts_its_streams_is_left() -> None:
    """One that lets streams begin and breaks them all is tried ever more
    rarely; an end by plan is no failure, and one that stays makes up for all."""
    made = on_the_edge(routes())
    waits: list[float] = []
    for _ in range(3):
        made.in_step(0.0)
        assert made.ended(STEADY_SECONDS - 1, planned=False)
        assert made.begin() is None
        made.told(OFFER)
        made.in_step(0.0)
        waits.append(made.due)
        made.ready()
        made.ended(1.0, planned=True)
        assert made.begin() is not None
    assert waits[0] < waits[1] < waits[2]
    made.in_step(0.0)
    assert not made.ended(1.0, planned=True)
    assert made.begin() is not None
    made.in_step(0.0)
    assert not made.ended(STEADY_SECONDS, planned=False)
    made.begin()
    assert made.ended(0.0, planned=False)
    made.begin()
    made.told(OFFER)
    made.in_step(0.0)
    assert made.due == waits[0]


def test_an_edge_without_a_way_to_it_is_tried_later() -> None:
    """A node that cannot even make a channel is served at the first address,
    and that stream's end is not the edge's."""
    made = on_the_edge(routes())
    made.unreached()
    made.told(OFFER)
    made.in_step(0.0)
    assert RETRY_SECONDS_MIN / 2 <= made.due <= RETRY_SECONDS_MIN
    assert not made.ended(1.0, planned=False)
    assert made.begin() is None


@given(st.integers(1, 30), st.floats(0, 1))
def test_the_edge_is_tried_again_ever_more_rarely(failures: int, chance: float) -> None:
    """Waits double up to a bound, and are random by half."""
    made = on_the_edge(routes(jitter=chance))
    made.ended(0.0, planned=False)
    made.begin()
    made.told(OFFER)
    made.in_step(0.0)
    waits = [made.due]
    for _ in range(failures):
        made.not_ready(0.0)
        waits.append(made.due)
    bounds = [min(RETRY_SECONDS_MIN * 2**number, RETRY_SECONDS_MAX) for number in range(len(waits))]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))


def test_an_offer_that_does_not_come_any_more_is_withdrawn() -> None:
    """What counts is the newest word at the first address."""
    made = on_the_edge(routes())
    made.ended(0.0, planned=False)
    assert made.begin() is None
    made.told(None)
    made.in_step(5.0)
    assert (made.offer, made.due) == (None, NEVER)


def test_another_offer_is_tried_at_once() -> None:
    """The failures of an edge do not count for the one that takes its place."""
    made = on_the_edge(routes())
    made.ended(0.0, planned=False)
    made.begin()
    made.told(sync_pb2.EdgeOffer(address=":50062"))
    made.in_step(0.0)
    assert made.due <= MOVE_SECONDS_MAX


@pytest.mark.parametrize(
    ("server", "tls", "offer", "taken"),
    [
        ("127.0.0.1:50051", False, ("127.0.0.1:1", False), "127.0.0.1:1"),
        ("127.0.0.1:50051", False, ("unix:/run/edge.sock", False), "unix:/run/edge.sock"),
        ("unix:/run/grpc.sock", False, (":50052", False), "127.0.0.1:50052"),
        ("[::1]:50051", False, (":50052", False), "[::1]:50052"),
        ("control.example:50051", True, (":50052", True), "control.example:50052"),
        ("control.example:50051", True, ("edge.example:443", True), "edge.example:443"),
        ("control.example:50051", True, (":50052", False), None),
        ("control.example:50051", False, (":50052", False), None),
        ("127.0.0.1:50051", False, ("10.1.2.3:50052", False), None),
        ("127.0.0.1:50051", False, (":50052", True), None),
        ("127.0.0.1:50051", False, ("", False), None),
        ("127.0.0.1:50051", False, ("x" * 400 + ":1", False), None),
    ],
)
def test_only_what_is_as_safe_is_taken(
    server: str, tls: bool, offer: tuple[str, bool], taken: str | None
) -> None:
    """The host is the one that the node knows, unless another is named; TLS is
    never given up, and text goes to no other machine without it."""
    made = routes(server, tls=tls)
    made.begin()
    made.told(sync_pb2.EdgeOffer(address=offer[0], tls=offer[1]))
    assert (made.offer.address if made.offer else None) == taken
