"""The frontend's sender, on a clock of the test's own."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest
from livekit import rtc

from agent_node.job.field_feed import AWAY_SECONDS, FieldFeed, Result
from agent_node.job.frontend import CLOSE_SECONDS_MAX, Frontend, NotDelivered
from agent_node.job.reply_events import ReplyBegan, ReplyDone, ReplyField, ReplyFieldPart
from agent_node.job.room_frontend import result_of
from tests.unit.job.test_field_feed import target
from tests.virtual_clock import VirtualClock


class SlowPort:
    """A way to a page that answers when the test says so."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.answers: deque[asyncio.Future[None]] = deque()

    async def rpc(self, method: str, payload: str) -> None:
        """See FrontendPort."""
        await self._call("rpc", method, payload)

    async def text(self, topic: str, payload: str) -> None:
        """See FrontendPort."""
        await self._call("text", topic, payload)

    async def _call(self, way: str, name: str, payload: str) -> None:
        self.calls.append((way, name, payload))
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        await answer


class World:
    """A frontend, its page and what was counted."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.port = SlowPort()
        self.counted: list[str] = []
        self.failed: list[tuple[str, str]] = []
        self.frontend = Frontend(
            FieldFeed("s-1", target(), present=True),
            self.port,
            self.clock,
            count=lambda *, error: self.counted.append(error),
            failed=lambda source, why: self.failed.append((source, why)),
        )

    async def answer(self, error: Exception | None = None) -> None:
        """What was sent last has arrived, or has not."""
        await self.clock.settle()
        answer = self.port.answers.popleft()
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)
        await self.clock.settle()

    def payloads(self) -> list[dict[str, Any]]:
        """What was sent so far."""
        return [json.loads(payload) for _, _, payload in self.port.calls]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A frontend whose caller is there."""
    made = World()
    yield made
    await made.clock.finish(made.frontend.aclose())


async def test_one_payload_is_under_way_at_a_time(world: World) -> None:
    """Whatever comes while the page thinks is in one payload after its answer."""
    world.frontend.take(ReplyBegan(target()), 1)
    for part in ("Hel", "lo ", "you"):
        world.frontend.take(ReplyFieldPart("alpha", part), 1)
        await world.clock.settle()
    assert len(world.port.calls) == 1
    await world.answer()
    assert [each["deltas"] for each in world.payloads()] == [{"alpha": "Hel"}, {"alpha": "lo you"}]
    await world.answer()
    assert world.counted == []


async def test_failures_are_counted_and_go_around(world: World) -> None:
    """An RPC that is not answered is counted and goes as a text stream; an
    error that nobody expects does not end the sending."""
    world.frontend.take(ReplyBegan(target()), 1)
    world.frontend.take(ReplyField("alpha", 1), 1)
    await world.answer(NotDelivered(Result.NO_ANSWER, "1502"))
    assert [way for way, _, _ in world.port.calls] == ["rpc", "text"]
    await world.answer(ConnectionError("secret words"))
    await world.clock.advance(AWAY_SECONDS)
    await world.answer()
    world.frontend.take(ReplyDone(target(), {"alpha": 1}, None), 1)
    await world.clock.advance(1.0)
    await world.answer()
    assert world.counted == ["frontend", "frontend"]
    assert world.failed == [
        ("frontend", "rpc: no answer (1502)"),
        ("frontend", "text: failed (ConnectionError)"),
    ]
    assert world.payloads()[-1]["done"]


async def test_a_method_that_is_not_registered_is_no_error(world: World) -> None:
    """A page may well take text streams alone."""
    world.frontend.take(ReplyBegan(target()), 1)
    world.frontend.take(ReplyField("alpha", 1), 1)
    await world.answer(NotDelivered(Result.UNREGISTERED, "1400"))
    await world.answer()
    assert [way for way, _, _ in world.port.calls] == ["rpc", "text"]
    assert world.counted == []


async def test_what_is_under_way_to_a_caller_that_left_holds_nobody_up(world: World) -> None:
    """A caller that joins is told all at once, though the one before it has not
    answered."""
    world.frontend.take(ReplyBegan(target()), 1)
    world.frontend.take(ReplyField("alpha", 1), 1)
    await world.clock.settle()
    world.frontend.caller(present=False)
    await world.clock.settle()
    world.frontend.caller(present=True)
    await world.clock.settle()
    world.port.answers.popleft()
    await world.answer()
    one, two = world.payloads()
    assert (one["fields"], two["fields"]) == ({"alpha": 1}, {"alpha": 1})
    assert (two["whole"], two["seq"] - one["seq"]) == (True, 1)
    assert world.counted == []


async def test_the_end_of_the_session_waits_for_the_last_fields(world: World) -> None:
    """What is under way is waited for, but not for long."""
    await world.clock.settle()
    world.frontend.take(ReplyBegan(target()), 1)
    world.frontend.take(ReplyField("alpha", 1), 1)
    closing = asyncio.create_task(world.frontend.aclose())
    await world.clock.settle()
    assert not closing.done()
    await world.answer()
    assert closing.done()

    stuck = World()
    stuck.frontend.take(ReplyBegan(target()), 1)
    stuck.frontend.take(ReplyField("alpha", 1), 1)
    closing = asyncio.create_task(stuck.frontend.aclose())
    await stuck.clock.advance(CLOSE_SECONDS_MAX)
    assert closing.done()


@pytest.mark.parametrize(
    ("code", "result"),
    [
        (1400, Result.UNREGISTERED),
        (1401, Result.GONE),
        (1402, Result.TOO_LARGE),
        (1403, Result.NO_ANSWER),
        (1404, Result.NO_ANSWER),
        (1500, Result.REFUSED),
        (1501, Result.NO_ANSWER),
        (1502, Result.NO_ANSWER),
        (1503, Result.GONE),
        (1504, Result.REFUSED),
        (1505, Result.NO_ANSWER),
        (42, Result.REFUSED),
    ],
)
def test_livekits_errors_are_understood(code: int, result: Result) -> None:
    """Each code of LiveKit's, and those of handlers, has its result."""
    assert result_of(rtc.RpcError(code, "").code) is result
