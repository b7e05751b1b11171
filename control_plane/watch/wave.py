"""What streams that are woken in one turn of the loop have in common.

Most of them are at the same level and need the same message. What is looked up
for the first is at hand for the others.
"""

from __future__ import annotations

from collections.abc import Mapping

from control_plane.state import Tenants
from control_plane.watch.encoder import Encoder
from control_plane.watch.planner import Planner, Step
from voxplane.names import TenantId

_NO_STEPS: Mapping[int, Step] = {}


class Wave:
    """It holds for one turn of the loop, in which no tenant changes. `steps`
    are those of the tenant that it was last turned to; see Planner.steps."""

    __slots__ = ("_data", "_encoder", "_planner", "_step", "_tenants", "steps", "tenant_id")

    def __init__(self, tenants: Tenants, planner: Planner, encoder: Encoder) -> None:
        self._tenants = tenants
        self._planner = planner
        self._encoder = encoder
        self._step: Step | None = None
        self._data = b""
        self.tenant_id: TenantId | None = None
        self.steps = _NO_STEPS

    def turn_to(self, tenant_id: TenantId) -> None:
        """Look up a tenant."""
        state = self._tenants.peek(tenant_id)
        self.tenant_id = tenant_id
        self.steps = self._planner.steps(state) if state is not None else _NO_STEPS

    def data(self, step: Step) -> bytes:
        """The bytes of a step, without a stream's own."""
        if step is not self._step:
            self._step, self._data = step, self._encoder.part(step.part)
        return self._data
