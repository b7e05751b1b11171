"""Clients that are ahead of the log."""

from __future__ import annotations

from structlog.testing import capture_logs

from control_plane.state.rewound import REMIND_SECONDS, Rewound
from tests.virtual_clock import VirtualClock
from voxplane.names import TenantId

ACME = TenantId("acme")


async def test_the_operator_is_told_and_not_flooded() -> None:
    """The first claim is logged with the remedy, and those that follow once in
    a while, with their count: a client that lies fills no log."""
    clock = VirtualClock()
    rewound = Rewound(clock)
    with capture_logs() as logs:
        for _ in range(1000):
            rewound.note(ACME, 9, 4)
        await clock.advance(REMIND_SECONDS)
        rewound.note(ACME, 9, 5)
    assert [(line["claims"], line["revision"], line["claimed_revision"]) for line in logs] == [
        (1, 4, 9),
        (1000, 5, 9),
    ]
    assert "voxplane store new-epoch" in logs[0]["event"]
