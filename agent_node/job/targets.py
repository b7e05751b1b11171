"""What a bundle asks a session to run."""

from __future__ import annotations

from dataclasses import dataclass

from voxplane.errors import VoxplaneError
from voxplane.names import LIVE
from voxplane.node.v1.relay_service_pb2 import BundleDelivery
from voxplane.resolve import resolve
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.v1.bundle_pb2 import VersionContent


@dataclass(frozen=True, slots=True)
class Bundle:
    """Which bundle is meant. `commit_time` is in seconds since 1970; None if
    it is not known."""

    name: str
    etag: str
    revision: int
    commit_time: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """The version of a bundle that the session follows."""

    bundle: Bundle
    version: int
    content_hash: str
    config: AgentConfig


def bundle_of(delivery: BundleDelivery) -> Bundle:
    """The delivery's bundle."""
    bundle = delivery.bundle
    committed = None
    if delivery.revision.HasField("commit_time"):
        committed = delivery.revision.commit_time.ToNanoseconds() / 1e9
    return Bundle(bundle.name, bundle.etag, bundle.revision, committed)


def target_of(
    delivery: BundleDelivery,
    alias: str = "",
    pinned_version: int | None = None,
    pinned_content: VersionContent | None = None,
) -> Target:
    """What a caller of `alias` (live if it is empty) gets of the delivery. A
    pinned version need not be in it, if its content is given.

    Raises VoxplaneError: what `resolve` raises, or BUILD_FAILED if the
    content is not there.
    """
    if pinned_version is not None and pinned_content is not None:
        config = pinned_content.config
        return Target(bundle_of(delivery), pinned_version, pinned_content.content_hash, config)
    found = resolve(delivery.bundle, alias or LIVE, pinned_version)
    for content in delivery.contents:
        if content.content_hash == found.content_hash:
            return Target(bundle_of(delivery), found.version, found.content_hash, content.config)
    raise VoxplaneError(
        reason_pb2.ERROR_REASON_BUILD_FAILED,
        f"the content of version {found.version} did not come with the bundle",
        metadata={"agent": delivery.bundle.name},
    )
