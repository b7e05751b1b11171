"""Which calls a node holds."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent_node.calls.slots import NoSlot, Slot, Slots

SLOTS_MAX = 4
TENANT_MAX = 2
TENANTS = st.sampled_from(["acme", "bolt", "cord"])
NAMES = st.sampled_from([f"{number}" for number in range(6)])


def slot(job_id: str, tenant_id: str = "acme", session_id: str = "") -> Slot:
    """A call's slot."""
    return Slot(job_id, tenant_id, session_id or job_id, 0.0)


def test_a_slot_that_is_given_back_is_there_for_the_next() -> None:
    """A full node has room again when a call has ended."""
    slots = Slots(1)
    assert slots.take(slot("1")) is None
    assert slots.take(slot("2")) is NoSlot.FULL
    assert slots.release("1") == slot("1")
    assert slots.release("1") is None
    assert slots.take(slot("2")) is None


def test_a_tenant_at_its_bound_leaves_room_to_others() -> None:
    """The bound of a tenant is its own."""
    slots = Slots(3, 1)
    assert slots.take(slot("1", "acme")) is None
    assert slots.take(slot("2", "acme")) is NoSlot.TENANT_FULL
    assert slots.take(slot("3", "bolt")) is None


def test_a_kept_place_is_for_its_session_alone() -> None:
    """Nobody else gets the place of a call that was interrupted, and it is no load."""
    slots = Slots(1, 1)
    assert slots.take(slot("1", session_id="s")) is None
    slots.release("1")
    slots.keep("acme", "s")
    assert len(slots) == 0
    assert slots.take(slot("2", "bolt")) is NoSlot.FULL
    assert slots.take(slot("3", session_id="s")) is None
    assert slots.take(slot("4", session_id="s")) is NoSlot.HELD


class SlotModel(RuleBasedStateMachine):
    """Slots against a list of what was taken and kept."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(SLOTS_MAX, TENANT_MAX)
        self.taken: dict[str, Slot] = {}
        self.kept: set[tuple[str, str]] = set()

    @rule(job_id=NAMES, tenant_id=TENANTS, session_id=NAMES)
    def take(self, job_id: str, tenant_id: str, session_id: str) -> None:
        """A job is offered."""
        if job_id in self.taken:
            return
        wanted = slot(job_id, tenant_id, session_id)
        places = [s.session for s in self.taken.values()] + list(self.kept)
        tenants = Counter(tenant for tenant, _ in places)
        expected = None
        if any(s.session == wanted.session for s in self.taken.values()):
            expected = NoSlot.HELD
        elif wanted.session not in self.kept:
            if len(places) >= SLOTS_MAX:
                expected = NoSlot.FULL
            elif tenants[tenant_id] >= TENANT_MAX:
                expected = NoSlot.TENANT_FULL
        assert self.slots.take(wanted) is expected
        if expected is None:
            self.taken[job_id] = wanted
            self.kept.discard(wanted.session)

    @rule(job_id=NAMES)
    def release(self, job_id: str) -> None:
        """A job ends, or is said to end again."""
        assert self.slots.release(job_id) == self.taken.pop(job_id, None)

    @rule(tenant_id=TENANTS, session_id=NAMES)
    def keep(self, tenant_id: str, session_id: str) -> None:
        """A place is kept, once its job is gone."""
        if all(s.session != (tenant_id, session_id) for s in self.taken.values()):
            self.slots.keep(tenant_id, session_id)
            self.kept.add((tenant_id, session_id))

    @rule(tenant_id=TENANTS, session_id=NAMES)
    def give_up(self, tenant_id: str, session_id: str) -> None:
        """A place is kept no longer."""
        self.slots.give_up(tenant_id, session_id)
        self.kept.discard((tenant_id, session_id))

    @invariant()
    def counts(self) -> None:
        """The counts are those of what was taken and kept."""
        assert len(self.slots) == len(self.taken)
        assert self.slots.kept == len(self.kept)
        for tenant_id in ("acme", "bolt", "cord"):
            assert self.slots.running(tenant_id) == sum(s.tenant_id == tenant_id for s in self.taken.values())


TestSlotModel = SlotModel.TestCase
TestSlotModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
