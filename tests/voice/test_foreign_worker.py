"""A worker of somebody else's, with an entrypoint of its own, hands calls over."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from livekit import api

from tests.livekit.calls import Call
from tests.livekit.inside import LIVEKIT_URL
from tests.livekit.program import Program
from tests.livekit.stage import API_KEY, API_SECRET, Stage
from tests.livekit.tenants import FIELDS_METHOD, TOPICS, Tenant
from tests.vendors import Fields, ToolCall
from tests.voice.examiner import CHAT, examiner
from voxplane.v1 import session_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

AGENT = "pte-interview"
REGISTERED_SECONDS_MAX = 60.0
POLL_SECONDS = 0.05


@pytest_asyncio.fixture(loop_scope="session")
async def worker(stage: Stage) -> AsyncIterator[Program]:
    """The example's worker; all of its calls are to go to Voxplane. The node only holds the configs."""
    program = Program(
        "foreign",
        (sys.executable, "-m", "tests.voice.busy_worker", "start"),
        namespace=stage.network,
        folder=stage.folder,
        environment={
            "LIVEKIT_URL": LIVEKIT_URL,
            "LIVEKIT_API_KEY": API_KEY,
            "LIVEKIT_API_SECRET": API_SECRET,
            "OPENAI_API_KEY": "of-the-hard-coded-agent",
            "DEEPGRAM_API_KEY": "of-the-hard-coded-agent",
            "VOXPLANE_PERCENT": "100",
            "VOXPLANE_RELAY_SOCKET": str(stage.folder / "node-1" / "node" / "relay.sock"),
            "VOXPLANE_SECRET_DIRS": str(stage.secrets),
        },
    )
    await program.start()
    async with asyncio.timeout(REGISTERED_SECONDS_MAX):
        while True:
            if "registered worker" in program.log.read_text():
                break
            await asyncio.sleep(POLL_SECONDS)
    yield program
    await program.stop()


async def answered(tenant: Tenant) -> Call:
    """A call without a dispatch, which the worker takes as it takes all."""
    call = tenant.line()
    token = api.AccessToken(API_KEY, API_SECRET).with_identity("caller")
    token = token.with_grants(api.VideoGrants(room_join=True, room=call.room))
    await call.join(token.to_jwt(), methods=[FIELDS_METHOD], topics=TOPICS)
    await call.agent("listening")
    return call


async def test_a_call_in_somebody_else_s_worker_is_like_any_other(stage: Stage, worker: Program) -> None:
    """It is answered by the control plane's agent, may call the worker's own tools, takes a change
    at its next turn, brings the fields by RPC, and is on record; its job ends with it."""
    tenant = Tenant(stage, "demo")
    await tenant.create(examiner(tenant), AGENT)
    call = await answered(tenant)
    await stage.vendors.answer(Fields({"answer": "Welcome."}), key=tenant.keys["openai"])
    assert (await call.turn("good morning")).text == "Welcome."
    assert call.of("rpc")

    told = ToolCall("meaning", {"word": "fluent"}), Fields({"answer": "It is easy speech."})
    await stage.vendors.answer(*told, key=tenant.keys["openai"])
    assert (await call.turn("what is fluent")).text == "It is easy speech."
    asked = (await stage.vendors.requests(CHAT, key=tenant.keys["openai"]))[-1].body["messages"]
    assert [each["content"] for each in asked if each["role"] == "tool"] == ["able to speak easily"]

    config = examiner(tenant, "You examine strictly.")
    changed = await tenant.update(config, "prompt_config.instructions", agent_id=AGENT)
    session = await tenant.session()
    await stage.vendors.answer(Fields({"answer": "And now?"}), key=tenant.keys["openai"])
    assert (await call.turn("i am ready")).text == "And now?"
    asked = (await stage.vendors.requests(CHAT, key=tenant.keys["openai"]))[-1].body["messages"]
    assert asked[0]["content"].strip() == "You examine strictly."
    turns = await tenant.turns(session.session_id, 3)
    assert [turn.version for turn in turns] == [1, 1, changed.version.number]

    began = time.monotonic()
    await call.hang_up()
    ended = await tenant.session(session.session_id, state=session_pb2.SESSION_STATE_ENDED)
    assert ended.outcome == session_pb2.SESSION_OUTCOME_CALLER_LEFT
    assert time.monotonic() - began < 10
    assert "the hard-coded agent takes the call" not in worker.log.read_text()
