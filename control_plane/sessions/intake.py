"""What a node reports, made fit to be stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from control_plane.fleet import Steps
from voxplane.errors import Violation, VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as pb2

SECONDS_OF_YEAR_1 = -62_135_596_800
SECONDS_OF_YEAR_9999 = 253_402_300_799
DURATION_SECONDS_MAX = 315_576_000_000
NANOSECONDS_MAX = 999_999_999
WORK_OF_REPORT = 50
WORK_OF_TURN = 20
"""Look-ups that take as long as looking at one (control_plane/fleet/steps.py)."""
NAMED_MAX = 10
"""Violations that are named; a batch may have thousands."""

_SESSION_TIMES = ("start_time", "end_time")
_FIGURES = ("spoken_audio", "heard_audio")
_TURN_TIMES = ("start_time",)
_TURN_DELAYS = ("transcription_delay", "end_of_turn_delay", "first_token", "first_speech", "response")


def take_in(batch: pb2.SessionBatch, node_id: str) -> Steps[Sequence[pb2.SessionReport]]:
    """The reports of a valid batch, as reports of that node; the batch is
    changed. A session that has not ended is active. Raises VoxplaneError
    INVALID_REQUEST if a time is none, as no client could read it."""
    violations: list[Violation] = []
    for index, report in enumerate(batch.reports):
        yield WORK_OF_REPORT + WORK_OF_TURN * len(report.turns)
        if len(violations) < NAMED_MAX:
            violations += [
                Violation(f"batch.reports[{index}].{path}", "is out of range") for path in _bad_times(report)
            ]
        report.session.node_id = node_id
        if report.session.state != session_pb2.SESSION_STATE_ENDED:
            report.session.state = session_pb2.SESSION_STATE_ACTIVE
    if violations:
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_INVALID_REQUEST,
            f"the batch has times that are none; {violations[0].field} {violations[0].description}",
            violations=violations[:NAMED_MAX],
        )
    return batch.reports


def _bad_times(report: pb2.SessionReport) -> Iterator[str]:
    session = report.session
    yield from _bad(session, "session.", _SESSION_TIMES)
    yield from _bad(session.figures, "session.figures.", _FIGURES)
    for index, turn in enumerate(report.turns):
        where = f"turns[{index}]."
        yield from _bad(turn, where, _TURN_TIMES)
        yield from _bad(turn, where, _TURN_DELAYS)
        for at, error in enumerate(turn.errors):
            yield from _bad(error, f"{where}errors[{at}].", ("time",))


def _bad(
    owner: session_pb2.Session
    | session_pb2.SessionFigures
    | session_pb2.SessionTurn
    | session_pb2.SessionError,
    where: str,
    names: Sequence[str],
) -> Iterator[str]:
    for name in names:
        if owner.HasField(name) and not _is_valid(getattr(owner, name)):
            yield where + name


def _is_valid(value: Timestamp | Duration) -> bool:
    """Whether it is in the range of its type."""
    seconds, nanos = value.seconds, value.nanos
    if isinstance(value, Timestamp):
        return SECONDS_OF_YEAR_1 <= seconds <= SECONDS_OF_YEAR_9999 and 0 <= nanos <= NANOSECONDS_MAX
    same_sign = seconds == 0 or nanos == 0 or (seconds > 0) == (nanos > 0)
    return abs(seconds) <= DURATION_SECONDS_MAX and abs(nanos) <= NANOSECONDS_MAX and same_sign
