"""`voxplane serve` as a process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import grpc
import pytest

from bench.processes import free_port
from tests.unit.services.agent_requests import TENANT, create
from voxplane.v1 import agent_service_pb2 as service_pb2
from voxplane.v1 import agent_service_pb2_grpc as service_grpc
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc

RUN = "import typer; from control_plane.server import command; typer.run(command)"
STOP_SECONDS_MAX = 5


async def start(*arguments: str) -> asyncio.subprocess.Process:
    """Run the command, without waiting for it."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN, *arguments), stderr=asyncio.subprocess.PIPE
    )


async def line(process: asyncio.subprocess.Process) -> dict[str, object]:
    """The next line of the log."""
    assert process.stderr is not None
    return json.loads(await asyncio.wait_for(process.stderr.readline(), 30))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_peace(tmp_path: Path, number: signal.Signals) -> None:
    """It says when it is ready, and ends by a signal with 0, no traceback and an
    open watch told when to connect again, and then ended."""
    address = f"127.0.0.1:{free_port()}"
    process = await start("--grpc-listen", address, "--data-dir", str(tmp_path))
    ready = await line(process)
    assert (ready["event"], ready["grpc"], ready["store"]) == ("ready", address, "sqlite")
    async with grpc.aio.insecure_channel(address) as channel:
        await service_grpc.AgentServiceStub(channel).CreateAgent(create())
        watch = sync_grpc.ConfigSyncServiceStub(channel).WatchConfig(
            sync_pb2.WatchConfigRequest(tenant_id=TENANT)
        )
        await watch.read()
        process.send_signal(number)
        drain = await watch.read()
        assert isinstance(drain, sync_pb2.WatchConfigResponse)
        assert drain.drain.reason == sync_pb2.DRAIN_REASON_SHUTDOWN
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await watch.read()
    assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
    _, log = await asyncio.wait_for(process.communicate(), STOP_SECONDS_MAX)
    assert process.returncode == 0
    events = [json.loads(each)["event"] for each in log.splitlines()]
    assert "stopping" in events
    assert events[-1] == "stopped"


async def test_a_taken_port_is_explained(tmp_path: Path) -> None:
    """A second server on the port ends at once with 1 and says why, in one line."""
    address = f"127.0.0.1:{free_port()}"
    first = await start("--grpc-listen", address, "--store", "memory")
    await line(first)
    second = await start("--grpc-listen", address, "--store", "memory")
    _, log = await asyncio.wait_for(second.communicate(), 30)
    assert second.returncode == 1
    assert log.decode().splitlines() == [
        f"voxplane serve: cannot listen on {address}: Address already in use"
    ]
    async with grpc.aio.insecure_channel(address) as channel:
        await service_grpc.AgentServiceStub(channel).ListAgents(
            service_pb2.ListAgentsRequest(tenant_id=TENANT)
        )
    first.terminate()
    await first.communicate()


async def test_a_taken_data_folder_is_explained(tmp_path: Path) -> None:
    """Two servers cannot share a database; the second says so."""
    first = await start("--grpc-listen", f"unix:{tmp_path}/a.sock", "--data-dir", str(tmp_path))
    await line(first)
    second = await start("--grpc-listen", f"unix:{tmp_path}/b.sock", "--data-dir", str(tmp_path))
    _, log = await asyncio.wait_for(second.communicate(), 30)
    assert (second.returncode, "in use by another process" in log.decode()) == (1, True)
    first.terminate()
    await first.communicate()
