"""What a principal may watch: the side of the watch that others fill in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from voxplane.names import AgentName


@dataclass(frozen=True, slots=True)
class Permit:
    """What a principal may see of a tenant: nothing, or the `agents`, or all
    of them if that is None."""

    tenant: bool = True
    agents: frozenset[AgentName] | None = None


EVERY_AGENT = Permit()
NOTHING = Permit(tenant=False, agents=frozenset())


class Rights(Protocol):
    """Asked at each push, so the answers must be at hand: no I/O."""

    def permit(self, principal: str, tenant_id: str) -> Permit:
        """What the principal may watch of a tenant; of ALL_TENANTS, whether
        it may watch all tenants at once."""
        ...

    def expires(self, principal: str) -> float | None:
        """When the principal's credential ends, in seconds since 1970."""
        ...

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Have `listener` called on the event loop when a right has changed."""
        ...


class EveryRight:
    """Everybody may watch everything, for ever."""

    def permit(self, principal: str, tenant_id: str) -> Permit:
        """See Rights."""
        return EVERY_AGENT

    def expires(self, principal: str) -> float | None:
        """See Rights."""
        return None

    def subscribe(self, listener: Callable[[], None]) -> None:
        """See Rights; nothing ever changes."""
