"""Which calls the node holds, and whether there is room for one more.

- A slot is taken before a call is accepted, and given back when its job has
  ended or never came to be.
- Of a call whose process died the place is kept for the job that takes it over,
  so that no other caller can take it in between. A kept place does not count as
  load, as LiveKit would else not offer that job to this node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class NoSlot(Enum):
    """Why there is no slot."""

    FULL = "full"
    TENANT_FULL = "tenant full"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Slot:
    """One call. `since` is when it was accepted."""

    job_id: str
    tenant_id: str
    session_id: str
    since: float

    @property
    def session(self) -> tuple[str, str]:
        """The session, unique across tenants."""
        return self.tenant_id, self.session_id


class Slots:
    """The slots of a node; `tenant_max` 0 means that tenants have no limit."""

    def __init__(self, slots_max: int, tenant_max: int = 0) -> None:
        self.slots_max = slots_max
        self.tenant_max = tenant_max
        self._slots: dict[str, Slot] = {}
        self._sessions: dict[tuple[str, str], str] = {}
        self._kept: set[tuple[str, str]] = set()
        self._tenants: Counter[str] = Counter()

    def __len__(self) -> int:
        """Count of the calls that run or are about to."""
        return len(self._slots)

    def __iter__(self) -> Iterator[Slot]:
        return iter(list(self._slots.values()))

    def __contains__(self, job_id: str) -> bool:
        """Whether a job has a slot."""
        return job_id in self._slots

    @property
    def kept(self) -> int:
        """Count of the places that are kept."""
        return len(self._kept)

    def running(self, tenant_id: str) -> int:
        """Count of a tenant's calls."""
        return self._tenants[tenant_id]

    def take(self, slot: Slot) -> NoSlot | None:
        """Take a slot; else say why there is none."""
        if slot.session in self._sessions:
            return NoSlot.HELD
        if slot.session not in self._kept:
            if len(self._slots) + len(self._kept) >= self.slots_max:
                return NoSlot.FULL
            if self.tenant_max and self._of_tenant(slot.tenant_id) >= self.tenant_max:
                return NoSlot.TENANT_FULL
        self._kept.discard(slot.session)
        self._slots[slot.job_id] = slot
        self._sessions[slot.session] = slot.job_id
        self._tenants[slot.tenant_id] += 1
        return None

    def release(self, job_id: str) -> Slot | None:
        """The job has ended, or there will be none. None if it had no slot."""
        slot = self._slots.pop(job_id, None)
        if slot is not None:
            del self._sessions[slot.session]
            self._tenants[slot.tenant_id] -= 1
            if not self._tenants[slot.tenant_id]:
                del self._tenants[slot.tenant_id]
        return slot

    def keep(self, tenant_id: str, session_id: str) -> None:
        """Keep a place for the job that takes a session over."""
        self._kept.add((tenant_id, session_id))

    def is_kept(self, tenant_id: str, session_id: str) -> bool:
        """Whether a place is kept for a session."""
        return (tenant_id, session_id) in self._kept

    def give_up(self, tenant_id: str, session_id: str) -> None:
        """Keep a session's place no longer."""
        self._kept.discard((tenant_id, session_id))

    def _of_tenant(self, tenant_id: str) -> int:
        return self._tenants[tenant_id] + sum(tenant == tenant_id for tenant, _ in self._kept)
