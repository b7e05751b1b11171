"""A stream that the server asks to leave, and the waits between streams."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_node.upstream import WatchProtocol
from agent_node.upstream.events import (
    Action,
    Apply,
    BackOff,
    Begin,
    Close,
    Ended,
    Received,
    Subscribe,
    TellAll,
    Tick,
)
from agent_node.upstream.freshness import MOVE_GRACE_SECONDS
from agent_node.upstream.protocol import HEARTBEAT_SECONDS_DEFAULT, SILENT_INTERVALS
from agent_node.upstream.waits import (
    BACK_OFF_SECONDS_MAX,
    REPLACED_FORGOTTEN_SECONDS,
    REPLACED_SECONDS_MAX,
    REPLACED_SECONDS_MIN,
    RETRY_AFTER_SECONDS_MAX,
    Waits,
)
from tests.unit.node.test_upstream_protocol import NODE, Server, begun, heartbeat, kinds, message, texts_of
from voxplane.names import TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

ACME = TenantId("acme")


def drain(
    seconds: float, reason: sync_pb2.DrainReason = sync_pb2.DRAIN_REASON_SHUTDOWN
) -> sync_pb2.WatchConfigResponse:
    """The server asks to move."""
    asked = sync_pb2.WatchConfigResponse(stream_id="s1", nonce="5")
    asked.drain.reason = reason
    asked.drain.reconnect_after.FromMilliseconds(round(seconds * 1000))
    return asked


def in_step(at: float = 1.0) -> tuple[WatchProtocol, Server]:
    """A node that is level with a server at revision 1."""
    server = Server(history=[{}, {"a": "x"}])
    protocol = begun()
    (full,) = server.transfer(1, {}, set(), full=True)
    protocol.receive(Received(message(full), at))
    return protocol, server


def back_off(actions: list[Action]) -> BackOff:
    """The one action, a wait."""
    (action,) = actions
    assert isinstance(action, BackOff)
    return action


def resumed(protocol: WatchProtocol, server: Server, begin: float, synced: float) -> None:
    """The next stream is opened, and brings the node level."""
    (subscribe,) = protocol.receive(Begin(begin))
    assert isinstance(subscribe, Subscribe)
    transfer = sync_pb2.ConfigTransfer(tenant_id="acme")
    (full,) = server.transfer(server.head, {}, set(), full=True)
    transfer.revision.CopyFrom(full.revision)
    transfer.start.intent = sync_pb2.TRANSFER_INTENT_NONE
    transfer.synced.CopyFrom(full.synced)
    again = message(transfer)
    again.stream_id = "s2"
    assert Apply in kinds(protocol.receive(Received(again, synced)))


def test_changes_are_taken_until_it_is_time_to_move() -> None:
    """A drained stream goes on until its reconnect_after, and the next one is opened then, at once."""
    protocol, server = in_step()
    assert protocol.receive(Received(drain(5.0), 10.0)) == []
    assert protocol.due == 15.0
    server.history.append({"a": "y"})
    (change,) = server.transfer(2, {}, {"hash of x"}, full=False, from_revision=1)
    assert Apply in kinds(protocol.receive(Received(message(change, 6), 14.0)))
    assert texts_of(protocol.snapshots[ACME]) == {"a": "y"}
    assert protocol.receive(Tick(14.9)) == []
    (close,) = protocol.receive(Tick(15.0))
    assert isinstance(close, Close)
    assert protocol.receive(Ended(close.reason, 15.1)) == [BackOff(0.0, planned=True)]


def test_a_planned_move_is_not_stale_if_it_ends_soon() -> None:
    """Between the streams of a move the node is not stale; if none brings it level in time, it is,
    since its last word."""
    protocol, server = in_step()
    protocol.receive(Received(drain(0.0), 10.0))
    protocol.receive(Tick(10.0))
    protocol.receive(Ended("moved", 10.0))
    assert protocol.stale(12.0) is None
    assert protocol.freshness.age(ACME, 12.0) == 0.0
    resumed(protocol, server, 12.0, 13.0)
    assert protocol.stale(13.0) is None

    late, _ = in_step()
    late.receive(Received(drain(0.0), 10.0))
    late.receive(Tick(10.0))
    late.receive(Ended("moved", 10.0))
    late.receive(Begin(10.0))
    late.receive(Ended("UNAVAILABLE: SHUTTING_DOWN", 11.0))
    assert late.stale(10.0 + MOVE_GRACE_SECONDS - 0.1) is None
    stale = late.stale(10.0 + MOVE_GRACE_SECONDS)
    assert stale is not None
    assert stale.since == 10.0
    assert "SHUTTING_DOWN" in stale.reason


def test_the_grace_of_a_move_ends_with_it() -> None:
    """Once the next stream is level, its own loss is stale at once."""
    protocol, server = in_step()
    protocol.receive(Received(drain(0.0), 10.0))
    protocol.receive(Ended("moved", 10.0))
    resumed(protocol, server, 10.0, 11.0)
    protocol.receive(Ended("reset", 12.0))
    assert protocol.stale(12.0) is not None


def test_a_move_does_not_make_waits_grow() -> None:
    """Move after move, the first wait after a failure is the shortest."""
    protocol, server = in_step()
    for step in range(1, 6):
        now = 100.0 * step
        again = drain(0.0)
        again.stream_id = protocol.stream_id
        protocol.receive(Received(again, now))
        protocol.receive(Tick(now))
        assert back_off(protocol.receive(Ended("moved", now))).planned
        resumed(protocol, server, now, now)
    assert protocol.receive(Ended("reset", 1000.0)) == [BackOff(0.25)]


def test_a_server_that_ends_before_its_word_is_waited_for() -> None:
    """If the server ends the stream early the rest of reconnect_after is waited, and what it asks for."""
    protocol, _ = in_step()
    protocol.receive(Received(drain(8.0), 10.0))
    assert protocol.receive(Ended("SHUTTING_DOWN", 12.0)) == [BackOff(6.0, planned=True)]
    other, _ = in_step()
    other.receive(Received(drain(8.0), 10.0))
    assert other.receive(Ended("SHUTTING_DOWN", 12.0, retry_after=20.0)) == [BackOff(20.0, planned=True)]


def test_the_earliest_drain_counts() -> None:
    """A second drain cannot put off the first."""
    protocol, _ = in_step()
    protocol.receive(Received(drain(5.0), 10.0))
    protocol.receive(Received(drain(50.0), 11.0))
    assert protocol.due == 15.0
    protocol.receive(Received(drain(0.0), 12.0))
    assert protocol.due == 12.0


def test_a_server_that_only_drains_is_backed_off_from() -> None:
    """Streams that are drained as soon as they are synced, or before, wait like failed ones."""
    protocol, server = in_step(at=0.0)
    protocol.receive(Received(drain(0.0), 0.1))
    assert protocol.receive(Ended("moved", 0.1)) == [BackOff(0.25)]
    waits: list[float] = []
    for step in range(1, 4):
        protocol.receive(Begin(10.0 * step))
        protocol.receive(Received(drain(0.0), 10.0 * step + 5))
        protocol.receive(Tick(10.0 * step + 5))
        wait = back_off(protocol.receive(Ended("moved", 10.0 * step + 5)))
        assert not wait.planned
        waits.append(wait.seconds)
    assert waits == [0.5, 1.0, 2.0]
    assert server.head == 1


def test_a_fault_on_a_draining_stream_is_a_fault() -> None:
    """A torn transfer on a drained stream is stale at once, and backs off."""
    protocol, server = in_step()
    protocol.receive(Received(drain(50.0), 10.0))
    server.history.append({"a": "y"})
    (change,) = server.transfer(2, {}, {"hash of x"}, full=False, from_revision=1)
    change.synced.digest = "0" * 64
    (close,) = protocol.receive(Received(message(change, 6), 11.0))
    assert isinstance(close, Close)
    assert protocol.stale(11.0) is not None
    assert protocol.receive(Ended(close.reason, 11.0)) == [BackOff(0.25)]


def test_a_fault_within_the_grace_ends_it() -> None:
    """If the stream after a move brings what cannot be used, or another node takes over, the node is
    stale at once."""
    protocol, _ = in_step()
    protocol.receive(Received(drain(0.0), 10.0))
    protocol.receive(Ended("moved", 10.0))
    protocol.receive(Begin(10.0))
    headless = sync_pb2.WatchConfigResponse(stream_id="s2", nonce="1")
    headless.transfer.tenant_id = "acme"
    protocol.receive(Received(headless, 11.0))
    assert protocol.stale(11.0) is not None
    other, _ = in_step()
    other.receive(Received(drain(0.0), 10.0))
    other.receive(Ended("moved", 10.0))
    other.receive(Begin(10.0))
    other.receive(Ended("ABORTED: two", 11.0, replaced=True))
    assert other.stale(11.0) is not None


def test_one_good_tenant_does_not_reset_the_wait_for_a_bad_one() -> None:
    """While some tenant's transfers are torn, SYNCED of another is no reason to ask faster."""
    protocol = begun()
    waits: list[float] = []
    for step in range(4):
        for tenant in ("acme", "beta"):
            (full,) = Server(tenant, history=[{}, {"a": "x"}]).transfer(1, {}, set(), full=True)
            if tenant == "beta":
                full.synced.digest = "0" * 64
            again = message(full)
            again.stream_id = f"s{step}"
            protocol.receive(Received(again, 10.0 * step))
        waits.append(back_off(protocol.receive(Ended("closed", 10.0 * step))).seconds)
        protocol.receive(Begin(10.0 * step + 1))
    assert waits == [0.25, 0.5, 1.0, 2.0]


