"""Whether a new call may begin on a node that has had no word from its control
plane for long. Calls that run go on.

The version that the call would get says how long is too long, and what then.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Protocol

import structlog

from agent_node.relay.board import Board
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError
from voxplane.names import TenantId, agent_name
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.resolve import resolve
from voxplane.v1 import agent_config_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

WARN, REFUSE = "warn", "refuse"

_log = structlog.stdlib.get_logger(__name__)


class Ages(Protocol):
    """Who knows how old configs may be."""

    def age(self, tenant_id: TenantId, now: float) -> float:
        """Seconds since a tenant's last word; 0 while it is level."""
        ...


class Admission:
    """`stale_calls` counts calls that met a stale config, by what was done."""

    def __init__(self, board: Board, ages: Ages, clock: Clock) -> None:
        self._board = board
        self._ages = ages
        self._clock = clock
        self.stale_calls: Counter[str] = Counter()

    def check(self, caller: relay_pb2.CallerContext) -> None:
        """Let a call begin, perhaps with a warning. Raises VoxplaneError with
        CONFIG_STALE."""
        limits = self._limits(caller)
        if limits is None or limits.stale_action not in (WARN, REFUSE) or not limits.HasField("max_stale"):
            return
        age = self._ages.age(TenantId(caller.tenant_id), self._clock.monotonic())
        limit = limits.max_stale.ToNanoseconds() / 1e9
        if age <= limit:
            return
        self.stale_calls[limits.stale_action] += 1
        if limits.stale_action == REFUSE:
            raise _refused(caller, age, limit)
        _log.warning(
            "call on a stale config",
            tenant_id=caller.tenant_id,
            agent=caller.agent_id,
            session_id=caller.session_id,
            age_seconds=_round(age),
            max_stale_seconds=limit,
        )

    def _limits(self, caller: relay_pb2.CallerContext) -> agent_config_pb2.LimitsConfig | None:
        """Of the version that the call would get; None if it gets none, which
        the call then finds by itself."""
        offer = self._board.offer(agent_name(caller.tenant_id, caller.agent_id))
        if offer is None:
            return None
        try:
            found = resolve(offer.bundle, caller.alias)
        except VoxplaneError:
            return None
        return next(
            (
                content.config.limits_config
                for content in offer.contents
                if content.content_hash == found.content_hash
            ),
            None,
        )


def _refused(caller: relay_pb2.CallerContext, age: float, limit: float) -> VoxplaneError:
    name = agent_name(caller.tenant_id, caller.agent_id)
    for_long = f"{age:.0f} s" if math.isfinite(age) else "an unknown time"
    return VoxplaneError(
        reason_pb2.ERROR_REASON_CONFIG_STALE,
        f"the node has had no word from the control plane for {for_long}; {name} allows {limit:g} s",
        metadata={
            "agent": name,
            "age_seconds": str(_round(age) or "unknown"),
            "max_stale_seconds": f"{limit:g}",
        },
    )


def _round(age: float) -> float | None:
    return round(age, 1) if math.isfinite(age) else None
