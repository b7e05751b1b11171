"""The errors of sessions."""

from __future__ import annotations

from typing import cast

import structlog
from google.rpc import status_pb2

from control_plane.store import StoreError
from voxplane.errors import VoxplaneError, reason_of, violations_of
from voxplane.v1 import error_reason_pb2 as reason_pb2

RETRY_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class StoreErrors:
    """Turns a store's failure into STORE_UNAVAILABLE."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, StoreError):
            _log.error("the store failed", error=str(error))
            raise store_unavailable() from error


STORE_ERRORS = StoreErrors()


def store_unavailable() -> VoxplaneError:
    """The sessions cannot be read or written."""
    return VoxplaneError(
        reason_pb2.ERROR_REASON_STORE_UNAVAILABLE,
        "the sessions cannot be read or written; try again",
        retry_after=RETRY_SECONDS,
    )


def shutting_down() -> VoxplaneError:
    """The server is going away."""
    return VoxplaneError(
        reason_pb2.ERROR_REASON_SHUTTING_DOWN,
        "the server is going away; connect again",
        retry_after=RETRY_SECONDS,
    )


def limit_reached(what: str) -> VoxplaneError:
    """A bound of the process is reached."""
    return VoxplaneError(reason_pb2.ERROR_REASON_LIMIT_REACHED, what, retry_after=RETRY_SECONDS)


def replaced(node_id: str) -> VoxplaneError:
    """A node has opened another stream."""
    return VoxplaneError(
        reason_pb2.ERROR_REASON_NODE_REPLACED,
        f"a newer stream has the node_id {node_id}",
        metadata={"node": node_id},
    )


def unreachable(node_id: str, why: str) -> VoxplaneError:
    """A command could not be given, or was not answered."""
    return VoxplaneError(
        reason_pb2.ERROR_REASON_NODE_UNREACHABLE,
        f"node {node_id} {why}",
        metadata={"node": node_id},
        retry_after=RETRY_SECONDS,
    )


def not_found(session_id: str) -> VoxplaneError:
    """There is no such session."""
    return VoxplaneError(
        reason_pb2.ERROR_REASON_SESSION_NOT_FOUND,
        f"no session {session_id}",
        metadata={"session": session_id},
    )


def ended(session_id: str) -> VoxplaneError:
    """The session is over."""
    return VoxplaneError(
        reason_pb2.ERROR_REASON_SESSION_ENDED,
        f"session {session_id} is over",
        metadata={"session": session_id},
    )


def too_slow(sessions: int) -> VoxplaneError:
    """A watcher does not read."""
    return VoxplaneError(
        reason_pb2.ERROR_REASON_READER_TOO_SLOW,
        f"more than {sessions} sessions that have changed wait to be read; watch again",
        retry_after=RETRY_SECONDS,
    )


def refused(status: status_pb2.Status, node_id: str) -> VoxplaneError:
    """What a node has against a command, by the reason that it gives."""
    try:
        found = reason_pb2.ErrorReason.Value(f"ERROR_REASON_{reason_of(status)}")
        reason = cast("reason_pb2.ErrorReason", found)
    except ValueError:
        reason = reason_pb2.ERROR_REASON_INTERNAL
    return VoxplaneError(
        reason,
        status.message or f"node {node_id} could not do it",
        violations=violations_of(status),
        metadata={"node": node_id},
    )
