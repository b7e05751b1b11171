"""The load process of bench.watch: N streams, one connection each.

Messages are counted and not parsed, so that the load costs little. A line on
stdout for each round that all streams have: the clock when the last had it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time

import grpc

from voxplane.v1 import config_sync_service_pb2 as sync_pb2

METHOD = "/voxplane.v1.ConfigSyncService/WatchConfig"
HEARTBEAT_BYTES_MAX = 200
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


class Rounds:
    """Counts the streams that have had the message of a round."""

    def __init__(self, streams: int) -> None:
        self._streams = streams
        self._had = 0

    def one(self) -> None:
        """One more stream has it."""
        self._had += 1
        if self._had == self._streams:
            self._had = 0
            print(f"{time.time():.6f}", flush=True)


async def _stream(address: str, tenant: str, number: int, rounds: Rounds) -> None:
    request = sync_pb2.WatchConfigRequest(tenant_id=tenant, node=sync_pb2.NodeInfo(node_id=f"load-{number}"))
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        call = channel.unary_stream(
            METHOD,
            request_serializer=sync_pb2.WatchConfigRequest.SerializeToString,
            response_deserializer=bytes,
        )
        async for message in call(request):
            if len(message) > HEARTBEAT_BYTES_MAX:
                rounds.one()


async def _main(address: str, tenant: str, streams: int) -> None:
    rounds = Rounds(streams)
    gc.disable()
    async with asyncio.TaskGroup() as group:
        for number in range(streams):
            group.create_task(_stream(address, tenant, number, rounds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--streams", type=int, required=True)
    options = parser.parse_args()
    asyncio.run(_main(options.address, options.tenant, options.streams))
