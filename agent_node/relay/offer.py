"""What the node gives its jobs of one agent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent_node.upstream import Snapshot
from voxplane.names import AgentName
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.v1 import bundle_pb2, revision_pb2


@dataclass(frozen=True, slots=True)
class Offer:
    """An agent's bundle with all contents that it names, and the tenant's
    revision that brought it."""

    bundle: bundle_pb2.AgentBundle
    contents: tuple[bundle_pb2.VersionContent, ...]
    revision: revision_pb2.Revision

    @property
    def key(self) -> tuple[str, int]:
        """Etag and revision: two offers of one agent with equal keys are the
        same."""
        return self.bundle.etag, self.bundle.revision

    def delivery(self) -> relay_pb2.BundleDelivery:
        """The offer as jobs get it."""
        return relay_pb2.BundleDelivery(bundle=self.bundle, contents=self.contents, revision=self.revision)

    def versions(self) -> Iterator[tuple[int, bundle_pb2.VersionContent]]:
        """The versions' numbers and contents, ascending."""
        by_hash = {content.content_hash: content for content in self.contents}
        for version in self.bundle.versions:
            yield version.number, by_hash[version.content_hash]


def offer_of(snapshot: Snapshot, name: AgentName) -> Offer:
    """What a snapshot says of one agent."""
    bundle = snapshot.bundles[name]
    hashes = dict.fromkeys(version.content_hash for version in bundle.versions)
    return Offer(bundle, tuple(snapshot.contents[digest] for digest in hashes), snapshot.revision)
