"""The watcher of the runs."""

from __future__ import annotations

import asyncio
import io

import pytest

from tests.robustness import watcher
from tests.robustness.history import Recorder
from tests.robustness.site import free_port
from tests.robustness.watcher import Spec, Watcher

ATTEMPTS = 60
"""Far more than come back as another one by FRESH_SHARE."""


async def test_a_watcher_that_reaches_nobody_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it asks in vain, it comes back as who it was, with what it had."""
    monkeypatch.setattr(watcher, "BACK_OFF_SECONDS_MAX", 0.0)
    out = io.StringIO()
    alone = Watcher(Spec("far", "red"), f"127.0.0.1:{free_port()}", Recorder(out), 1)
    name = alone.name
    running = asyncio.create_task(alone.run())
    while out.getvalue().count('"ended"') < ATTEMPTS:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert alone.name == name
