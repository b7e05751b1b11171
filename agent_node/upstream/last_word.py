"""The record of when each tenant was last level with the server, so that a
restart does not make old configs young.

A record has the time on two clocks: the monotonic one, which counts since the
machine started and can be compared while the boot id is the same, and that of
the wall, which counts after a reboot. So a step of the wall clock changes no
age while the machine runs. After a reboot with a wall clock behind the record
nothing is known, and the configs are older than anything; so are those that
the record does not name. The record is written in turns, so it may be older
than the truth, and is never younger.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import structlog

from agent_node.upstream.cache import CorruptCache, DiskCache
from agent_node.upstream.freshness import NEVER, Freshness
from voxplane.clock import Clock
from voxplane.names import TenantId

RECORD_FILE = "last-word.json"
RECORD_SECONDS = 15.0
FIRST_RECORD_SECONDS = 1.0
CLOCK_SLACK_SECONDS = 5.0
"""A wall clock may be set back by so much without its record being in doubt."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_log = structlog.stdlib.get_logger(__name__)


def boot_id() -> str:
    """Names the time since the machine was started; empty if it has no name."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def encode(words: Mapping[TenantId, float], clock: Clock, boot: str) -> bytes:
    """A record of last words, which are in seconds of the monotonic clock."""
    now = clock.monotonic()
    ages = {tenant: round(now - word, 3) for tenant, word in sorted(words.items()) if word > NEVER}
    record = {"boot_id": boot, "monotonic": now, "wall": clock.time(), "ages": ages}
    return json.dumps(record).encode()


def decode(data: bytes, clock: Clock, boot: str) -> dict[TenantId, float]:
    """The last words in a record, in seconds of the monotonic clock of now.
    Raises CorruptCache."""
    try:
        record = cast("dict[str, Any]", json.loads(data))
        monotonic, wall = float(record["monotonic"]), float(record["wall"])
        ages = {TenantId(str(tenant)): float(age) for tenant, age in record["ages"].items()}
        same_boot = bool(boot) and record["boot_id"] == boot
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptCache(f"no record of last words: {type(error).__name__}") from error
    now = clock.monotonic()
    passed = now - monotonic if same_boot else clock.time() - wall
    if math.isnan(passed) or passed < -CLOCK_SLACK_SECONDS:
        return {}
    return {
        tenant: now - max(passed, 0.0) - max(age, 0.0) for tenant, age in ages.items() if math.isfinite(age)
    }


class WordKeeper:
    """Keeps the record beside the cache."""

    def __init__(self, cache: DiskCache, clock: Clock, boot: str) -> None:
        self._cache = cache
        self._clock = clock
        self._boot = boot
        self._recorded: dict[TenantId, float] = {}

    def load(self) -> dict[TenantId, float]:
        """The last words, as far as they are known."""
        try:
            data = self._cache.read(RECORD_FILE)
            return decode(data, self._clock, self._boot) if data is not None else {}
        except (CorruptCache, OSError) as error:
            _log.error("last words not read", reason=str(error))
            return {}

    async def run(self, freshness: Freshness) -> None:
        """Record until cancelled, and once more then."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "last-word") as thread:
            try:
                while True:
                    await self._clock.sleep(RECORD_SECONDS if self._recorded else FIRST_RECORD_SECONDS)
                    await loop.run_in_executor(thread, self._record, freshness.words())
            finally:
                thread.submit(self._record, freshness.words())

    def _record(self, words: Mapping[TenantId, float]) -> None:
        if words == self._recorded:
            return
        try:
            self._cache.replace(RECORD_FILE, encode(words, self._clock, self._boot))
            self._recorded = dict(words)
        except OSError as error:
            _log.error("last words not written", reason=str(error))
