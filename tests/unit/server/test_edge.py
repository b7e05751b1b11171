"""What every call passes: ids, log lines, errors, validation of streams, health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from control_plane.edge.listen import ListenError
from control_plane.store import StoreError
from control_plane.store.memory import MemoryStore
from tests.unit.server.in_process import Served, refusal, served
from tests.unit.services.agent_requests import AGENT, TENANT, create, update
from voxplane.v1 import agent_service_pb2 as service_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc

GET = service_pb2.GetAgentRequest(tenant_id=TENANT, agent_id=AGENT)


class BrokenStore(MemoryStore):
    """Fails in every load, with `error`."""

    error: Exception = RuntimeError("the answer is sk-secret")

    async def changes(self, *_: object, **__: object) -> list[object]:  # type: ignore[override]
        """See LogStore."""
        raise self.error


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Served]:
    """A control plane with one agent."""
    async with served(tmp_path) as it:
        await it.agents.CreateAgent(create())
        yield it


async def test_a_call_keeps_the_id_that_the_client_gave(running: Served) -> None:
    """The id of the metadata comes back, on success and on failure; without one,
    or with one that is not fit for a log, the server makes one."""
    call = running.agents.GetAgent(GET, metadata=(("x-request-id", "abc-1"),))
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "abc-1"
    other = service_pb2.GetAgentRequest(tenant_id=TENANT, agent_id="none")
    refused = await refusal(running.agents.GetAgent(other, metadata=(("x-request-id", "abc-2"),)))
    assert refused.trailers["x-request-id"] == "abc-2"
    call = running.agents.GetAgent(GET, metadata=(("x-request-id", 'a"b c'),))
    await call
    assert len(dict(await call.trailing_metadata())["x-request-id"]) == 32


async def test_each_call_has_one_line_without_contents(running: Served) -> None:
    """A call is logged once: method, code, ms, request_id, tenant_id, agent and
    revision, and nothing of what it says."""
    with capture_logs() as lines:
        await running.agents.UpdateAgentConfig(
            update("Confidential.", note="private"), metadata=(("x-request-id", "abc"),)
        )
        await refusal(running.agents.CreateAgent(create(), metadata=(("x-request-id", "abd"),)))
        # A client has the answer before the line is written.
        while not {"abc", "abd"} <= {line.get("request_id") for line in lines}:
            await running.agents.GetAgent(GET)
    done, refused = (line for line in lines if line.get("request_id") in ("abc", "abd"))
    assert done.pop("ms") > 0
    assert done == {
        "event": "call",
        "log_level": "info",
        "method": "voxplane.v1.AgentService/UpdateAgentConfig",
        "code": "OK",
        "request_id": "abc",
        "tenant_id": TENANT,
        "agent": f"tenants/{TENANT}/agents/{AGENT}",
        "revision": 2,
    }
    assert refused["code"] == "ALREADY_EXISTS"
    assert "Confidential" not in str(lines)
    assert "private" not in str(lines)


async def test_a_fault_of_ours_says_nothing_but_its_id(tmp_path: Path) -> None:
    """An unexpected exception is INTERNAL with the request_id; the log has it."""
    async with served(tmp_path, BrokenStore()) as running:
        with capture_logs() as lines:
            found = await refusal(running.agents.GetAgent(GET, metadata=(("x-request-id", "abc"),)))
    assert (found.code, found.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "sk-secret" not in str(found.status)
    assert "abc" in str(found.status)
    (fault,) = [line for line in lines if line["log_level"] == "error"]
    assert (fault["request_id"], fault["exc_info"]) == ("abc", True)


async def test_a_store_that_is_away_can_be_retried(tmp_path: Path) -> None:
    """A store failure is UNAVAILABLE with RetryInfo."""
    store = BrokenStore()
    store.error = StoreError("no disk")
    async with served(tmp_path, store) as running:
        found = await refusal(running.agents.GetAgent(GET))
    assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in found.status.details)
    assert retry.retry_delay.seconds == 1


async def test_each_message_of_a_client_stream_is_validated(running: Served) -> None:
    """A bad message ends a client's stream with its violations."""
    stub = sync_grpc.ConfigSyncServiceStub(running.channel)
    call = stub.StreamConfigStatus()
    await call.write(sync_pb2.StreamConfigStatusRequest())
    await call.done_writing()
    found = await refusal(call)
    assert (found.reason, set(found.fields)) == ("INVALID_REQUEST", {"report"})


async def test_what_the_contract_does_not_have_is_not_stored(running: Served) -> None:
    """Fields that the server does not know are dropped, at every depth."""
    request = update("New.")
    unknown = b"\xfa\x3e\x06secret"
    request.config.llm_config.MergeFromString(unknown)
    request.config.prompt_config.MergeFromString(unknown)
    request.update_mask.paths.append("llm_config")
    request.config.llm_config.provider = "offline"
    await running.agents.UpdateAgentConfig(request)
    read = service_pb2.GetAgentVersionRequest(tenant_id=TENANT, agent_id=AGENT)
    version = (await running.agents.GetAgentVersion(read)).version
    assert version.config.prompt_config.instructions == "New."
    assert b"secret" in request.SerializeToString()
    assert b"secret" not in version.SerializeToString()


