"""What runs on both transports."""

from __future__ import annotations

import pytest

from tests.robustness.site import EDGE, TRANSPORTS


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """What ConfigSyncService is called over."""
    return str(request.param)


@pytest.fixture(params=TRANSPORTS)
def any_transport(request: pytest.FixtureRequest, long_mode: bool) -> str:
    """The same, where the fault is not of the transport: the edge has its turn with --long."""
    if request.param == EDGE and not long_mode:
        pytest.skip("with --long")
    return str(request.param)
