"""The node's one stream to the control plane, its reports and its cache."""

from agent_node.upstream.cache import Cached, DiskCache
from agent_node.upstream.client import Upstream, connect
from agent_node.upstream.edge_way import EdgeWay
from agent_node.upstream.events import NO_TENANT
from agent_node.upstream.figures import Figures
from agent_node.upstream.freshness import Freshness, Stale
from agent_node.upstream.last_word import WordKeeper, boot_id
from agent_node.upstream.protocol import WatchProtocol
from agent_node.upstream.refusal import ended_by
from agent_node.upstream.reports import Reporter
from agent_node.upstream.routes import Edge, Routes
from agent_node.upstream.snapshot import Snapshot
from agent_node.upstream.waits import Waits
from agent_node.upstream.writer import CacheWriter

__all__ = [
    "NO_TENANT",
    "CacheWriter",
    "Cached",
    "DiskCache",
    "Edge",
    "EdgeWay",
    "Figures",
    "Freshness",
    "Reporter",
    "Routes",
    "Snapshot",
    "Stale",
    "Upstream",
    "Waits",
    "WatchProtocol",
    "WordKeeper",
    "boot_id",
    "connect",
    "ended_by",
]
