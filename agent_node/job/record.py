"""What a job knows of its session, as the control plane is told: pure."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf import timestamp_pb2

from agent_node.job.targets import Target
from voxplane.clock import Clock
from voxplane.names import LIVE, split_agent_name
from voxplane.node.v1.relay_service_pb2 import CallerContext
from voxplane.v1 import session_pb2

END_REASON_CHARS_MAX = 500
SCORES_MAX = 50

Tell = Callable[..., None]
"""Takes the session, and turns that have ended."""


class SessionRecord:
    """The record of one session; each change of it is told, with a sequence
    that rises also over processes that take one another's place."""

    def __init__(
        self,
        caller: CallerContext,
        kind: session_pb2.SessionKind,
        *,
        tell: Tell,
        clock: Clock,
        node_id: str = "",
        room: str = "",
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._turns = 0
        self._session = session_pb2.Session(
            tenant_id=caller.tenant_id,
            session_id=caller.session_id,
            agent_id=caller.agent_id,
            node_id=node_id,
            user_id=caller.user_id,
            kind=kind,
            room=room,
            state=session_pb2.SESSION_STATE_ACTIVE,
            start_time=_stamp(clock.time()),
            alias=caller.alias or LIVE,
        )

    def inherit(self, session: session_pb2.Session) -> None:
        """Go on with the record of a process that died."""
        node_id = self._session.node_id
        self._session.CopyFrom(session)
        self._session.node_id = node_id or session.node_id
        self._session.state = session_pb2.SESSION_STATE_ACTIVE
        self._session.replacements += 1

    @property
    def turns(self) -> int:
        """Turns that this process has told."""
        return self._turns

    @property
    def session(self) -> session_pb2.Session:
        """The session as it was last told."""
        return self._session

    @property
    def ended(self) -> bool:
        """Whether its end was told."""
        return self._session.state == session_pb2.SESSION_STATE_ENDED

    def runs(self, target: Target) -> None:
        """The target makes the next turn."""
        session = self._session
        agent_id = split_agent_name(target.bundle.name)[1]
        if agent_id != session.agent_id:
            session.agent_id, session.alias, session.pinned_version = agent_id, LIVE, 0
        session.version, session.version_label = target.version, target.config.version
        session.revision = target.bundle.revision
        self._told()

    def swapped(self, target: Target) -> None:
        """The target has taken another's place."""
        self._session.figures.swaps += 1
        self.runs(target)

    def pinned(self, version: int) -> None:
        """The session stays with a version, or, by 0, follows its alias."""
        self._session.pinned_version = version
        self._told()

    def traced(self, traced: bool) -> None:
        """The session is traced, or not any more."""
        if traced != self._session.traced:
            self._session.traced = traced
            self._told()

    def scored(self, name: str, value: float) -> None:
        """The session was given a score. Raises ValueError if there are
        SCORES_MAX of other names."""
        if name not in self._session.scores and len(self._session.scores) >= SCORES_MAX:
            raise ValueError(f"a session has at most {SCORES_MAX} scores")
        self._session.scores[name] = value
        self._told()

    def turn(self, turn: session_pb2.SessionTurn, figures: session_pb2.SessionFigures) -> None:
        """A turn has ended; `figures` are the sums so far, but for swaps."""
        swaps = self._session.figures.swaps
        self._turns += 1
        self._session.figures.CopyFrom(figures)
        self._session.figures.swaps = swaps
        self._told(turn)

    def end(self, outcome: session_pb2.SessionOutcome, reason: str) -> None:
        """The session is over; only the first end counts."""
        if self.ended:
            return
        session = self._session
        session.state, session.outcome = session_pb2.SESSION_STATE_ENDED, outcome
        session.end_reason = reason[:END_REASON_CHARS_MAX]
        session.end_time.CopyFrom(_stamp(self._clock.time()))
        self._told()

    def _told(self, *turns: session_pb2.SessionTurn) -> None:
        self._session.sequence += 1
        told = session_pb2.Session()
        told.CopyFrom(self._session)
        self._tell(told, *turns)


def _stamp(seconds: float) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromNanoseconds(round(seconds * 1e9))
    return stamp
