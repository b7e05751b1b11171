"""The fast edge: ConfigSyncService over a transport made for streams that are
many and quiet. Real gRPC on the wire."""

from control_plane.fast_edge.limits import Limits
from control_plane.fast_edge.listener import FastEdge

__all__ = ["FastEdge", "Limits"]