def test_absurd_drains_are_bounded() -> None:
    """A drain in the past is now, and one in a thousand years does not break anything."""
    protocol, _ = in_step()
    asked = drain(0.0)
    asked.drain.reconnect_after.seconds = -(2**62)
    protocol.receive(Received(asked, 10.0))
    assert protocol.due == 10.0
    other, _ = in_step()
    asked.drain.reconnect_after.seconds = 2**62
    other.receive(Received(asked, 10.0))
    assert other.due == other.silence_ends


def test_a_heartbeat_alone_does_not_reset_the_wait() -> None:
    """A stream that brings heartbeats and no SYNCED is a failed one."""
    protocol = begun()
    waits: list[float] = []
    for step in range(4):
        protocol.receive(Received(heartbeat(10), 10.0 * step))
        waits.append(back_off(protocol.receive(Ended("down", 10.0 * step + 1))).seconds)
        protocol.receive(Begin(10.0 * step + 2))
    assert waits == [0.25, 0.5, 1.0, 2.0]


@given(jitter=st.floats(0, 1), failures=st.integers(0, 60))
def test_the_longest_wait_is_below_the_graces(jitter: float, failures: int) -> None:
    """No own wait reaches the grace of a move, or the silence after which a stream is given up."""
    waits = Waits(lambda: jitter)
    longest = max(waits.failed(None) for _ in range(failures + 1))
    assert longest <= BACK_OFF_SECONDS_MAX < MOVE_GRACE_SECONDS
    assert longest < SILENT_INTERVALS * HEARTBEAT_SECONDS_DEFAULT


