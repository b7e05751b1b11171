"""What the control plane is told of the node's sessions, and what it wants of
them: one stream, and a spool on disk behind it."""

from agent_node.sessions.spool import Spool
from agent_node.sessions.uplink import SessionUplink, UplinkFigures

__all__ = ["SessionUplink", "Spool", "UplinkFigures"]
