"""What the tools of a session are given: its userdata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from voxplane.node.v1.relay_service_pb2 import CallerContext


class SessionControl(Protocol):
    """What a tool may do with its session. Nothing of it waits."""

    def end(self, *, now: bool, reason: str) -> None:
        """End the session, after a goodbye unless it is to be at once."""
        ...

    def transfer(self, agent_id: str) -> None:
        """Hand the session on to another agent of the tenant, with the
        history, when the reply in flight is over. Raises VoxplaneError if
        that agent has it."""
        ...

    def score(self, name: str, value: float) -> None:
        """Give the session a score. Raises ValueError if it has too many."""
        ...


@dataclass(slots=True)
class SessionData:
    """One session's own state; no two sessions share any of it.

    `reply` holds the fields of the last complete reply as the model that the
    schema makes; None before the first, and without a schema.
    """

    caller: CallerContext
    control: SessionControl
    reply: BaseModel | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the last complete reply by name."""
        return self.reply.model_dump() if self.reply is not None else {}
