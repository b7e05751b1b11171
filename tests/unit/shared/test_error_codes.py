"""Every reason of the contract has its code."""

from __future__ import annotations

import pytest

from voxplane.errors import VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2

REASONS = [value for _, value in reason_pb2.ErrorReason.items() if value]


@pytest.mark.parametrize("reason", REASONS, ids=reason_pb2.ErrorReason.Name)
def test_a_reason_has_a_code(reason: reason_pb2.ErrorReason) -> None:
    """An error can be made of every reason, and none of them is OK."""
    assert VoxplaneError(reason, "why").code > 0