async def test_a_long_request_is_judged_like_a_short_one(running: Served) -> None:
    """Large schemas and heavy templates pass, and are refused with their paths."""
    request = create("large")
    for number in range(60):
        field = request.config.schema_config.fields.add(field_name=f"f{number}", field_type="string")
        field.description = "What it means. " * 30
    request.config.prompt_config.instructions = (
        "Not judged before: test_edge. {% for i in (1..9) %}{{ i }}{% endfor %}"
    )
    assert (await running.agents.CreateAgent(request)).version.number == 1
    request.agent_id = "larger"
    request.config.schema_config.fields[7].constraints.pattern = "("
    found = await refusal(running.agents.CreateAgent(request))
    assert set(found.fields) == {"config.schema_config.fields[7].constraints.pattern"}
    request.config.schema_config.fields[7].field_type = "nothing"
    found = await refusal(running.agents.CreateAgent(request))
    assert "config.schema_config.fields[7].field_type" in found.fields
    preview = service_pb2.RenderPromptRequest(tenant_id=TENANT, agent_id="large")
    assert (
        await running.agents.RenderPrompt(preview)
    ).instructions == "Not judged before: test_edge. 123456789"


async def test_a_bad_watch_is_refused(running: Served) -> None:
    """The first message of a server stream is validated like any request."""
    call = sync_grpc.ConfigSyncServiceStub(running.channel).WatchConfig(
        sync_pb2.WatchConfigRequest(tenant_id="Not A Tenant")
    )
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call.read()
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_watch_shows_a_commit(running: Served) -> None:
    """The whole server is wired: a commit by one service is streamed by another."""
    call = sync_grpc.ConfigSyncServiceStub(running.channel).WatchConfig(
        sync_pb2.WatchConfigRequest(tenant_id=TENANT)
    )
    first = await call.read()
    assert isinstance(first, sync_pb2.WatchConfigResponse)
    assert first.transfer.revision.number == 1
    await running.agents.UpdateAgentConfig(update("New."))
    second = await call.read()
    assert isinstance(second, sync_pb2.WatchConfigResponse)
    assert second.transfer.contents[0].config.prompt_config.instructions == "New."
    call.cancel()


async def test_calls_pass_the_tracing_interceptor(tmp_path: Path) -> None:
    """With tracing on, calls and streams work and are refused as without."""
    async with served(tmp_path, tracing=True) as running:
        await running.agents.CreateAgent(create())
        call = sync_grpc.ConfigSyncServiceStub(running.channel).WatchConfig(
            sync_pb2.WatchConfigRequest(tenant_id=TENANT)
        )
        first = await call.read()
        assert isinstance(first, sync_pb2.WatchConfigResponse)
        assert first.transfer.revision.number == 1
        call.cancel()
        assert (await refusal(running.agents.CreateAgent(create()))).reason == "AGENT_EXISTS"


async def test_a_cancelled_watch_is_logged_as_such(running: Served) -> None:
    """A stream that its client gives up ends in one line, and the server goes on."""
    call = sync_grpc.ConfigSyncServiceStub(running.channel).WatchConfig(
        sync_pb2.WatchConfigRequest(tenant_id=TENANT)
    )
    await call.read()
    with capture_logs() as lines:
        call.cancel()
        while not lines:
            await running.agents.GetAgent(GET)
            lines[:] = [line for line in lines if "WatchConfig" in line["method"]]
    assert lines[0]["code"] == "CANCELLED"


async def test_health_and_reflection(tmp_path: Path) -> None:
    """Health is SERVING by service while calls are served, and a watcher of it
    hears when the server leaves; reflection lists all services."""
    async with served(tmp_path) as running:
        stub = health_pb2_grpc.HealthStub(running.channel)
        for service in ("", "voxplane.v1.AgentService", "voxplane.v1.NodeService"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        reflected = reflection_pb2_grpc.ServerReflectionStub(running.channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        listed = {s.name async for answer in reflected for s in answer.list_services_response.service}
        assert {f"voxplane.v1.{name}Service" for name in ("Agent", "ConfigSync", "Node")} <= listed
        stopping = asyncio.ensure_future(running.control_plane.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        await stopping


async def test_one_address_has_one_server(running: Served, tmp_path: Path) -> None:
    """A second server on a Unix socket is refused, and the first goes on."""
    with pytest.raises(ListenError, match="another server"):
        async with served(tmp_path):
            pass
    await running.agents.GetAgent(GET)


async def test_a_bad_id_is_not_written_to_the_log(running: Served) -> None:
    """What stands in place of an id, of any length, stays out of the call's line."""
    with capture_logs() as lines:
        bad = service_pb2.GetAgentRequest(tenant_id="sk-" + "x1" * 5_000, agent_id="No Id")
        assert (await refusal(running.agents.GetAgent(bad))).reason == "INVALID_REQUEST"
    assert all(len(str(line)) < 500 and "sk-x1" not in str(line) for line in lines)
