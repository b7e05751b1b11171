"""What happens on the watch stream, and what its client does about it.

Times are in seconds of a monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent_node.upstream.snapshot import Snapshot
from voxplane.names import AgentName, TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

NO_TENANT = TenantId("")


@dataclass(frozen=True, slots=True)
class Begin:
    """It is time to open a stream."""

    now: float


@dataclass(frozen=True, slots=True)
class Received:
    """A message came."""

    message: sync_pb2.WatchConfigResponse
    now: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""

    now: float


@dataclass(frozen=True, slots=True)
class Moving:
    """The next stream takes another way; this one is to end."""

    now: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The stream is over. `retry_after` is what the server asked for, in
    seconds; `refused` the tenant of which it refused what was declared, or
    ALL_TENANTS; `replaced` says that another node has the same id."""

    reason: str
    now: float
    retry_after: float | None = None
    refused: str = NO_TENANT
    replaced: bool = False


Event = Begin | Received | Tick | Moving | Ended


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Open a stream."""

    request: sync_pb2.WatchConfigRequest


@dataclass(frozen=True, slots=True)
class Opened:
    """The server has named the stream; reports may go out."""

    stream_id: str


@dataclass(frozen=True, slots=True)
class Apply:
    """Put a tenant's new snapshot in place, whole."""

    snapshot: Snapshot
    intent: str
    reason: str
    changed: tuple[AgentName, ...]
    removed: tuple[AgentName, ...]


@dataclass(frozen=True, slots=True)
class Persist:
    """Write a snapshot to disk; a later serial of the tenant replaces it."""

    snapshot: Snapshot
    serial: int


@dataclass(frozen=True, slots=True)
class Forget:
    """A tenant is gone: let go of it, on disk too; serials as of Persist."""

    tenant_id: TenantId
    serial: int
    reason: str


@dataclass(frozen=True, slots=True)
class TellAll:
    """Report every bundle again."""


@dataclass(frozen=True, slots=True)
class Ack:
    """Acknowledge a message, once the tenant's snapshot of that serial is on
    disk."""

    nonce: str
    tenant_id: TenantId
    serial: int


@dataclass(frozen=True, slots=True)
class Close:
    """End the stream, and tell by Ended that it is over."""

    reason: str


@dataclass(frozen=True, slots=True)
class BackOff:
    """Begin again after so many seconds. `planned` if the server wished it."""

    seconds: float
    planned: bool = False


Action = Subscribe | Opened | Apply | Persist | Forget | TellAll | Ack | Close | BackOff
