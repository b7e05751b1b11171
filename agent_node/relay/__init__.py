"""The node's inner side: bundles to jobs, statuses back, text sessions."""

from agent_node.relay.admission import Admission
from agent_node.relay.board import Board
from agent_node.relay.listen import SocketTaken, bind, claim
from agent_node.relay.node_status import NodeStatus
from agent_node.relay.service import RelayService
from agent_node.relay.sessions import Orphan, SessionDesk
from agent_node.relay.staging import Check, Stager
from agent_node.relay.text_pool import TextPool

__all__ = [
    "Admission",
    "Board",
    "Check",
    "NodeStatus",
    "Orphan",
    "RelayService",
    "SessionDesk",
    "SocketTaken",
    "Stager",
    "TextPool",
    "bind",
    "claim",
]
