"""What survives when the control plane is killed."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import grpc

from bench.processes import command, free_port
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc

AGENTS = 20
UPDATES = 1_000
WRITERS = 100
KILLS_AFTER = (150, 400, 650)

Stub = agents_grpc.AgentServiceStub


def _update(number: int) -> agents_pb2.UpdateAgentConfigRequest:
    request = agents_pb2.UpdateAgentConfigRequest(
        tenant_id="crash",
        agent_id=f"a{number % AGENTS}",
        request_id=f"update-{number}",
        note=f"update {number}",
    )
    request.config.prompt_config.instructions = f"update {number}"
    request.update_mask.paths.append("prompt_config.instructions")
    return request


class _Writers:
    """WRITERS callers that retry until each of UPDATES is acknowledged."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._todo = list(range(UPDATES))
        random.Random(7).shuffle(self._todo)
        self.acknowledged: dict[int, tuple[int, int]] = {}
        self.reached = {count: asyncio.Event() for count in KILLS_AFTER}

    async def run(self) -> None:
        async with grpc.aio.insecure_channel(
            self._address, options=[("grpc.max_reconnect_backoff_ms", 200)]
        ) as channel:
            await asyncio.gather(*(self._writer(Stub(channel)) for _ in range(WRITERS)))

    async def _writer(self, stub: agents_grpc.AgentServiceAsyncStub) -> None:
        while self._todo:
            number = self._todo.pop()
            while True:
                try:
                    answer = await stub.UpdateAgentConfig(_update(number), wait_for_ready=True, timeout=60)
                except grpc.aio.AioRpcError as error:
                    if error.code() != grpc.StatusCode.UNAVAILABLE:
                        raise
                    continue
                break
            self.acknowledged[number] = (answer.version.number, answer.revision.number)
            for count, event in self.reached.items():
                if len(self.acknowledged) >= count:
                    event.set()


async def _create(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        for number in range(AGENTS):
            request = agents_pb2.CreateAgentRequest(tenant_id="crash", agent_id=f"a{number}")
            request.config.llm_config.provider = "offline"
            await Stub(channel).CreateAgent(request, wait_for_ready=True, timeout=60)


async def _stored(address: str) -> tuple[dict[int, tuple[int, int]], int]:
    found: dict[int, tuple[int, int]] = {}
    revision = 0
    async with grpc.aio.insecure_channel(address) as channel:
        for number in range(AGENTS):
            answer = await Stub(channel).ListAgentVersions(
                agents_pb2.ListAgentVersionsRequest(tenant_id="crash", agent_id=f"a{number}", page_size=1000),
                wait_for_ready=True,
            )
            assert not answer.next_page_token
            revision = answer.revision.number
            for version in answer.versions:
                if version.note:
                    update = int(version.note.removeprefix("update "))
                    assert update not in found, "an update was made twice"
                    found[update] = (version.number, version.revision)
    return found, revision


async def test_kill_9_loses_no_acknowledged_update(tmp_path: Path) -> None:
    """A control plane that is killed three times during 1,000 concurrent updates
    keeps every acknowledged one, once, at the revision that was acknowledged."""
    address = f"127.0.0.1:{free_port()}"
    options = ("serve", "--grpc-listen", address, "--data-dir", str(tmp_path))
    writers = _Writers(address)
    async with asyncio.TaskGroup() as group:
        writing: asyncio.Task[None] | None = None
        for kill_after in KILLS_AFTER:
            async with command(*options, log=tmp_path / "server.log") as running:
                if writing is None:
                    await _create(address)
                    writing = group.create_task(writers.run())
                await asyncio.wait_for(writers.reached[kill_after].wait(), 60)
                running.process.kill()
                await running.process.wait()
        assert writing is not None
        async with command(*options, log=tmp_path / "server.log"):
            await asyncio.wait_for(writing, 60)
            stored, revision = await _stored(address)
    assert len(writers.acknowledged) == UPDATES
    assert stored == writers.acknowledged
    assert revision == AGENTS + UPDATES
