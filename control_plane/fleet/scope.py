"""Which bundles of a tenant a node asks for."""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.state import BundleRecord
from voxplane.names import AgentName, agent_name
from voxplane.v1 import config_sync_service_pb2 as sync_pb2


@dataclass(frozen=True, slots=True)
class Scope:
    """Names and labels, all of which must fit; `names` of None are all."""

    names: frozenset[AgentName] | None = None
    labels: frozenset[tuple[str, str]] = frozenset()

    def has(self, bundle: BundleRecord) -> bool:
        """Whether the node asks for the bundle."""
        if self.names is not None and bundle.name not in self.names:
            return False
        given = bundle.bundle.labels
        return all(key in given and given[key] == value for key, value in self.labels)


EVERYTHING = Scope()


def scope_of(request: sync_pb2.WatchConfigRequest) -> Scope:
    """What a request asks for of its tenant."""
    if not request.agent_ids and not request.agent_labels:
        return EVERYTHING
    names = frozenset(agent_name(request.tenant_id, agent) for agent in request.agent_ids)
    return Scope(names or None, frozenset(request.agent_labels.items()))
