"""Every mutation of AgentService as a pure function of (state, request, act)."""

from control_plane.services.decisions.agents import create_agent, delete_agent, undelete_agent
from control_plane.services.decisions.aliases import rollback_alias, set_alias
from control_plane.services.decisions.versions import (
    add_schema_field,
    remove_schema_field,
    set_tracing,
    update_agent_config,
)

__all__ = [
    "add_schema_field",
    "create_agent",
    "delete_agent",
    "remove_schema_field",
    "rollback_alias",
    "set_alias",
    "set_tracing",
    "undelete_agent",
    "update_agent_config",
]
