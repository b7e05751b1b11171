"""The agent node: one stream upstream, a cache, a relay, and the jobs.

What is exported here is for LiveKit workers that are not the node's own, and
send some of their calls to it; see docs/migrating.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voxplane.buckets import takes_part

if TYPE_CHECKING:
    from agent_node.job.adopted import run_call

__all__ = ["run_call", "takes_part"]


def __getattr__(name: str) -> object:
    """Import LiveKit and its plugins when they are asked for: the node's main
    process does without."""
    if name == "run_call":
        from agent_node.job.adopted import run_call

        return run_call
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
