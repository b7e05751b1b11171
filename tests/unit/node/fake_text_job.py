"""A text job that echoes: `python fake_text_job.py`, as the node starts it.

It ends as real ones do: when the stream of its session ends. Words of the user
make it misbehave: `die` ends the process, `finish` ends the session.
"""

from __future__ import annotations

import asyncio
import os
import sys

import grpc

from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc


def _say(**event: object) -> relay_pb2.ServeTextRequest:
    return relay_pb2.ServeTextRequest(chat=relay_pb2.ChatResponse(**event))  # type: ignore[arg-type]


async def _serve(socket: str) -> None:
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        call = relay_grpc.RelayServiceStub(channel).ServeText()
        await call.write(relay_pb2.ServeTextRequest(ready=relay_pb2.TextJobReady(pid=os.getpid())))
        async for message in call:
            if message.HasField("open"):
                opened = relay_pb2.ChatOpened(session_id=message.open.session_id, version=os.getpid())
                await call.write(_say(opened=opened))
            elif message.input.text == "die":
                os._exit(7)
            elif message.input.text == "finish":
                await call.done_writing()
            else:
                await call.write(_say(text_delta=message.input.text))


if __name__ == "__main__":
    if os.environ.get("FAKE_JOB_BROKEN"):
        sys.exit(3)
    try:
        asyncio.run(_serve(os.environ["VOXPLANE_RELAY_SOCKET"]))
    except grpc.aio.AioRpcError:
        sys.exit(1)
