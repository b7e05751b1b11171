"""What the node has still to tell the server."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent_node.upstream.reports import OUTSTANDING_NONCES_MAX, ReportState
from voxplane.names import TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

ACME, BETA = TenantId("acme"), TenantId("beta")


def status(name: str, phase: sync_pb2.ConfigPhase) -> sync_pb2.BundleStatus:
    """A status of a bundle."""
    return sync_pb2.BundleStatus(name=name, etag="e", revision=1, phase=phase)


def opened() -> ReportState:
    """A state with a stream."""
    state = ReportState()
    state.opened("s1")
    return state


def test_without_a_change_there_is_no_report() -> None:
    """Each change is told once."""
    state = opened()
    assert state.next() is None
    state.status(status("a", sync_pb2.CONFIG_PHASE_APPLIED))
    report = state.next()
    assert report is not None
    assert [s.name for s in report.statuses] == ["a"]
    assert state.next() is None


def test_only_the_newest_status_is_told() -> None:
    """Phases that pass while a report is under way are skipped."""
    state = opened()
    for phase in (
        sync_pb2.CONFIG_PHASE_RECEIVED,
        sync_pb2.CONFIG_PHASE_VALIDATED,
        sync_pb2.CONFIG_PHASE_APPLIED,
    ):
        state.status(status("a", phase))
    report = state.next()
    assert report is not None
    assert [s.phase for s in report.statuses] == [sync_pb2.CONFIG_PHASE_APPLIED]


def test_a_new_stream_is_told_everything() -> None:
    """After a reconnect all statuses are told again, in full."""
    state = opened()
    state.status(status("a", sync_pb2.CONFIG_PHASE_APPLIED))
    state.status(status("b", sync_pb2.CONFIG_PHASE_FAILED))
    state.next()
    state.closed()
    assert state.next() is None
    state.opened("s2")
    report = state.next()
    assert report is not None
    assert report.stream_id == "s2"
    assert {s.name for s in report.statuses} == {"a", "b"}


def test_a_removed_bundle_is_told_no_more() -> None:
    """Nothing is said of a bundle that is gone."""
    state = opened()
    state.status(status("a", sync_pb2.CONFIG_PHASE_APPLIED))
    state.removed("a")
    assert state.next() is None


def test_a_nonce_waits_for_the_disk() -> None:
    """A nonce is acknowledged when its snapshot, and all before it, are on disk."""
    state = opened()
    state.delivered("1", ACME, 1)
    state.delivered("2", BETA, 2)
    state.persisted(BETA, 2)
    assert state.next() is None
    state.persisted(ACME, 1)
    report = state.next()
    assert report is not None
    assert report.nonce == "2"


def sequence(state: ReportState) -> int:
    """The number of the next report, which has one status."""
    state.status(status("a", sync_pb2.CONFIG_PHASE_APPLIED))
    report = state.next()
    assert report is not None
    return report.sequence


def test_reports_are_numbered_without_a_gap() -> None:
    """From 1 on each stream; what has nothing to tell takes no number, what is told again takes the next."""
    state = opened()
    assert [sequence(state), sequence(state)] == [1, 2]
    assert state.next() is None
    state.tell_all()
    assert sequence(state) == 3
    state.closed()
    state.opened("s2")
    assert sequence(state) == 1


def test_a_report_that_is_asked_for_again_tells_all() -> None:
    """After a gap all statuses go out, with the nonce."""
    state = opened()
    for name in ("a", "b"):
        state.status(status(name, sync_pb2.CONFIG_PHASE_APPLIED))
    state.delivered("4", ACME, 0)
    state.next()
    state.tell_all()
    report = state.next()
    assert report is not None
    assert {s.name for s in report.statuses} == {"a", "b"}
    assert report.nonce == "4"


@given(order=st.permutations(range(1, 9)), skipped=st.sets(st.integers(1, 7)))
def test_acknowledged_nonces_are_on_disk(order: list[int], skipped: set[int]) -> None:
    """In whatever order tenants are written, an acknowledged nonce covers only what is on disk."""
    state = opened()
    tenants = {n: TenantId(f"t{n % 3}") for n in range(1, 9)}
    for n in range(1, 9):
        state.delivered(str(n), tenants[n], n)
    on_disk: dict[str, int] = {}
    for n in order:
        if n in skipped:
            continue
        on_disk[tenants[n]] = max(n, on_disk.get(tenants[n], 0))
        state.persisted(tenants[n], n)
        report = state.next()
        if report is not None:
            acked = int(report.nonce)
            assert all(on_disk.get(tenants[m], 0) >= m for m in range(1, acked + 1))


def test_outstanding_nonces_are_bounded() -> None:
    """A disk that does not write costs a bounded memory, and no false acknowledgement."""
    state = opened()
    for n in range(1, OUTSTANDING_NONCES_MAX + 50):
        state.delivered(str(n), ACME if n % 2 else BETA, n)
    state.persisted(BETA, OUTSTANDING_NONCES_MAX + 49)
    report = state.next()
    assert report is None
    state.persisted(ACME, OUTSTANDING_NONCES_MAX + 49)
    report = state.next()
    assert report is not None
    assert report.nonce == str(OUTSTANDING_NONCES_MAX + 49)
