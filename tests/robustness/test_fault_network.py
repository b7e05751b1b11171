"""What the network may do to streams and calls, and what must hold all the same."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.robustness.faults.proxy import (
    BLACKHOLE,
    HALF_OPEN,
    LATE,
    PASS,
    TRICKLE,
    Direction,
    FaultProxy,
    Mode,
    fault_proxy,
)
from tests.robustness.faults.scene import ENVIRONMENT, HEARTBEAT_SECONDS, require_nothing_found, scene
from tests.robustness.faults.serving import serving
from tests.robustness.history import Ended
from tests.robustness.watcher import Spec

BEFORE_SECONDS = 0.7
FAULT_SECONDS = 1.2
FAULT_SECONDS_LONG = 60.0

Act = Callable[[FaultProxy], Awaitable[None]]


async def _reset(proxy: FaultProxy) -> None:
    await proxy.reset()


async def _cut(proxy: FaultProxy) -> None:
    await proxy.cut()


async def _away(proxy: FaultProxy) -> None:
    await proxy.refuse()
    await proxy.cut()


def _mode(mode: Mode, *directions: Direction) -> Act:
    async def act(proxy: FaultProxy) -> None:
        proxy.set(mode, *directions)

    return act


FAULTS: dict[str, Act] = {
    "late": _mode(LATE),
    "trickle-down": _mode(TRICKLE, Direction.DOWN),
    "trickle-up": _mode(TRICKLE, Direction.UP),
    "half-open-up": _mode(HALF_OPEN, Direction.UP),
    "half-open-down": _mode(HALF_OPEN, Direction.DOWN),
    "blackhole": _mode(BLACKHOLE),
    "blackhole-down": _mode(BLACKHOLE, Direction.DOWN),
    "reset": _reset,
    "cut": _cut,
    "away": _away,
}
ENDING = ("blackhole", "blackhole-down", "reset", "cut", "away")
"""Faults that a stream cannot outlive."""


@pytest.fixture
def fault_seconds(long_mode: bool) -> float:
    """How long a fault lasts."""
    return FAULT_SECONDS_LONG if long_mode else FAULT_SECONDS


@pytest.mark.timeout(300)
async def test_streams_come_through_every_fault(tmp_path: Path, fault_seconds: float, transport: str) -> None:
    """Behind each fault there are two watchers, all at once, while others write
    and watch directly: nothing is lost, doubled or torn, all come level when the
    faults are over, and those beside them never miss a heartbeat."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        log = tmp_path / "log"
        server = await enter(serving(tmp_path / "data", log, ENVIRONMENT, transport=transport))
        stage = await enter(scene(server, tmp_path, 1))
        stage.watch([Spec("near", "-"), Spec("near-node", "red", reports="stream")])
        proxies = {name: await enter(fault_proxy(server.watch_address)) for name in FAULTS}
        for name, proxy in proxies.items():
            stage.watch([Spec(name, "-"), Spec(f"{name}-node", "red", reports="stream")], proxy.address)
        stage.write(3)
        await asyncio.sleep(BEFORE_SECONDS)
        async with stage.fault("network") as began:
            for name, act in FAULTS.items():
                await act(proxies[name])
            await asyncio.sleep(fault_seconds)
            for proxy in proxies.values():
                proxy.set(PASS)
            await proxies["away"].listen()
        require_nothing_found(await stage.finish())
        ended = [one for one in stage.records() if isinstance(one, Ended) and one.code != "CLIENT"]
        ended += [one for one in stage.records() if isinstance(one, Ended) and one.reason == "it was silent"]
        for name in ENDING:
            assert any(one.stream.startswith(f"{name}.") and one.time >= began for one in ended), name
        near = stage.received(began, began + fault_seconds, "near")
        gaps = [late.time - early.time for early, late in itertools.pairwise(near)]
        assert max(gaps) < 4 * HEARTBEAT_SECONDS
        assert not [one for one in ended if one.stream.startswith("near")]
        assert not server.logged("a handler failed")


async def test_calls_through_a_bad_network_happen_once(tmp_path: Path) -> None:
    """Callers whose connections are reset, cut, delayed, held and swallowed again
    and again repeat what they got no answer to: what was acknowledged is there,
    and nothing was done twice."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        server = await enter(serving(tmp_path / "data", tmp_path / "log", ENVIRONMENT))
        stage = await enter(scene(server, tmp_path, 2))
        proxy = await enter(fault_proxy(server.address))
        stage.watch([Spec("near", "-")])
        stage.write(6, proxy.address, pause_seconds=0.01)
        await asyncio.sleep(BEFORE_SECONDS)
        for name in ("reset", "late", "cut", "half-open-down", "reset", "blackhole-down", "reset"):
            async with stage.fault(name):
                await FAULTS[name](proxy)
                await asyncio.sleep(0.25)
                proxy.set(PASS)
                await asyncio.sleep(0.25)
        require_nothing_found(await stage.finish())
        outcomes = {one.outcome for one in stage.operations()}
        assert {"ok", "unknown"} <= outcomes
