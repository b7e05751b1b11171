"""The services of the contract. Requests that reach them are valid."""

from control_plane.services.agents import AgentService
from control_plane.services.config_sync import ConfigSyncService
from control_plane.services.nodes import NodeService
from control_plane.services.sessions import SessionService

__all__ = ["AgentService", "ConfigSyncService", "NodeService", "SessionService"]
