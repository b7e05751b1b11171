"""The fleet: what each node was sent, has acknowledged and runs."""

from control_plane.fleet.convergence import Rollcall, Target, judge
from control_plane.fleet.fleet import Changes, Fleet
from control_plane.fleet.records import NodeRecord, SentLevel
from control_plane.fleet.render import node_message

__all__ = [
    "Changes",
    "Fleet",
    "NodeRecord",
    "Rollcall",
    "SentLevel",
    "Target",
    "judge",
    "node_message",
]
