"""Hashes by which server and node tell whether they hold the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from voxplane.v1 import agent_config_pb2, bundle_pb2

ETAG_CHARS = 32


def content_hash(config: agent_config_pb2.AgentConfig) -> str:
    """sha256, in hexadecimal, of the config's deterministic serialisation.

    The server computes it once, at the commit; others take it as opaque.
    """
    return hashlib.sha256(config.SerializeToString(deterministic=True)).hexdigest()


def bundle_etag(bundle: bundle_pb2.AgentBundle) -> str:
    """Hash of all that a bundle says but its etag and revision, 32 hex digits."""
    bare = bundle
    if bundle.etag or bundle.revision:
        bare = bundle_pb2.AgentBundle()
        bare.CopyFrom(bundle)
        bare.ClearField("etag")
        bare.ClearField("revision")
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()[:ETAG_CHARS]


def bundles_digest(etags: Mapping[str, str]) -> str:
    """Digest of a set of bundles, by name: what Synced.digest holds."""
    lines = "".join(f"{name} {etag}\n" for name, etag in sorted(etags.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
