"""The protocol of a node's stream, without I/O: messages in, what is to be done
out.

- The first message is hello, and no other one is.
- A batch is of this stream's node, whatever its reports say.
- What is acknowledged is the highest number of a batch that is stored, and it
  only rises, so a batch may come again with its number or with another.
- A message of a kind that this contract does not know is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from google.rpc import status_pb2

from control_plane.store import SessionId
from voxplane.errors import Violation, VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1 import session_service_pb2 as pb2


class Phase(Enum):
    """How far a stream has come."""

    NEW = auto()
    LIVE = auto()


@dataclass(frozen=True, slots=True)
class Greet:
    """The stream is this node's, and these sessions run on it."""

    node_id: str
    running: frozenset[SessionId]


@dataclass(frozen=True, slots=True)
class Keep:
    """A batch to store, as one of this node's (intake.py); its number is to be
    told to `stored` then."""

    node_id: str
    batch: pb2.SessionBatch


@dataclass(frozen=True, slots=True)
class Settle:
    """What became of a command."""

    command_id: str
    status: status_pb2.Status


Action = Greet | Keep | Settle

_NEXT: Mapping[tuple[Phase, str], Phase] = {
    (Phase.NEW, "hello"): Phase.LIVE,
    (Phase.LIVE, "batch"): Phase.LIVE,
    (Phase.LIVE, "result"): Phase.LIVE,
}
"""What may come when."""


class LinkState:
    """The state of one stream."""

    def __init__(self) -> None:
        self._phase = Phase.NEW
        self._node_id = ""
        self._stored = 0
        self._acknowledged = 0

    def receive(self, message: pb2.ReportSessionsRequest) -> Action | None:
        """A valid message has come. Raises
        VoxplaneError INVALID_REQUEST if it may not come now."""
        kind = message.WhichOneof("event") or ""
        if not kind and self._phase is Phase.LIVE:
            return None
        if (self._phase, kind) not in _NEXT:
            raise _out_of_order(self._phase, kind)
        self._phase = _NEXT[self._phase, kind]
        match kind:
            case "hello":
                self._node_id = message.hello.node_id
                running = frozenset(SessionId(key.tenant_id, key.session_id) for key in message.hello.running)
                return Greet(self._node_id, running)
            case "batch":
                return Keep(self._node_id, message.batch)
            case _:
                return Settle(message.result.command_id, message.result.status)

    def stored(self, sequence: int) -> None:
        """A batch is stored, and all before it are."""
        self._stored = max(self._stored, sequence)

    def acknowledge(self) -> int:
        """The number to acknowledge now; 0 if there is nothing new."""
        if self._stored == self._acknowledged:
            return 0
        self._acknowledged = self._stored
        return self._stored


def _out_of_order(phase: Phase, kind: str) -> VoxplaneError:
    first = phase is Phase.NEW
    return VoxplaneError(
        reason_pb2.ERROR_REASON_INVALID_REQUEST,
        "the first message must be hello" if first else "hello comes once, as the first message",
        violations=[Violation(kind or "event", "must not be first" if first else "must be first")],
    )
