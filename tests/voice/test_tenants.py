"""Two tenants at once on one node."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.livekit.calls import Call
from tests.livekit.screen import shown
from tests.livekit.tenants import Tenant
from tests.vendors import Fields
from tests.voice.conftest import NewTenant
from tests.voice.examiner import CHAT, LISTEN, SPEECH, assert_in_voice, conversation, examiner
from voxplane.v1 import session_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

MARKS = ("apricot", "blueberry")
SHARED = ("alloy", "nova")
ROUNDS = 2
TOLD = ("You sell", "does apricot", "does blueberry", "costs 1 coins", "like apricot", "like blueberry")
"""Pieces of prompts, words and replies."""


async def begin(tenant: Tenant, mark: str, voice: str) -> Call:
    """A call of a traced agent that is full of the mark."""
    config = examiner(tenant, f"You sell {mark}.")
    config.llm_config.model = f"model-of-{mark}"
    config.tts_config.voice = voice
    tracing = config.tracing_config
    tracing.enabled, tracing.base_url = True, await tenant.stage.vendors.traces_url()
    tracing.public_key = tenant.reference("langfuse_public")
    tracing.secret_key = tenant.reference("langfuse_secret")
    await tenant.create(config)
    return await tenant.call(user=f"user-{mark}")


async def talk(tenant: Tenant, call: Call, mark: str, voice: str) -> None:
    """Some turns; the caller hears the own agent alone."""
    for turn in range(1, ROUNDS + 1):
        said = {"tone": f"like {mark}", "answer": f"The {mark} costs {turn} coins.", "score": turn}
        await tenant.stage.vendors.answer(Fields(said), key=tenant.keys["openai"])
        reply = await call.turn(f"what does {mark} number {turn} cost")
        assert reply.words == f"what does {mark} number {turn} cost"
        assert reply.text == said["answer"]
        assert_in_voice(reply.heard.pitches, voice)
        assert shown(call.of("rpc"))[turn].fields == said


async def test_nothing_of_two_tenants_crosses(new_tenant: NewTenant) -> None:
    """While two tenants' calls run side by side, each one's vendors, logs, traces
    and frontend see its own words, keys and names alone."""
    tenants = (new_tenant(), new_tenant())
    each = list(zip(tenants, MARKS, SHARED, strict=True))
    calls = await asyncio.gather(*(begin(*about) for about in each))
    await asyncio.gather(
        *(talk(tenant, call, mark, voice) for (tenant, mark, voice), call in zip(each, calls, strict=True))
    )
    sessions = [await tenant.session() for tenant in tenants]
    await asyncio.gather(*(call.hang_up() for call in calls))
    for tenant, other, mark, foreign in zip(tenants, tenants[::-1], MARKS, MARKS[::-1], strict=True):
        await assert_requests(tenant, other, mark, foreign)
        await assert_traces(tenant, mark, foreign)
    for tenant, other, session in zip(tenants, tenants[::-1], sessions, strict=True):
        await tenant.session(session.session_id, state=session_pb2.SESSION_STATE_ENDED)
        assert_logs(tenant, other, session.session_id)
    for call, foreign in zip(calls, MARKS[::-1], strict=True):
        told = json.dumps([dict(event.fields) for event in call.events])
        assert foreign not in told


async def assert_requests(tenant: Tenant, other: Tenant, mark: str, foreign: str) -> None:
    """The tenant's keys carry the tenant's words, and nobody else's do."""
    vendors = tenant.stage.vendors
    heard = await vendors.requests(LISTEN, key=tenant.keys["deepgram"])
    asked = await vendors.requests(CHAT, key=tenant.keys["openai"])
    spoken = await vendors.requests(SPEECH, key=tenant.keys["voice"])
    assert (len(heard), len(asked), len(spoken)) == (1, ROUNDS, ROUNDS)
    assert {request.body["model"] for request in asked} == {f"model-of-{mark}"}
    assert len(conversation(asked[-1])) == 2 * ROUNDS - 1
    own = set(tenant.keys.values())
    for request in await vendors.requests():
        told = json.dumps([request.body, request.query, request.headers])
        assert not (request.key in own and (foreign in told or other.tenant_id in told))
        assert not (mark in told and request.key not in own)


async def assert_traces(tenant: Tenant, mark: str, foreign: str) -> None:
    """Spans went out with the tenant's keys, and are of the tenant alone."""
    keys = f"{tenant.keys['langfuse_public']}:{tenant.keys['langfuse_secret']}"
    await tenant.stage.vendors.wait_spans(keys, holding=mark)
    spans = await tenant.stage.vendors.spans(keys)
    assert {span.attributes["user.id"] for span in spans} == {f"user-{mark}"}
    assert not any(foreign in json.dumps(span.attributes) for span in spans)
    assert {span.keys for span in await tenant.stage.vendors.spans(holding=mark)} == {keys}


def assert_logs(tenant: Tenant, other: Tenant, session_id: str) -> None:
    """Each line of a session says whose it is; none holds words or keys."""
    log = tenant.stage.node.log.read_text()
    assert [said for said in (*tenant.keys.values(), *TOLD) if said in log] == []
    lines = tenant.stage.node.entries(session_id=session_id)
    assert lines
    assert {line["tenant_id"] for line in lines} == {tenant.tenant_id}
    assert not any(other.tenant_id in json.dumps(line) for line in lines)
