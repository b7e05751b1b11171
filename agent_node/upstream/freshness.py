"""How old what the node has may be. Pure; times are in seconds of a monotonic
clock, and -inf where nothing is known.

The rules that it keeps:

- A tenant is level from its first SYNCED on a stream until the stream ends or
  the tenant is not trusted any more.
- The last word of a level tenant is the stream's last message, whatever it
  was: heartbeats come where nothing else does. Other tenants keep the word
  that they had, so age counts from what was heard, not from when it was missed.
- The node is in step while it hears its stream and every tenant is level. If
  it is not, it is stale at once; only a move to another stream that the server
  has asked for has MOVE_GRACE_SECONDS for it.
- A tenant of which no word is known is older than anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from voxplane.names import TenantId

MOVE_GRACE_SECONDS = 30.0
NEVER = -math.inf


@dataclass(frozen=True, slots=True)
class Stale:
    """Why, and since when, the state may be behind the server's."""

    reason: str
    since: float


class Freshness:
    """`words` are the last words of the tenants that the node has."""

    def __init__(self, now: float, words: Mapping[TenantId, float]) -> None:
        self._words = dict(words)
        self._expected = set(self._words)
        self._level: set[TenantId] = set()
        self._moved: frozenset[TenantId] = frozenset()
        self._grace_ends = NEVER
        self._heard = self._word = now
        self._hears = False
        self._reason = "not connected yet"

    @property
    def heard(self) -> float:
        """When the stream was last heard, or began."""
        return self._heard

    @property
    def in_step(self) -> bool:
        """Whether all is level with the server."""
        return self._hears and self._expected <= self._level

    def is_level(self, tenant_id: TenantId) -> bool:
        """Whether a tenant was SYNCED on the present stream."""
        return tenant_id in self._level

    def began(self, now: float, expected: Iterable[TenantId]) -> None:
        """A stream was asked for; `expected` have to come on it."""
        self._expected = {*self._words, *expected}
        self._heard = now

    def hear(self, now: float) -> None:
        """A message came."""
        self._heard = self._word = now
        self._hears = True

    def level(self, tenant_id: TenantId) -> None:
        """A tenant is SYNCED."""
        self._level.add(tenant_id)
        self._expected.add(tenant_id)
        self._words[tenant_id] = self._heard
        if self.in_step:
            self._grace_ends = NEVER

    def doubt(self, tenant_id: TenantId) -> None:
        """What the server sends of a tenant cannot be used."""
        self._level.discard(tenant_id)

    def forget(self, tenant_id: TenantId) -> None:
        """A tenant is gone."""
        self._level.discard(tenant_id)
        self._expected.discard(tenant_id)
        self._words.pop(tenant_id, None)

    def lost(self, reason: str) -> None:
        """The stream is over."""
        self._words = self.words()
        self._level.clear()
        self._hears = False
        self._reason = reason

    def moved(self, reason: str, until: float) -> None:
        """The stream is over as the server wished; the next one is opened then."""
        self._moved = frozenset(self._level)
        self._grace_ends = until + MOVE_GRACE_SECONDS
        self.lost(reason)

    def give_up_grace(self) -> None:
        """What was a move has gone wrong."""
        self._grace_ends = NEVER

    def words(self) -> dict[TenantId, float]:
        """The last word of each tenant."""
        return self._words | dict.fromkeys(self._level, self._heard)

    def age(self, tenant_id: TenantId, now: float) -> float:
        """Seconds since a tenant's last word; 0 while it is level, or moves."""
        if tenant_id in self._level or (now < self._grace_ends and tenant_id in self._moved):
            return 0.0
        return max(now - self._words.get(tenant_id, NEVER), 0.0)

    def stale(self, now: float) -> Stale | None:
        """Set unless the node is in step, or moves. `since` is the oldest of
        the tenants' last words, without tenants the server's."""
        if self.in_step or now < self._grace_ends:
            return None
        reason = self._reason
        if self._hears:
            late = min(self._expected - self._level)
            reason = f"tenant {late} has not come on this stream"
        return Stale(reason, min(self.words().values(), default=self._word))
