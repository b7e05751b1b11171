"""Value types for what must not be mixed up, and resource names."""

from __future__ import annotations

from typing import NewType

TenantId = NewType("TenantId", str)
AgentId = NewType("AgentId", str)
AgentName = NewType("AgentName", str)
"""tenants/{tenant_id}/agents/{agent_id}"""

ALL_TENANTS = "-"
LIVE = "live"


def agent_name(tenant_id: str, agent_id: str) -> AgentName:
    """The resource name of an agent."""
    return AgentName(f"tenants/{tenant_id}/agents/{agent_id}")


def split_agent_name(name: str) -> tuple[TenantId, AgentId]:
    """The ids in an agent's resource name. Raises ValueError if it is none."""
    match name.split("/"):
        case ["tenants", tenant_id, "agents", agent_id]:
            return TenantId(tenant_id), AgentId(agent_id)
        case _:
            raise ValueError(f"not the name of an agent: {name!r}")
