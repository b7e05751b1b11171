"""Clients that know more than the log."""

from __future__ import annotations

import structlog

from voxplane.clock import Clock
from voxplane.names import TenantId

REMIND_SECONDS = 60.0
_log = structlog.get_logger(__name__)


class Rewound:
    """Tells the operator that the store may have been set back as a whole.

    A client that has a revision of our own epoch which we have not made is the
    only sign of that. It is a client's word, so nothing is done on the strength
    of it but to say so, at most once in REMIND_SECONDS.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._claims = 0
        self._said: float | None = None

    def note(self, tenant_id: TenantId, claimed: int, actual: int) -> None:
        """A client says that it has a revision of our epoch that is ahead of
        ours."""
        self._claims += 1
        now = self._clock.monotonic()
        if self._said is not None and now - self._said < REMIND_SECONDS:
            return
        _log.error(
            "a client is ahead of the log: if its volume or machine was set back, stop the server, "
            "run `voxplane store new-epoch` and start it again",
            tenant_id=tenant_id,
            revision=actual,
            claimed_revision=claimed,
            claims=self._claims,
        )
        self._claims, self._said = 0, now
