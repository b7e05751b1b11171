"""How busy a node is."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_node.calls.load import CALL_CORES, LIVEKIT_FULL, YOUNG_SECONDS, LoadMeter, measure
from agent_node.calls.slots import Slot, Slots
from tests.virtual_clock import VirtualClock

CPU_MAX = 0.7


class World:
    """A meter, with slots and a clock."""

    def __init__(self, slots_max: int = 10, cores: float = 2.0, cpu_max: float = CPU_MAX) -> None:
        self.clock = VirtualClock()
        self.slots = Slots(slots_max)
        self.meter = LoadMeter(self.slots, self.clock, cpu_max=cpu_max, cores=cores)

    def call(self, count: int = 1) -> None:
        """Calls come, now."""
        for _ in range(count):
            number = str(len(self.slots))
            assert self.slots.take(Slot(number, "acme", number, self.clock.monotonic())) is None

    async def use(self, cpu: float, seconds: float = 30.0) -> None:
        """The machine is used so much for so long."""
        for _ in range(round(seconds / 0.5)):
            await self.clock.advance(0.5)
            self.meter.sample(cpu)


async def test_the_higher_part_is_the_load() -> None:
    """A node is as full as its calls or its processors make it."""
    world = World()
    world.call(5)
    await world.use(0.14)
    load = world.meter.load()
    assert (load.sessions, load.cpu) == (0.5, pytest.approx(0.2, abs=0.01))
    assert load.value == 0.5
    await world.use(0.63)
    assert world.meter.load().value == pytest.approx(0.9, abs=0.01)


async def test_a_node_with_all_its_calls_is_full() -> None:
    """At the bound the load is 1, and LiveKit asks others."""
    world = World(slots_max=3)
    world.call(3)
    await world.use(0.0)
    assert world.meter.told() == LIVEKIT_FULL


async def test_a_short_peak_does_not_make_a_node_full() -> None:
    """One busy moment is smoothed away; a busy time is not."""
    world = World()
    await world.use(0.3)
    await world.use(1.0, seconds=0.5)
    assert world.meter.load().value < 1
    await world.use(1.0, seconds=5)
    assert world.meter.load().value == 1


async def test_a_busy_node_does_not_flicker() -> None:
    """Once full by its processors it has room only well under the bound."""
    world = World()
    await world.use(0.75)
    assert world.meter.load().value == 1
    await world.use(0.69)
    assert world.meter.load().value == 1
    await world.use(0.6)
    assert world.meter.load().value < 1


async def test_callers_who_come_all_at_once_count_before_they_cost() -> None:
    """Young calls count what a call costs; later they show by themselves."""
    world = World(slots_max=100, cores=2.0)
    await world.use(0.0)
    fit = int(CPU_MAX * 2.0 / CALL_CORES)
    world.call(fit)
    assert world.meter.load().cpu < 1
    world.call(1)
    assert world.meter.load().cpu == 1
    await world.use(0.0, seconds=YOUNG_SECONDS + 1)
    assert world.meter.load().cpu == pytest.approx(0)


async def test_a_bound_above_one_is_none() -> None:
    """The processors cannot be used more than whole, however many calls are young."""
    world = World(slots_max=100, cpu_max=1.5)
    world.call(50)
    await world.use(1.0, seconds=YOUNG_SECONDS - 1)
    assert world.meter.load().cpu < 1


async def test_a_kept_place_keeps_the_door_open() -> None:
    """A full node is still offered the call that it has to take over."""
    world = World(slots_max=1)
    await world.use(1.0)
    assert world.meter.told() == LIVEKIT_FULL
    world.slots.keep("acme", "s")
    assert world.meter.told() < LIVEKIT_FULL


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.integers(0, 10))
async def test_the_load_is_a_share(samples: list[float], calls: int) -> None:
    """Whatever is measured, the load is between 0 and 1, and 1 where the calls are at their bound."""
    world = World()
    world.call(calls)
    for sample in samples:
        world.meter.sample(sample)
        await world.clock.advance(0.5)
        load = world.meter.load()
        assert 0 <= load.value <= 1
        assert min(samples) - 1e-9 <= world.meter.cpu <= max(samples) + 1e-9
    assert calls < 10 or world.meter.told() == LIVEKIT_FULL


async def test_a_measurement_that_fails_is_not_the_end_of_measuring() -> None:
    """After a pause it is tried again; the last one holds meanwhile."""
    world = World()
    readings = iter([0.35, OSError("no such file"), 0.7])

    async def read() -> float:
        await world.clock.sleep(0.5)
        reading = next(readings, None)
        if reading is None:
            await asyncio.Event().wait()
            raise AssertionError
        if isinstance(reading, OSError):
            raise reading
        return reading

    measuring = asyncio.create_task(measure(world.meter, read, world.clock))
    await world.clock.advance(1.5)
    assert world.meter.cpu == 0.35
    await world.clock.advance(10)
    assert world.meter.cpu > 0.6
    measuring.cancel()
