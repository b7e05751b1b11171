"""What a session asks of its node."""

from __future__ import annotations

from typing import Protocol

from voxplane.v1 import session_pb2
from voxplane.v1.config_sync_service_pb2 import BundleStatus
from voxplane.v1.session_service_pb2 import SessionCommandResult


class NodeLink(Protocol):
    """The way to the node. Nothing of it waits; relay_client.Attachment is the
    real one."""

    def report(self, status: BundleStatus) -> None:
        """What became of a bundle."""
        ...

    def tell(self, session: session_pb2.Session, *turns: session_pb2.SessionTurn) -> None:
        """The session as it is now, and turns that have ended."""
        ...

    def answer(self, result: SessionCommandResult) -> None:
        """What became of a command."""
        ...

    def remember(self, turns: int, *items: bytes) -> None:
        """What a process that takes this one's place has to know: the number
        of turns so far, and what is new of the conversation."""
        ...

    def follow(self, agent_id: str) -> None:
        """Get the bundles of another agent of the tenant from now on."""
        ...

    def count(self, *, swap: str = "", error: str = "", pss_bytes: int = 0) -> None:
        """One more swap or error of a kind, or the process' memory."""
        ...
