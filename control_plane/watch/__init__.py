"""The watch: streams of configs, and what they are sent."""

from control_plane.watch.hub import Hub, WatchSettings
from control_plane.watch.rights import EVERY_AGENT, NOTHING, EveryRight, Permit, Rights
from control_plane.watch.serving import Stream

__all__ = [
    "EVERY_AGENT",
    "NOTHING",
    "EveryRight",
    "Hub",
    "Permit",
    "Rights",
    "Stream",
    "WatchSettings",
]
