"""What runs on both transports."""

from __future__ import annotations

import pytest

from tests.robustness.site import TRANSPORTS


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """What ConfigSyncService is called over."""
    return str(request.param)
