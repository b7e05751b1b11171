"""The job of a voice call: a process of its own, which gets its config from the
node's relay and so takes changes while the call runs.

One generic agent name serves all tenants: the caller comes in the job's
metadata. The main process' side is agent_node.calls.
"""

from __future__ import annotations

import structlog
from livekit.agents import JobContext, JobProcess

# plugins register on the main thread, when they are imported
import agent_node.providers as _providers
from agent_node.job import voice_session
from agent_node.job.fork_server import die_with_parent
from agent_node.job.job_logs import configure_job_logs
from agent_node.job.relay_client import RelayClosedError
from agent_node.job.voice_request import caller_of
from voxplane.errors import VoxplaneError

PRELOADED_MODULES = ("agent_node.job.fork_server", _providers.__name__, "agent_node.job.voice")
"""What the fork server imports for all jobs; the first is for itself."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


def prepare(process: JobProcess) -> None:
    """Make an idle job process ready for its call."""
    die_with_parent()
    configure_job_logs()
    _providers.warm_providers()
    _providers.warm_vad()


async def entrypoint(ctx: JobContext) -> None:
    """Run one call, in its own process. A call that cannot start ends its job."""
    try:
        await voice_session.run_call(ctx, caller_of(ctx.job.metadata, ctx.job.id))
    except (VoxplaneError, RelayClosedError, TimeoutError) as error:
        why = error.reason_name if isinstance(error, VoxplaneError) else str(error) or type(error).__name__
        _log.error("the call cannot start", job_id=ctx.job.id, reason=why)
        ctx.shutdown(reason=f"the call cannot start: {why}")
