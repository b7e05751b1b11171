"""The sessions that nodes report, and what is done to those that run."""

from control_plane.sessions.retention import Retention
from control_plane.sessions.sessions import Sessions, SessionSettings

__all__ = ["Retention", "SessionSettings", "Sessions"]
