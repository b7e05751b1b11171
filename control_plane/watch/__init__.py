"""The watch: streams of configs, and what they are sent."""

from control_plane.watch.hub import Hub, Stream, WatchSettings

__all__ = ["Hub", "Stream", "WatchSettings"]
