"""What one watcher has still to be sent: of each session the newest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as pb2

SESSIONS_MAX = 10_000
"""That wait for one watcher; it is given up with the next."""
TURNS_MAX = 10_000
"""That wait for one watcher; from there on each session has its newest alone."""
TURNS_OF_SESSION_MAX = 100
"""What the contract lets a report have."""


@dataclass(slots=True)
class _Waiting:
    session: session_pb2.Session
    turns: Sequence[session_pb2.SessionTurn]


class Unsent:
    """Sessions in the order in which they have begun to wait."""

    def __init__(
        self,
        sessions_max: int = SESSIONS_MAX,
        turns_max: int = TURNS_MAX,
        turns_of_session_max: int = TURNS_OF_SESSION_MAX,
    ) -> None:
        self._sessions_max = sessions_max
        self._turns_max = turns_max
        self._turns_of_session_max = turns_of_session_max
        self._waiting: dict[str, _Waiting] = {}
        self._turns = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def turns(self) -> int:
        """Count of the turns that wait."""
        return self._turns

    def add(self, session: session_pb2.Session, turns: Sequence[session_pb2.SessionTurn]) -> bool:
        """A session has changed. False if too many wait; then it is not
        added."""
        waiting = self._waiting.get(session.session_id)
        if waiting is None:
            if len(self._waiting) >= self._sessions_max:
                return False
            waiting = self._waiting[session.session_id] = _Waiting(session, ())
        waiting.session = session
        if turns:
            room = self._turns + len(turns) <= self._turns_max
            kept = [*waiting.turns, *turns][-(self._turns_of_session_max if room else 1) :]
            self._turns += len(kept) - len(waiting.turns)
            waiting.turns = kept
        return True

    def seen(self, session: session_pb2.Session) -> None:
        """The watcher has been sent a session out of the table: what waits of
        it must not be older."""
        waiting = self._waiting.get(session.session_id)
        if waiting is not None and waiting.session.sequence < session.sequence:
            waiting.session = session

    def next(self) -> pb2.SessionReport | None:
        """Take out what is to be sent next."""
        if not self._waiting:
            return None
        waiting = self._waiting.pop(next(iter(self._waiting)))
        self._turns -= len(waiting.turns)
        return pb2.SessionReport(session=waiting.session, turns=waiting.turns)
