"""The fleet: what each node was sent, has acknowledged and runs."""

from control_plane.fleet.convergence import Rollcall
from control_plane.fleet.fleet import Changes, Fleet
from control_plane.fleet.records import NodeRecord, SentLevel
from control_plane.fleet.render import node_message
from control_plane.fleet.standing import Target
from control_plane.fleet.steps import WORK_OF_MESSAGE, Steps, at_once, in_turns
from control_plane.fleet.survey import Survey, survey_answers

__all__ = [
    "WORK_OF_MESSAGE",
    "Changes",
    "Fleet",
    "NodeRecord",
    "Rollcall",
    "SentLevel",
    "Steps",
    "Survey",
    "Target",
    "at_once",
    "in_turns",
    "node_message",
    "survey_answers",
]
