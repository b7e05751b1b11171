"""What is done to a system that runs. Every action leaves it whole."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable

from tests.robustness.crowd import Crowd
from tests.robustness.faults.clock import DAY, HOUR
from tests.robustness.faults.disk import Call
from tests.robustness.faults.proxy import BLACKHOLE, HALF_OPEN, LATE, TRICKLE, Direction, Mode
from tests.robustness.scenario import Scenario

Action = Callable[[Scenario], Awaitable[None]]

DOWN_SECONDS_MAX = 1.0
STOPPED_SECONDS_MAX = 4.0
PROXY_SECONDS_MAX = 4.5
BLACKHOLE_SECONDS = 60.0
DISK_SECONDS_MAX = 2.0


async def kill(run: Scenario) -> None:
    """kill -9 of the server, and a new one."""
    async with run.server_lock, run.fault("kill -9", "server"):
        await run.site.kill()
        if run.random.random() < 0.5:
            await run.pause(0, DOWN_SECONDS_MAX)
        await run.site.start()


async def terminate(run: Scenario) -> None:
    """SIGTERM of the server, and a new one."""
    async with run.server_lock, run.fault("SIGTERM", "server"):
        code = await run.site.terminate()
        if code:
            run.problems.append(f"the server ended with {code} after SIGTERM")
        await run.site.start()


async def pause_server(run: Scenario) -> None:
    """SIGSTOP of the server, and SIGCONT."""
    async with run.server_lock, run.fault("SIGSTOP", "server"):
        run.site.pause()
        try:
            await run.pause(0.2, STOPPED_SECONDS_MAX)
        finally:
            run.site.resume()


async def pause_near(run: Scenario) -> None:
    """SIGSTOP of watchers, and SIGCONT."""
    await _pause(run, "near")


async def pause_far(run: Scenario) -> None:
    """SIGSTOP of the watchers behind the proxy, and SIGCONT."""
    await _pause(run, "far")


async def _pause(run: Scenario, name: str) -> None:
    crowd: Crowd = run.crowds[name]
    async with run.fault("SIGSTOP", f"watchers {name}"):
        crowd.pause()
        try:
            await run.pause(0.5, STOPPED_SECONDS_MAX)
        finally:
            crowd.resume()


def _proxied(name: str, mode: Mode, *directions: Direction) -> Action:
    async def act(run: Scenario) -> None:
        await through_proxy(run, name, mode, run.random.uniform(0.5, PROXY_SECONDS_MAX), *directions)

    act.__doc__ = f"The proxy: {name}."
    return act


async def through_proxy(run: Scenario, name: str, mode: Mode, seconds: float, *directions: Direction) -> None:
    """A fault between the far watchers and the server."""
    assert run.proxy is not None
    async with run.fault(name, "proxy"):
        with run.proxy.fault(mode, *directions):
            await asyncio.sleep(seconds)


async def reset(run: Scenario) -> None:
    """All connections through the proxy are reset."""
    assert run.proxy is not None
    async with run.fault("reset", "proxy"):
        await run.proxy.reset()


async def cut(run: Scenario) -> None:
    """All connections through the proxy end, and none is taken for a while."""
    assert run.proxy is not None
    async with run.fault("cut", "proxy"):
        await run.proxy.refuse()
        await run.proxy.cut()
        await run.pause(0, DOWN_SECONDS_MAX)
        await run.proxy.listen()


async def away(run: Scenario) -> None:
    """The watchers behind the proxy are cut off until the history that they
    would resume from, which is kept short, is trimmed."""
    assert run.proxy is not None
    async with run.fault("away while history is trimmed", "proxy"):
        await run.proxy.refuse()
        await run.proxy.cut()
        await run.history_trimmed()
        await run.proxy.listen()


async def blackhole(run: Scenario) -> None:
    """All that goes through the proxy vanishes for a minute."""
    await through_proxy(run, "blackhole 60 s", BLACKHOLE, BLACKHOLE_SECONDS)


async def disk_full(run: Scenario) -> None:
    """The server's disk is full for a while."""
    await _disk(run, "disk full", Call.WRITE, errno.ENOSPC)


async def disk_errors(run: Scenario) -> None:
    """Writing or syncing fails for a while."""
    await _disk(run, "I/O errors", run.random.choice([Call.WRITE, Call.SYNC]), errno.EIO)


async def _disk(run: Scenario, name: str, call: Call, error: int) -> None:
    disk = run.disk
    if disk is None:
        return
    async with run.server_lock, run.fault(name, call.name.lower()):
        disk.fail(call, error=error, after=run.random.randint(0, 20))
        try:
            await run.pause(0.2, DISK_SECONDS_MAX)
        finally:
            disk.heal()


async def clock_step(run: Scenario) -> None:
    """The server's wall clock jumps, to and fro."""
    if run.clock is None:
        return
    step = run.random.choice([-DAY, -HOUR, -5.0, 5.0, HOUR, 400 * DAY])
    async with run.fault("clock step", f"{step:+g} s"):
        run.clock.set(step)
        await run.pause(0.2, DISK_SECONDS_MAX)
        run.clock.set(0)


async def restore(run: Scenario) -> None:
    """A backup is taken, some time passes, and the backup is put back."""
    backup = run.folder / "backup.db"
    backup.unlink(missing_ok=True)
    async with run.server_lock:
        await asyncio.to_thread(run.site.back_up, backup)
    await run.pause(0.5, 2.0)
    async with run.server_lock:
        ending = run.site.kill if run.random.random() < 0.5 else run.site.terminate
        async with run.fault("restored backup", ending.__name__):
            await ending()
            await run.read_log()
            async with run.tap_lock:
                run.site.restore(backup)
                await run.site.start()


SERVER_ENDS: dict[str, Action] = {"kill": kill, "terminate": terminate}
PROXY_ACTIONS: dict[str, Action] = {
    "half-open up": _proxied("half-open up", HALF_OPEN, Direction.UP),
    "half-open down": _proxied("half-open down", HALF_OPEN, Direction.DOWN),
    "blackhole": _proxied("blackhole", BLACKHOLE),
    "1 byte/s": _proxied("1 byte/s", TRICKLE),
    "200 ms": _proxied("200 ms", LATE),
    "reset": reset,
    "cut": cut,
}
STOPS: dict[str, Action] = {
    "pause server": pause_server,
    "pause near": pause_near,
    "pause far": pause_far,
}
DISK_ACTIONS: dict[str, Action] = {
    "disk full": disk_full,
    "I/O errors": disk_errors,
    "clock step": clock_step,
}
