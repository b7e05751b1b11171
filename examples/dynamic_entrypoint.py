"""An existing LiveKit worker that sends a share of its calls to Voxplane.

    voxplane node                                    # without LIVEKIT_*: it only holds the configs
    export VOXPLANE_RELAY_SOCKET=$PWD/.voxplane/node/relay.sock
    VOXPLANE_PERCENT=10 python examples/dynamic_entrypoint.py dev

New are the import and the lines that hand a call over. A caller who
is once in stays in while the share grows; one whose call Voxplane cannot begin
is answered by the agent as it was. Tools that are Python stay so.
"""

from __future__ import annotations

import logging
import os

from hardcoded.pte_interview import PteInterviewer
from livekit.agents import AgentServer, AgentSession, JobContext, cli, function_tool

from agent_node import run_call, takes_part

PERCENT = float(os.environ.get("VOXPLANE_PERCENT", "10"))

server = AgentServer()
logger = logging.getLogger("dynamic-entrypoint")


@function_tool
async def meaning(word: str) -> str:
    """Looks up what a word means.

    Args:
        word: The word, in English.
    """
    return {"fluent": "able to speak easily"}.get(word, "it is in no dictionary of ours")


@server.rtc_session()
async def entrypoint(ctx: JobContext) -> None:
    """Each call gets an interviewer of its own."""
    user = ctx.job.metadata or ctx.job.room.name  # here a dispatch says who calls; else each room is new
    about = {"tenant": "demo", "agent": "pte-interview", "user": user}
    if takes_part(user, PERCENT) and await run_call(ctx, **about, tools=[meaning]):
        return
    logger.info("the hard-coded agent takes the call")
    await AgentSession().start(PteInterviewer(), room=ctx.room)


if __name__ == "__main__":
    cli.run_app(server)
