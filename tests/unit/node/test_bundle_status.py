"""One status per bundle, out of staging and sessions."""

from __future__ import annotations

from dataclasses import dataclass, field

from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from agent_node.relay.status import (
    Arrived,
    BundleTracker,
    Event,
    Persisted,
    Removed,
    SessionBegan,
    SessionEnded,
    SessionReported,
    Staged,
)
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

RECEIVED, VALIDATED = sync_pb2.CONFIG_PHASE_RECEIVED, sync_pb2.CONFIG_PHASE_VALIDATED
APPLYING, APPLIED = sync_pb2.CONFIG_PHASE_APPLYING, sync_pb2.CONFIG_PHASE_APPLIED
FAILED, REVERTED = sync_pb2.CONFIG_PHASE_FAILED, sync_pb2.CONFIG_PHASE_REVERTED
WRONG = status_pb2.Status(code=9, message="unknown provider")


def said(session: int, etag: str, phase: sync_pb2.ConfigPhase) -> SessionReported:
    """A session's report."""
    error = WRONG if phase in (FAILED, REVERTED) else None
    return SessionReported(session, sync_pb2.BundleStatus(name="n", etag=etag, phase=phase, error=error))


def phases(*events: Event) -> list[int]:
    """The phases that are told along the events."""
    tracker = BundleTracker("n")
    told = [tracker.receive(event, float(now)) for now, event in enumerate(events)]
    return [status.phase for status in told if status is not None]


def test_without_sessions_staging_is_enough() -> None:
    """A bundle that passed staging is applied where nobody runs it."""
    assert phases(Arrived("a", 1), Persisted("a"), Staged("a")) == [RECEIVED, APPLIED]


def test_nothing_is_said_before_the_disk() -> None:
    """No phase is claimed before the bundle is on disk."""
    assert phases(Arrived("a", 1), Staged("a")) == []
    assert phases(Arrived("a", 1), Staged("a"), Persisted("a")) == [APPLIED]


def test_all_sessions_have_to_run_it() -> None:
    """Applied is said when the last session runs it."""
    assert phases(
        Arrived("a", 1),
        Persisted("a"),
        Staged("a"),
        SessionBegan(1, "a"),
        SessionBegan(2, "a"),
        Arrived("b", 2),
        Persisted("b"),
        Staged("b"),
        said(1, "b", APPLYING),
        said(1, "b", APPLIED),
        said(2, "b", APPLIED),
    ) == [RECEIVED, APPLIED, APPLIED, APPLIED, RECEIVED, VALIDATED, APPLYING, APPLIED]


def test_one_refusal_fails_the_bundle_until_the_session_ends() -> None:
    """A session that refuses fails the bundle; once it is over the others decide."""
    events = [Arrived("a", 1), SessionBegan(1, "a"), Arrived("b", 2), Persisted("b"), Staged("b")]
    assert phases(*events, said(1, "b", FAILED), SessionEnded(1)) == [RECEIVED, VALIDATED, FAILED, APPLIED]


def test_a_rollback_to_what_a_session_runs_is_applied() -> None:
    """A session that has the same bundle under an earlier revision has it."""
    assert (
        phases(
            Arrived("a", 1),
            Staged("a"),
            SessionBegan(1, "a"),
            Arrived("b", 2),
            Persisted("b"),
            Staged("b", WRONG),
            Arrived("a", 3),
            Persisted("a"),
            Staged("a"),
        )[-1]
        == APPLIED
    )


def test_the_error_names_the_refusal() -> None:
    """A failed bundle's status carries why."""
    tracker = BundleTracker("n")
    tracker.receive(Arrived("a", 7), 1.0)
    tracker.receive(Persisted("a"), 1.0)
    status = tracker.receive(Staged("a", WRONG), 2.0)
    assert status is not None
    assert (status.phase, status.error, status.revision, status.time.seconds) == (FAILED, WRONG, 7, 2)


def test_an_agent_that_comes_back_is_told_anew() -> None:
    """After a removal the same bundle is reported again."""
    arrive = (Arrived("a", 1), Persisted("a"), Staged("a"))
    assert phases(*arrive, Removed(), *arrive) == [RECEIVED, APPLIED, RECEIVED, APPLIED]


@dataclass
class Model:
    """The rules again, as plainly as can be: everything ever said is kept."""

    etag: str = ""
    persisted: bool = False
    staged: bool | None = None
    sessions: dict[int, tuple[str, int]] = field(default_factory=dict[int, tuple[str, int]])

    def take(self, event: Event) -> None:
        """Note what happened."""
        match event:
            case Arrived(etag, _):
                self.etag, self.persisted, self.staged = etag, False, None
            case Removed():
                self.etag, self.persisted, self.staged = "", False, None
            case Persisted(etag):
                self.persisted |= etag == self.etag
            case Staged(etag, error):
                self.staged = error is None if etag == self.etag else self.staged
            case SessionBegan(session, etag):
                self.sessions[session] = (etag, APPLIED)
            case SessionReported(session, status):
                if session in self.sessions:
                    self.sessions[session] = (status.etag, status.phase)
            case SessionEnded(session):
                self.sessions.pop(session, None)

    def phase(self) -> int | None:
        """What should have been told last."""
        if not self.persisted:
            return None
        if self.staged is None:
            return RECEIVED
        if not self.staged:
            return FAILED
        here = [phase for etag, phase in self.sessions.values() if etag == self.etag]
        if FAILED in here:
            return FAILED
        if REVERTED in here:
            return REVERTED
        if len(here) == len(self.sessions) and set(here) <= {APPLIED}:
            return APPLIED
        return APPLYING if here and set(here) != set() else VALIDATED


ETAGS = st.sampled_from("ab")
SESSIONS = st.integers(1, 3)
EVENTS = st.one_of(
    st.builds(Arrived, ETAGS, st.integers(1, 3)),
    st.builds(Persisted, ETAGS),
    st.builds(Staged, ETAGS, st.sampled_from([None, None, WRONG])),
    st.builds(Removed),
    st.builds(SessionBegan, SESSIONS, ETAGS),
    st.builds(said, SESSIONS, ETAGS, st.sampled_from([VALIDATED, APPLYING, APPLIED, FAILED, REVERTED])),
    st.builds(SessionEnded, SESSIONS),
)


@given(events=st.lists(EVENTS, max_size=40))
def test_the_newest_status_is_what_the_rules_say(events: list[Event]) -> None:
    """Whatever happens in whatever order, the last status that was told is the true one,
    and no status is told twice."""
    tracker, model = BundleTracker("n"), Model()
    told: sync_pb2.BundleStatus | None = None
    for now, event in enumerate(events):
        status = tracker.receive(event, float(now))
        model.take(event)
        if isinstance(event, Removed):
            told = None
        if status is not None:
            status.ClearField("time")
            assert status != told
            told = status
        expected = model.phase()
        if expected is None:
            assert status is None
        else:
            assert told is not None
            assert (told.phase, told.etag, told.sessions) == (expected, model.etag, len(model.sessions))
            assert told.HasField("error") == (expected in (FAILED, REVERTED))
