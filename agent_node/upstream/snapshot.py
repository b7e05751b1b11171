"""What a node has of one tenant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from voxplane.digest import bundles_digest
from voxplane.names import AgentName, TenantId, split_agent_name
from voxplane.v1 import bundle_pb2, revision_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

Contents = Mapping[str, bundle_pb2.VersionContent]


class TornTransfer(Exception):
    """A transfer does not bring what its end marker says."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A tenant's bundles at one revision, and exactly the contents that they
    name. It is replaced whole, and nobody changes the messages in it."""

    tenant_id: TenantId
    revision: revision_pb2.Revision
    bundles: Mapping[AgentName, bundle_pb2.AgentBundle]
    contents: Contents

    @property
    def etags(self) -> dict[str, str]:
        """The bundles' etags by name."""
        return {name: bundle.etag for name, bundle in self.bundles.items()}

    def at(self, revision: revision_pb2.Revision) -> Snapshot:
        """The same bundles, level with a later revision."""
        return replace(self, revision=revision)

    def transfer(self) -> sync_pb2.ConfigTransfer:
        """The snapshot as a full transfer in one piece."""
        return sync_pb2.ConfigTransfer(
            tenant_id=self.tenant_id,
            revision=self.revision,
            start=sync_pb2.TransferStart(intent=sync_pb2.TRANSFER_INTENT_FULL),
            contents=self.contents.values(),
            bundles=self.bundles.values(),
            synced=sync_pb2.Synced(digest=bundles_digest(self.etags), bundle_count=len(self.bundles)),
        )


def build_snapshot(
    tenant_id: TenantId,
    revision: revision_pb2.Revision,
    bundles: Iterable[bundle_pb2.AgentBundle],
    pool: Contents,
    synced: sync_pb2.Synced,
) -> Snapshot:
    """A snapshot whose digest, count and contents are proven. Raises
    TornTransfer."""
    by_name: dict[AgentName, bundle_pb2.AgentBundle] = {}
    contents: dict[str, bundle_pb2.VersionContent] = {}
    for bundle in bundles:
        by_name[_own_name(tenant_id, bundle.name)] = bundle
        for version in bundle.versions:
            content = pool.get(version.content_hash)
            if content is None:
                raise TornTransfer(f"the content of {bundle.name} version {version.number} did not come")
            contents[version.content_hash] = content
    snapshot = Snapshot(tenant_id, revision, by_name, contents)
    if len(by_name) != synced.bundle_count:
        raise TornTransfer(f"{len(by_name)} bundles, the server has {synced.bundle_count}")
    if bundles_digest(snapshot.etags) != synced.digest:
        raise TornTransfer("the digest is not the server's")
    return snapshot


def _own_name(tenant_id: TenantId, name: str) -> AgentName:
    try:
        owner, _ = split_agent_name(name)
    except ValueError as error:
        raise TornTransfer(str(error)) from error
    if owner != tenant_id:
        raise TornTransfer(f"{name} is not of tenant {tenant_id}")
    return AgentName(name)
