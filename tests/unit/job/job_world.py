"""What the tests of the job share: configs and deliveries as the node makes them."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from voxplane.digest import bundle_etag, content_hash
from voxplane.names import agent_name
from voxplane.node.v1.relay_service_pb2 import BundleDelivery, CallerContext
from voxplane.v1.agent_config_pb2 import AgentConfig

COMMIT_TIME = 1_700_000_000.0


def caller(tenant: str = "acme", **more: Any) -> CallerContext:
    """A caller of the tenant's agent."""
    return CallerContext(session_id=f"{tenant}-1", tenant_id=tenant, agent_id="support", **more)


def offline_config(instructions: str = "Be kind.", **blocks: Any) -> AgentConfig:
    """A config that needs no network."""
    values: dict[str, Any] = {
        "prompt_config": {"instructions": instructions},
        "llm_config": {"provider": "offline"},
        **blocks,
    }
    return json_format.ParseDict(values, AgentConfig())


SPOKEN_FIELDS: dict[str, Any] = {
    "fields": [
        {"field_name": "reply", "field_type": "string", "required": True, "metadata": {"use_in_tts": True}},
        {"field_name": "score", "field_type": "integer", "constraints": {"minimum": 0, "maximum": 9}},
        {"field_name": "thought", "field_type": "string", "metadata": {"hidden": True}},
    ]
}


def delivery(
    revision: int,
    config: AgentConfig,
    *,
    version: int | None = None,
    tenant: str = "acme",
    commit_time: float = COMMIT_TIME,
    aliases: dict[str, int] | None = None,
    others: dict[int, AgentConfig] | None = None,
    agent: str = "support",
) -> BundleDelivery:
    """The agent's bundle at a revision; `live` has the config, under the
    revision's number unless `version` is given."""
    version = revision if version is None else version
    made = BundleDelivery()
    made.bundle.name = agent_name(tenant, agent)
    made.bundle.revision = revision
    made.bundle.aliases.update({"live": version, **(aliases or {})})
    for number, content in sorted({**(others or {}), version: config}.items()):
        digest = content_hash(content)
        made.bundle.versions.add(number=number, content_hash=digest)
        made.contents.add(content_hash=digest, config=content)
    made.bundle.etag = bundle_etag(made.bundle)
    made.revision.number = revision
    made.revision.commit_time.FromNanoseconds(round(commit_time * 1e9))
    return made