@pytest.mark.parametrize("asked", [-5.0, 1e300, float("inf")])
def test_what_the_server_asks_for_is_bounded(asked: float) -> None:
    """A delay below nothing is nothing, one without end has one."""
    assert 0.0 <= Waits(lambda: 0.0).failed(asked) <= RETRY_AFTER_SECONDS_MAX


def test_a_node_of_a_taken_id_waits_long() -> None:
    """A node whose stream another of its id took over waits minutes, longer each time, also if its
    streams were in step in between; and says so."""
    protocol, server = in_step()
    waits: list[float] = []
    for step in range(7):
        now = 1000.0 * step + 10
        waits.append(back_off(protocol.receive(Ended("ABORTED: two", now, replaced=True))).seconds)
        stale = protocol.stale(now)
        assert stale is not None
        assert "another node has the id n1" in stale.reason
        assert protocol.replaced == step + 1
        resumed(protocol, server, now + 900, now + 901)
    assert waits[0] >= REPLACED_SECONDS_MIN
    assert waits == sorted(waits)
    assert waits[-1] == REPLACED_SECONDS_MAX
    calm = 7000.0 + REPLACED_FORGOTTEN_SECONDS
    assert back_off(protocol.receive(Ended("ABORTED: two", calm, replaced=True))).seconds == waits[0]


@given(jitter=st.floats(0, 1))
def test_two_nodes_of_one_id_do_not_come_back_at_once(jitter: float) -> None:
    """Whatever the jitter, half of the wait is waited."""
    assert Waits(lambda: jitter).taken_over(0.0) >= REPLACED_SECONDS_MIN / 2


def test_a_report_request_tells_everything_again() -> None:
    """A server that lacks a report is told all statuses."""
    protocol, _ = in_step()
    asked = sync_pb2.WatchConfigResponse(stream_id="s1", nonce="4")
    asked.report_request.missing_sequence = 3
    assert protocol.receive(Received(asked, 2.0)) == [TellAll()]


def test_staleness_is_by_the_monotonic_clock() -> None:
    """Nothing the protocol is told of is a time of the wall."""
    protocol = WatchProtocol(node=NODE, jitter=lambda: 1.0, now=5.0)
    stale = protocol.stale(65.0)
    assert stale is not None
    assert 65.0 - stale.since == 60.0
    for step in range(3):
        protocol.receive(Begin(70.0 + step))
        protocol.receive(Ended("refused", 70.5 + step))
    stale = protocol.stale(80.0)
    assert stale is not None
    assert stale.since == 5.0
