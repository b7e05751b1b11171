"""Forgets sessions that are over."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from control_plane.store import SessionTable, StoreError
from voxplane.clock import Clock

RETENTION_DAYS = 30.0
SESSIONS_MAX = 100_000
TRIM_SECONDS = 300.0
"""From one trim to the next."""
DAY_SECONDS = 86_400

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Retention:
    """For how long sessions that are over or lost are kept, and how many
    sessions of a tenant."""

    days: float = RETENTION_DAYS
    sessions_max: int = SESSIONS_MAX


async def trim_again_and_again(table: SessionTable, clock: Clock, retention: Retention) -> None:
    """Trim now and then, until cancelled. A store that fails is tried again."""
    while True:
        try:
            gone = await table.trim(clock.time() - retention.days * DAY_SECONDS, retention.sessions_max)
            if gone:
                _log.info("sessions were forgotten", sessions=gone)
        except StoreError as error:
            _log.warning("sessions were not forgotten", error=str(error))
        await clock.sleep(TRIM_SECONDS)
