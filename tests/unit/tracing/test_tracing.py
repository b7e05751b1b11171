"""Traces of a session, received by a local server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from livekit.agents.telemetry import tracer

from agent_node.job.targets import Target, target_of
from agent_node.job.tracing import Tracing, is_sampled
from agent_node.providers.secrets import SecretResolver
from tests.unit.job.job_world import caller, delivery, offline_config
from tests.vendors.otlp import TraceReceiver
from voxplane.errors import VoxplaneError

SECONDS_MAX = 20.0
SECRETS = SecretResolver(
    environ={
        "A_KEY": "pk-a",
        "B_KEY": "sk-b",
        "LANGFUSE_PUBLIC_KEY": "pk-own",
        "LANGFUSE_SECRET_KEY": "sk-own",
    }
)


@pytest.fixture
async def receiver() -> AsyncIterator[TraceReceiver]:
    """Where traces go."""
    async with TraceReceiver() as running:
        yield running


@pytest.fixture
async def tracing() -> AsyncIterator[Tracing]:
    """The traces of a session."""
    made = Tracing(caller(), SECRETS)
    yield made
    await made.aclose()


def _target(receiver: TraceReceiver, revision: int = 1, **more: object) -> Target:
    config = {"enabled": True, "base_url": receiver.url, **more}
    return target_of(delivery(revision, offline_config(tracing_config=config)))


def _span(name: str) -> None:
    with tracer.start_as_current_span(name, attributes={"lk.pii.user_input": "Hello", "lk.speech_id": "s"}):
        pass


async def _received(receiver: TraceReceiver, count: int) -> list[str]:
    return [span.name for span in await asyncio.wait_for(receiver.until(count), SECONDS_MAX)]


def _exporters() -> int:
    return sum("Batch" in thread.name for thread in threading.enumerate())


async def test_off_costs_nothing(receiver: TraceReceiver, tracing: Tracing) -> None:
    """A session that is not traced has no exporter, and nothing is sent."""
    before = _exporters()
    tracing.follow(_target(receiver, enabled=False))
    _span("turn")
    assert not tracing.on
    assert _exporters() == before
    await tracing.aclose()
    assert receiver.requests == 0


async def test_on_off_and_on_within_a_session(receiver: TraceReceiver, tracing: Tracing) -> None:
    """What begins while tracing is on arrives, with whose it is and by which
    version; what begins while it is off does not."""
    tracing.follow(_target(receiver))
    _span("first")
    tracing.override(False)
    _span("second")
    tracing.override(True)
    tracing.follow(_target(receiver, 2))
    _span("third")
    await tracing.aclose()
    assert sorted(await _received(receiver, 2)) == ["first", "third"]
    first, third = sorted(receiver.spans, key=lambda span: span.name)
    assert first.keys == "pk-own:sk-own"
    assert first.attributes["langfuse.session.id"] == caller().session_id
    assert first.attributes["langfuse.trace.tags"] == ["tenant:acme", "agent:support", "version:1"]
    assert third.attributes["langfuse.trace.metadata.version"] == "2"
    assert first.attributes["lk.pii.user_input"] == "Hello"
    assert not tracing.on


async def test_each_tenant_has_its_keys(receiver: TraceReceiver, tracing: Tracing) -> None:
    """Keys come by reference; when they change, what follows goes by the new ones."""
    tracing.follow(_target(receiver, public_key="env:A_KEY", secret_key="env:B_KEY"))
    _span("first")
    tracing.follow(_target(receiver, 2))
    _span("second")
    await tracing.aclose()
    await _received(receiver, 2)
    assert {span.name: span.keys for span in receiver.spans} == {
        "first": "pk-a:sk-b",
        "second": "pk-own:sk-own",
    }


async def test_content_can_be_left_out(receiver: TraceReceiver, tracing: Tracing) -> None:
    """Without include_content a trace says what happened, and not what was said."""
    tracing.follow(_target(receiver, include_content=False))
    _span("turn")
    await tracing.aclose()
    await _received(receiver, 1)
    assert "lk.pii.user_input" not in receiver.spans[0].attributes
    assert receiver.spans[0].attributes["lk.speech_id"] == "s"


async def test_a_missing_key_leaves_the_session_untraced(receiver: TraceReceiver, tracing: Tracing) -> None:
    """The error has the path; what was traced before is not any more."""
    tracing.follow(_target(receiver))
    with pytest.raises(VoxplaneError) as raised:
        tracing.follow(_target(receiver, 2, secret_key="env:NO_KEY"))
    assert [violation.field for violation in raised.value.violations] == ["tracing_config.secret_key"]
    assert not tracing.on


def test_the_share_of_sampled_sessions_is_the_rate() -> None:
    """About the rate of all sessions is traced, and each one always or never."""
    names = [f"session-{number}" for number in range(2_000)]
    assert 0.27 < sum(is_sampled(name, 0.3) for name in names) / len(names) < 0.33
    assert not any(is_sampled(name, 0.0) for name in names)
    assert all(is_sampled(name, 1.0) for name in names)
    assert all(is_sampled(name, 0.5) for name in names if is_sampled(name, 0.3))


async def test_the_rate_holds_unless_it_is_overridden(receiver: TraceReceiver, tracing: Tracing) -> None:
    """A session outside the share is not traced, but by an order of its own."""
    tracing.follow(_target(receiver, sample_rate=0.0))
    assert not tracing.on
    tracing.override(True)
    assert tracing.on


async def test_the_share_is_decided_once(receiver: TraceReceiver, tracing: Tracing) -> None:
    """Another rate in the middle of a session changes nothing for it."""
    tracing.follow(_target(receiver, sample_rate=0.0))
    tracing.follow(_target(receiver, 2, sample_rate=1.0))
    assert not tracing.on


async def test_what_cannot_be_traced_is_known_before(receiver: TraceReceiver, tracing: Tracing) -> None:
    """A check tells of a missing key, and switches nothing."""
    tracing.follow(_target(receiver, enabled=False, secret_key="env:NO_KEY"))
    with pytest.raises(VoxplaneError):
        tracing.check(True)
    tracing.check(False)
    assert not tracing.on
