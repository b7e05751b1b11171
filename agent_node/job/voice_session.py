"""One voice call."""

from __future__ import annotations

from livekit.agents import JobContext

from voxplane.node.v1.relay_service_pb2 import CallerContext


async def run_call(ctx: JobContext, caller: CallerContext) -> None:
    """Placeholder."""
    raise NotImplementedError
