"""What a node has of one tenant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from voxplane.digest import bundles_digest
from voxplane.names import AgentName, TenantId, split_agent_name
from voxplane.v1 import bundle_pb2, revision_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

HASH_CHARS_MAX = 64
_ID = re.compile(r"[a-z][a-z0-9_-]{0,62}")

Contents = Mapping[str, bundle_pb2.VersionContent]


class TornTransfer(Exception):
    """A transfer does not bring what its end marker says, or what no request
    of this node could declare again."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A tenant's bundles at one revision, and exactly the contents that they
    name. It is replaced whole, and nobody changes the messages in it.

    `withheld` are etags that the server counts in place of those of the
    bundles that are here, on this stream.
    """

    tenant_id: TenantId
    revision: revision_pb2.Revision
    bundles: Mapping[AgentName, bundle_pb2.AgentBundle]
    contents: Contents
    withheld: Mapping[str, str] = field(default_factory=dict[str, str])

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


def is_id(text: str) -> bool:
    """Whether a text can be the id of a tenant or an agent."""
    return _ID.fullmatch(text) is not None


def build_snapshot(
    tenant_id: TenantId,
    revision: revision_pb2.Revision,
    bundles: Iterable[bundle_pb2.AgentBundle],
    pool: Contents,
    synced: sync_pb2.Synced,
    withheld: Mapping[str, str] | None = None,
) -> Snapshot:
    """A snapshot whose digest, count and contents are proven. Raises
    TornTransfer."""
    by_name: dict[AgentName, bundle_pb2.AgentBundle] = {}
    contents: dict[str, bundle_pb2.VersionContent] = {}
    if revision.number < 0 or len(revision.epoch) > HASH_CHARS_MAX:
        raise TornTransfer("a revision that cannot be")
    for bundle in bundles:
        by_name[_own_name(tenant_id, bundle.name)] = bundle
        _check_hash(bundle.name, bundle.etag)
        for version in bundle.versions:
            content = pool.get(version.content_hash)
            if content is None:
                raise TornTransfer(f"the content of {bundle.name} version {version.number} did not come")
            _check_hash(bundle.name, version.content_hash)
            contents[version.content_hash] = content
    snapshot = Snapshot(tenant_id, revision, by_name, contents, dict(withheld or {}))
    for name, etag in snapshot.withheld.items():
        _own_name(tenant_id, name)
        _check_hash(name, etag)
    counted = snapshot.etags | dict(snapshot.withheld)
    if len(counted) != synced.bundle_count:
        raise TornTransfer(f"{len(counted)} bundles, the server has {synced.bundle_count}")
    if bundles_digest(counted) != synced.digest:
        raise TornTransfer("the digest is not the server's")
    return snapshot


def _own_name(tenant_id: TenantId, name: str) -> AgentName:
    try:
        owner, agent_id = split_agent_name(name)
    except ValueError as error:
        raise TornTransfer(str(error)) from error
    if owner != tenant_id:
        raise TornTransfer(f"{name} is not of tenant {tenant_id}")
    if not is_id(agent_id):
        raise TornTransfer(f"{name!r} has no id that can be")
    return AgentName(name)


def _check_hash(name: str, text: str) -> None:
    if not 0 < len(text) <= HASH_CHARS_MAX:
        raise TornTransfer(f"{name} has a hash of {len(text)} characters")
