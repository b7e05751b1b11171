"""What grpc.aio takes without us: `python -m bench.bare -client URL`.

It answers what the load client sends, as the control plane would, with no
check, no state and no disk: each change is one message, made once, and every
stream writes it. Channel options are the control plane's.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any
from urllib.parse import urlsplit

import grpc

from control_plane.edge.listen import make_server
from voxplane.names import agent_name
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import bundle_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

_Context = grpc.aio.ServicerContext[Any, Any]


class Bare:
    """The newest message, and those who wait for the next."""

    def __init__(self) -> None:
        self._revision = 0
        self._message = b""
        self._next = asyncio.get_running_loop().create_future()

    async def change(self, request: agents_pb2.UpdateAgentConfigRequest, context: _Context) -> bytes:
        """CreateAgent and UpdateAgentConfig, which are alike in what counts here."""
        self._revision += 1
        name, etag = agent_name(request.tenant_id, request.agent_id), f"{self._revision:064}"
        message = sync_pb2.WatchConfigResponse(stream_id="bare", nonce=str(self._revision))
        message.transfer.tenant_id = request.tenant_id
        message.transfer.revision.number = self._revision
        message.transfer.start.intent = sync_pb2.TRANSFER_INTENT_DELTA
        message.transfer.contents.add(content_hash=etag, config=request.config)
        message.transfer.bundles.append(bundle_pb2.AgentBundle(name=name, etag=etag, revision=self._revision))
        message.transfer.synced.bundle_count = 1
        self._message = message.SerializeToString()
        waiting, self._next = self._next, asyncio.get_running_loop().create_future()
        waiting.set_result(None)
        return agents_pb2.UpdateAgentConfigResponse().SerializeToString()

    async def watch(self, request: sync_pb2.WatchConfigRequest, context: _Context) -> None:
        """WatchConfig."""
        revision = 0
        while True:
            while revision == self._revision:
                await asyncio.shield(self._next)
            revision = self._revision
            await context.write(self._message)


async def serve(address: str) -> None:
    """Serve until it is cancelled."""
    bare = Bare()
    change: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
        bare.change,  # pyright: ignore[reportArgumentType]
        request_deserializer=agents_pb2.UpdateAgentConfigRequest.FromString,
    )
    watch: grpc.RpcMethodHandler[Any, Any] = grpc.unary_stream_rpc_method_handler(
        bare.watch,  # pyright: ignore[reportArgumentType]
        request_deserializer=sync_pb2.WatchConfigRequest.FromString,
    )
    server = make_server(())
    agents = {"CreateAgent": change, "UpdateAgentConfig": change}
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("voxplane.v1.AgentService", agents),
            grpc.method_handlers_generic_handler("voxplane.v1.ConfigSyncService", {"WatchConfig": watch}),
        )
    )
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-client", required=True, help="URL for clients, as etcd takes it")
    options = parser.parse_args()
    asyncio.run(serve(urlsplit(str(options.client)).netloc))
