"""What a node reports of one bundle, out of staging and of every session.

Pure: `receive(event, now)` returns the status when it has changed. The rules:

- Nothing is said of a bundle before it is on disk.
- A bundle that staging refuses is FAILED, whatever sessions say: they are not
  given it.
- Otherwise it is FAILED as soon as one session that follows it has refused it,
  APPLIED when every such session runs it, and APPLYING in between.
- A session whose first bundle this is runs nothing older, so it holds nothing
  up. A session that has ended no longer counts.
- A session answers by etag: one that has the same bundle from before, under an
  earlier revision, has it.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf import timestamp_pb2
from google.rpc import status_pb2  # pyright: ignore[reportMissingTypeStubs]

from voxplane.v1 import config_sync_service_pb2 as sync_pb2

Phase = sync_pb2.ConfigPhase

_REFUSED = (sync_pb2.CONFIG_PHASE_FAILED, sync_pb2.CONFIG_PHASE_REVERTED)


@dataclass(frozen=True, slots=True)
class Arrived:
    """The agent has a new bundle."""

    etag: str
    revision: int


@dataclass(frozen=True, slots=True)
class Persisted:
    """The bundle is on disk."""

    etag: str


@dataclass(frozen=True, slots=True)
class Staged:
    """The bundle was checked; `error` says why it cannot be used."""

    etag: str
    error: status_pb2.Status | None = None


@dataclass(frozen=True, slots=True)
class Removed:
    """The agent has no bundle any more."""


@dataclass(frozen=True, slots=True)
class SessionBegan:
    """A session was given its first bundle."""

    session: int
    etag: str


@dataclass(frozen=True, slots=True)
class SessionReported:
    """A session says what became of a bundle."""

    session: int
    status: sync_pb2.BundleStatus


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A session is over, or follows the agent no longer."""

    session: int


Event = Arrived | Persisted | Staged | Removed | SessionBegan | SessionReported | SessionEnded


@dataclass(frozen=True, slots=True)
class _Session:
    etag: str
    phase: Phase
    error: status_pb2.Status | None = None


@dataclass(slots=True)
class _Bundle:
    etag: str = ""
    revision: int = 0
    persisted: bool = False
    staged: bool = False
    refusal: status_pb2.Status | None = None


class BundleTracker:
    """What is known of the newest bundle of one agent on this node."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bundle = _Bundle()
        self._sessions: dict[int, _Session] = {}
        self._told: sync_pb2.BundleStatus | None = None

    def receive(self, event: Event, now: float) -> sync_pb2.BundleStatus | None:
        """Take an event at a time in seconds since 1970."""
        bundle = self._bundle
        match event:
            case Arrived(etag, revision):
                self._bundle = _Bundle(etag, revision)
            case Removed():
                self._bundle, self._told = _Bundle(), None
            case Persisted(etag):
                bundle.persisted = bundle.persisted or etag == bundle.etag
            case Staged(etag, error):
                if etag == bundle.etag:
                    bundle.staged, bundle.refusal = True, error
            case SessionBegan(session, etag):
                self._sessions[session] = _Session(etag, sync_pb2.CONFIG_PHASE_APPLIED)
            case SessionReported(session, status):
                self._report(session, status)
            case SessionEnded(session):
                self._sessions.pop(session, None)
        return self._changed(now)

    def _report(self, session: int, status: sync_pb2.BundleStatus) -> None:
        if session in self._sessions:
            error = status.error if status.HasField("error") else None
            self._sessions[session] = _Session(status.etag, status.phase, error)

    def _verdict(self) -> tuple[Phase, status_pb2.Status | None]:
        if not self._bundle.staged:
            return sync_pb2.CONFIG_PHASE_RECEIVED, None
        if self._bundle.refusal is not None:
            return sync_pb2.CONFIG_PHASE_FAILED, self._bundle.refusal
        told = [session for session in self._sessions.values() if session.etag == self._bundle.etag]
        for phase in _REFUSED:
            for session in told:
                if session.phase == phase:
                    return phase, session.error
        if all(session.phase == sync_pb2.CONFIG_PHASE_APPLIED for session in told):
            if len(told) == len(self._sessions):
                return sync_pb2.CONFIG_PHASE_APPLIED, None
            if not told:
                return sync_pb2.CONFIG_PHASE_VALIDATED, None
        return sync_pb2.CONFIG_PHASE_APPLYING, None

    def _changed(self, now: float) -> sync_pb2.BundleStatus | None:
        if not self._bundle.persisted:
            return None
        phase, error = self._verdict()
        status = sync_pb2.BundleStatus(
            name=self._name,
            etag=self._bundle.etag,
            revision=self._bundle.revision,
            phase=phase,
            error=error,
            sessions=len(self._sessions),
        )
        if status == self._told:
            return None
        self._told = sync_pb2.BundleStatus()
        self._told.CopyFrom(status)
        status.time.CopyFrom(_timestamp(now))
        return status


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromNanoseconds(round(seconds * 1e9))
    return stamp
