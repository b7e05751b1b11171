"""An existing LiveKit worker that sends a share of its calls to Voxplane.

    voxplane node                                    # without LIVEKIT_*: it only holds the configs
    export VOXPLANE_RELAY_SOCKET=$PWD/.voxplane/node/relay.sock
    VOXPLANE_PERCENT=10 python examples/dynamic_entrypoint.py dev

Three lines are new: the import, and the two that hand a call over. A caller who
is once in stays in while the share grows; one whose call Voxplane cannot begin
is answered by the agent as it was.
"""

from __future__ import annotations

import logging
import os

from hardcoded.pte_interview import PteInterviewer
from livekit.agents import AgentServer, AgentSession, JobContext, cli

from agent_node import run_call, takes_part

PERCENT = float(os.environ.get("VOXPLANE_PERCENT", "10"))

server = AgentServer()
logger = logging.getLogger("dynamic-entrypoint")


@server.rtc_session()
async def entrypoint(ctx: JobContext) -> None:
    """Each call gets an interviewer of its own."""
    user = ctx.job.metadata or ctx.job.room.name  # here a dispatch says who calls; else each room is new
    if takes_part(user, PERCENT) and await run_call(ctx, tenant="demo", agent="pte-interview", user=user):
        return
    logger.info("the hard-coded agent takes the call")
    await AgentSession().start(PteInterviewer(), room=ctx.room)


if __name__ == "__main__":
    cli.run_app(server)
