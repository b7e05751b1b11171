"""The real OpenAI plugin in a text job's own process, swapped over the relay."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.vendors import Vendors
from voxplane.digest import content_hash
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig

CHAT = "/v1/chat/completions"
STEP_SECONDS_MAX = 30
CALLER = relay_pb2.CallerContext(session_id="s-1", tenant_id="acme", agent_id="sales", user_id="ann")


class OneJobRelay(relay_grpc.RelayServiceServicer):
    """A relay for one job, which the test speaks to by queues."""

    def __init__(self) -> None:
        self.bundles: asyncio.Queue[relay_pb2.BundleDelivery] = asyncio.Queue()
        self.inputs: asyncio.Queue[str] = asyncio.Queue()
        self.chats: asyncio.Queue[relay_pb2.ChatResponse] = asyncio.Queue()

    async def Attach(self, request_iterator: Any, context: Any) -> AsyncIterator[relay_pb2.AttachResponse]:  # noqa: N802
        """Deliver what the test puts."""
        while True:
            yield relay_pb2.AttachResponse(bundle=await self.bundles.get())

    async def ServeText(  # noqa: N802
        self, request_iterator: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Open one session, and pass on what is said."""
        await anext(request_iterator)
        await context.write(relay_pb2.ServeTextResponse(open=CALLER))
        listening = asyncio.create_task(self._listen(request_iterator))
        try:
            while True:
                text = await self.inputs.get()
                await context.write(relay_pb2.ServeTextResponse(input=relay_pb2.ChatInput(text=text)))
        finally:
            listening.cancel()

    async def event(self, kind: str) -> relay_pb2.ChatResponse:
        """The next event of a kind; others before it are let pass."""
        async with asyncio.timeout(STEP_SECONDS_MAX):
            while not (response := await self.chats.get()).HasField(kind):  # pyright: ignore[reportArgumentType]
                assert not response.HasField("error"), response.error
            return response

    async def _listen(self, request_iterator: Any) -> None:
        async for request in request_iterator:
            self.chats.put_nowait(request.chat)


def delivery(config: AgentConfig, version: int) -> relay_pb2.BundleDelivery:
    """The config as the live version."""
    made = relay_pb2.BundleDelivery()
    made.bundle.name, made.bundle.etag = "tenants/acme/agents/sales", content_hash(config)
    made.bundle.revision = made.bundle.aliases["live"] = version
    made.bundle.versions.add(number=version, content_hash=made.bundle.etag)
    made.contents.add(content_hash=made.bundle.etag).config.CopyFrom(config)
    return made


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[OneJobRelay]:
    """The relay, and a job's process on it."""
    servicer = OneJobRelay()
    server = grpc.aio.server()
    relay_grpc.add_RelayServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{tmp_path}/r.sock")
    await server.start()
    job = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent_node.job.text"),
        stdin=asyncio.subprocess.PIPE,
        env=os.environ | {"VOXPLANE_RELAY_SOCKET": f"{tmp_path}/r.sock", "OPENAI_API_KEY": "o" * 20},
    )
    yield servicer
    assert job.stdin is not None
    job.stdin.close()
    assert await asyncio.wait_for(job.wait(), STEP_SECONDS_MAX) == 0
    await server.stop(0)


async def test_a_job_swaps_openais_model_between_two_turns(relay: OneJobRelay) -> None:
    """The job's next turn is asked of the new model, at the new temperature, with the history kept."""
    async with Vendors() as vendors:
        config = AgentConfig()
        config.prompt_config.instructions = "You sell to {{ user_id }}."
        llm = config.llm_config
        llm.provider, llm.model, llm.temperature, llm.base_url = "openai", "gpt-one", 0.2, vendors.openai_url
        await relay.bundles.put(delivery(config, 1))
        await relay.event("opened")
        await relay.inputs.put("first")
        first = (await relay.event("turn")).turn

        llm.model, llm.temperature = "gpt-two", 0.9
        await relay.bundles.put(delivery(config, 2))
        swap = (await relay.event("swap")).swap
        assert swap.phase == sync_pb2.CONFIG_PHASE_APPLIED
        assert list(swap.changed_fields) == ["llm_config.model", "llm_config.temperature"]
        await relay.inputs.put("second")
        second = (await relay.event("turn")).turn

        one, two = (request.body for request in vendors.recorder.of(CHAT))
        assert (one["model"], one["temperature"]) == ("gpt-one", 0.2)
        assert (two["model"], two["temperature"]) == ("gpt-two", 0.9)
        assert [m["content"] for m in two["messages"] if m["role"] == "user"] == ["first", "second"]
        assert (first.version, second.version) == (1, 2)
        assert second.text.startswith("[openai stub] gpt-two")
