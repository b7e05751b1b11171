"""The node's voice calls, on the side of its main process."""

from agent_node.calls.figures import CallFigures
from agent_node.calls.gate import Permission
from agent_node.calls.worker import CallSettings, CallWorker

__all__ = ["CallFigures", "CallSettings", "CallWorker", "Permission"]
