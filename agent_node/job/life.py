"""When a session has to end by itself: pure.

It ends at max_session_duration after its beginning, and at silence_timeout
after the caller was last heard or the agent last spoke, whichever is later.
While either speaks, or the agent works on a reply, nobody is silent. Limits
may change while the session runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from voxplane.v1 import session_pb2
from voxplane.v1.agent_config_pb2 import LimitsConfig


@dataclass(frozen=True, slots=True)
class Ending:
    """How a session is to end, for the record; without a goodbye if `now`."""

    outcome: session_pb2.SessionOutcome
    reason: str = ""
    now: bool = False


class Life:
    """One session's time. All times are in seconds of one monotonic clock."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._active_at = began
        self._user_speaks = False
        self._agent_works = False
        self._duration = math.inf
        self._silence = math.inf

    def limit(self, limits: LimitsConfig) -> None:
        """These limits hold from now on."""
        self._duration = self._silence = math.inf
        if limits.HasField("max_session_duration"):
            self._duration = limits.max_session_duration.ToNanoseconds() / 1e9
        if limits.HasField("silence_timeout"):
            self._silence = limits.silence_timeout.ToNanoseconds() / 1e9

    def user(self, now: float, *, speaks: bool) -> None:
        """The caller began or ceased to speak."""
        self._user_speaks, self._active_at = speaks, now

    def heard(self, now: float) -> None:
        """Words of the caller are known, who may still speak."""
        self._active_at = now

    def agent(self, now: float, *, works: bool) -> None:
        """The agent began or ceased to think or to speak."""
        self._agent_works, self._active_at = works, now

    def left(self, now: float) -> float:
        """Seconds until the session has to end, if nothing happens; infinite
        without a limit."""
        silence = math.inf
        if not (self._user_speaks or self._agent_works):
            silence = self._active_at + self._silence
        return max(0.0, min(self._began + self._duration, silence) - now)

    def ending(self, now: float) -> Ending | None:
        """How the session has to end now; None if it may go on."""
        if now >= self._began + self._duration:
            said = f"the session lasted {self._duration:g} s, as long as it may"
            return Ending(session_pb2.SESSION_OUTCOME_DURATION_LIMIT, said)
        if self.left(now) <= 0.0:
            said = f"the caller was silent for {self._silence:g} s"
            return Ending(session_pb2.SESSION_OUTCOME_SILENCE_LIMIT, said)
        return None
