"""Snapshots to test with."""

from __future__ import annotations

from agent_node.upstream import Snapshot
from voxplane.digest import bundle_etag
from voxplane.names import AgentName, TenantId, agent_name
from voxplane.v1 import bundle_pb2, revision_pb2


def content(text: str) -> bundle_pb2.VersionContent:
    """A version content with a text."""
    made = bundle_pb2.VersionContent(content_hash=f"hash of {text}")
    made.config.prompt_config.instructions = text
    return made


def bundle(tenant: str, agent: str, text: str, revision: int) -> bundle_pb2.AgentBundle:
    """A bundle of one version."""
    made = bundle_pb2.AgentBundle(name=agent_name(tenant, agent), revision=revision)
    made.aliases["live"] = 1
    made.versions.add(number=1, content_hash=f"hash of {text}")
    made.etag = bundle_etag(made)
    return made


def snapshot(revision: int, tenant: str = "acme", since: int | None = None, **texts: str) -> Snapshot:
    """A tenant with a text per agent; its bundles changed at `since`."""
    bundles = [bundle(tenant, agent, text, since or revision) for agent, text in texts.items()]
    return Snapshot(
        TenantId(tenant),
        revision_pb2.Revision(number=revision, epoch="e1"),
        {AgentName(made.name): made for made in bundles},
        {f"hash of {text}": content(text) for text in texts.values()},
    )
