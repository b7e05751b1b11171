"""One transfer: its parts, and what they make of what was before. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent_node.upstream.events import Apply
from agent_node.upstream.snapshot import Contents, Snapshot, TornTransfer, build_snapshot
from voxplane.names import AgentName, TenantId
from voxplane.v1 import bundle_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

_INTENTS = {
    sync_pb2.TRANSFER_INTENT_FULL: "FULL",
    sync_pb2.TRANSFER_INTENT_DELTA: "DELTA",
    sync_pb2.TRANSFER_INTENT_NONE: "NONE",
}


@dataclass(slots=True)
class Transfer:
    """What has come of a transfer."""

    start: sync_pb2.TransferStart
    bundles: dict[str, bundle_pb2.AgentBundle] = field(default_factory=dict[str, bundle_pb2.AgentBundle])
    removed: set[str] = field(default_factory=set[str])
    withheld: dict[str, str] = field(default_factory=dict[str, str])
    size: int = 0

    @property
    def intent(self) -> str:
        """FULL, DELTA or NONE; empty if it is none that this node knows."""
        return _INTENTS.get(self.start.intent, "")

    def add(self, part: sync_pb2.ConfigTransfer) -> None:
        """One more part has come."""
        self.size += part.ByteSize()
        self.removed.update(part.removed)
        self.withheld.update(part.withheld)
        self.bundles.update((bundle.name, bundle) for bundle in part.bundles)

    def finish(
        self, tenant_id: TenantId, before: Snapshot | None, last: sync_pb2.ConfigTransfer, pool: Contents
    ) -> Snapshot:
        """The snapshot after the transfer, proven. `before` is what it builds
        on, None if nothing was declared. Raises TornTransfer."""
        if not self.intent:
            raise TornTransfer(f"a transfer of intent {self.start.intent}")
        if self.intent == "NONE" and (self.bundles or self.removed):
            raise TornTransfer("a transfer that changes nothing brings changes")
        bundles: dict[str, bundle_pb2.AgentBundle] = {}
        withheld: dict[str, str] = {}
        if before is not None and self.intent != "FULL":
            if before.revision.epoch != last.revision.epoch:
                raise TornTransfer("the epoch changed without a full transfer")
            bundles = {name: bundle for name, bundle in before.bundles.items() if name not in self.removed}
            withheld = {
                name: etag
                for name, etag in before.withheld.items()
                if name not in self.removed and name not in self.bundles
            }
        bundles |= self.bundles
        withheld |= self.withheld
        return build_snapshot(tenant_id, last.revision, bundles.values(), pool, last.synced, withheld)

    def apply(self, have: Snapshot | None, new: Snapshot) -> Apply:
        """What to say of the step from one snapshot to the next."""
        old: Mapping[AgentName, bundle_pb2.AgentBundle] = have.bundles if have else {}
        changed = tuple(
            name
            for name, bundle in new.bundles.items()
            if name not in old or (old[name].etag, old[name].revision) != (bundle.etag, bundle.revision)
        )
        removed = tuple(name for name in old if name not in new.bundles)
        return Apply(new, self.intent, self.start.reason, changed, removed)
