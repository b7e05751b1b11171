"""The demo tenant: agents that need no key, from the files of examples/demo."""

from __future__ import annotations

from importlib import resources

import grpc

from voxplane.cli.connect import CALL_SECONDS_MAX, Client
from voxplane.cli.files import read_config
from voxplane.v1 import agent_config_pb2
from voxplane.v1 import agent_service_pb2 as pb2

SUFFIX = ".yaml"


def demo_configs() -> dict[str, agent_config_pb2.AgentConfig]:
    """The demo's configs by agent id."""
    folder = resources.files("voxplane.cli") / "demo"
    files = sorted(file.name for file in folder.iterdir() if file.name.endswith(SUFFIX))
    return {name.removesuffix(SUFFIX): read_config(str(folder / name)) for name in files}


async def load_demo(client: Client, tenant: str) -> list[str]:
    """Create the demo's agents that are not there yet, and return their ids.
    Agents that exist, also deleted ones, stay as they are."""
    made: list[str] = []
    for agent_id, config in demo_configs().items():
        request = pb2.CreateAgentRequest(
            tenant_id=tenant, agent_id=agent_id, config=config, note="from the demo's files"
        )
        try:
            await client.agents.CreateAgent(request, timeout=CALL_SECONDS_MAX)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise
        else:
            made.append(agent_id)
    return made
