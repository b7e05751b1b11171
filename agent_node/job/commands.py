"""What the control plane asks of a session that runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog
from google.rpc import code_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs]

from voxplane.errors import VoxplaneError, to_status
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1.bundle_pb2 import VersionContent
from voxplane.v1.session_service_pb2 import SessionCommand, SessionCommandResult

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Commanded(Protocol):
    """A session that obeys. Its methods must not wait, and raise VoxplaneError
    if what is asked cannot be."""

    def end(self, *, now: bool, reason: str) -> None:
        """End, after a goodbye unless it is to be at once."""
        ...

    def pin(self, version: int | None, content: VersionContent | None) -> None:
        """Stay with a version, or follow the alias again."""
        ...

    def trace(self, traced: bool) -> None:
        """Be traced from the next turn on, or not any more."""
        ...


class Commands:
    """Carries commands out, and answers each. The answer says that the session
    has taken it; what becomes of a version that is pinned is reported as of
    any other."""

    def __init__(self, session: Commanded, answer: Callable[[SessionCommandResult], None]) -> None:
        self._session = session
        self._answer = answer

    def receive(self, command: SessionCommand) -> None:
        """Carry a command out. Never raises."""
        status = status_pb2.Status(code=code_pb2.OK)
        action = command.WhichOneof("action") or ""
        try:
            self._carry_out(command, action)
        except VoxplaneError as error:
            status = to_status(error)
        except Exception as error:
            _log.error("a command broke", action=action, error=type(error).__name__)
            status = to_status(
                VoxplaneError(
                    reason_pb2.ERROR_REASON_INTERNAL, f"the session failed with {type(error).__name__}"
                )
            )
        _log.info("command", action=action, code=status.code)
        self._answer(SessionCommandResult(command_id=command.command_id, status=status))

    def _carry_out(self, command: SessionCommand, action: str) -> None:
        match action:
            case "end":
                self._session.end(now=command.end.now, reason=command.end.reason)
            case "pin_version":
                content = command.pinned_content if command.HasField("pinned_content") else None
                self._session.pin(command.pin_version or None, content)
            case "trace":
                self._session.trace(command.trace)
            case _:
                raise VoxplaneError(
                    reason_pb2.ERROR_REASON_INVALID_REQUEST, "the node does not know this command"
                )
