"""The node's one stream to the control plane, its reports and its cache."""

from agent_node.upstream.cache import Cached, CacheWriter, DiskCache
from agent_node.upstream.client import Upstream, connect
from agent_node.upstream.protocol import Stale, WatchProtocol
from agent_node.upstream.reports import Reporter
from agent_node.upstream.snapshot import Snapshot

__all__ = [
    "CacheWriter",
    "Cached",
    "DiskCache",
    "Reporter",
    "Snapshot",
    "Stale",
    "Upstream",
    "WatchProtocol",
    "connect",
]
