"""Traces of a call that are switched while it goes on."""

from __future__ import annotations

import pytest

from tests.livekit.tenants import Tenant
from tests.voice.examiner import examiner
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as sessions_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_traces_off_on_and_off_again_in_one_call(tenant: Tenant) -> None:
    """Each switch counts from the next turn on, and the turns between are traced whole."""
    vendors = tenant.stage.vendors
    config = examiner(tenant)
    tracing = config.tracing_config
    tracing.base_url = await vendors.traces_url()
    tracing.public_key = tenant.reference("langfuse_public")
    tracing.secret_key = tenant.reference("langfuse_secret")
    await tenant.create(config)
    call = await tenant.call(user="ann")
    session = await tenant.session()
    await call.turn("this is not traced")

    await trace(tenant, session.session_id, traced=True)
    await call.turn("this one is traced")
    keys = f"{tenant.keys['langfuse_public']}:{tenant.keys['langfuse_secret']}"
    await vendors.wait_spans(keys, holding="this one is traced")

    await trace(tenant, session.session_id, traced=False)
    await call.turn("this again is not")
    await call.hang_up()
    await tenant.session(session.session_id, state=session_pb2.SESSION_STATE_ENDED)

    spans = await vendors.spans(keys)
    told = "\n".join(str(span.attributes.values()) for span in spans)
    assert {"llm_request", "tts_request", "agent_turn"} <= {span.name for span in spans}
    # a later request of the model would repeat what was said before
    assert "this again is not" not in told
    for span in spans:
        assert span.attributes["session.id"] == session.session_id
        assert span.attributes["user.id"] == "ann"
        assert f"tenant:{tenant.tenant_id}" in span.attributes["langfuse.trace.tags"]


async def trace(tenant: Tenant, session_id: str, *, traced: bool) -> None:
    """Switch the session's traces."""
    await tenant.sessions.SetSessionTracing(
        sessions_pb2.SetSessionTracingRequest(
            tenant_id=tenant.tenant_id, session_id=session_id, enabled=traced
        )
    )
