"""Tenant states for tests, made by applying log entries."""

from __future__ import annotations

from dataclasses import replace

from control_plane.state import TenantState, apply, empty
from voxplane.digest import content_hash
from voxplane.names import AgentId, TenantId
from voxplane.storage.v1 import log_pb2
from voxplane.v1 import agent_config_pb2, agent_pb2

EPOCH = "epoch-1"


def config(text: str) -> agent_config_pb2.AgentConfig:
    """A config that says a text."""
    made = agent_config_pb2.AgentConfig()
    made.prompt_config.instructions = text
    return made


class TenantLog:
    """One tenant, changed agent by agent. `state` is the newest."""

    def __init__(self, tenant: str = "acme", epoch: str = EPOCH) -> None:
        self.state: TenantState = empty(TenantId(tenant), epoch)
        self._numbers: dict[str, int] = {}

    def publish(self, agent: str, text: str) -> TenantState:
        """A new version, and `live` points at it; the agent is made if need be."""
        number = self._numbers[agent] = self._numbers.get(agent, 0) + 1
        made = config(text)
        version = agent_pb2.AgentVersion(
            tenant_id=self.state.tenant_id,
            agent_id=agent,
            number=number,
            config=made,
            content_hash=content_hash(made),
        )
        return self._commit(self._agent(agent, number), version)

    def point(self, agent: str, number: int) -> TenantState:
        """Move `live` to a version that is there."""
        return self._commit(self._agent(agent, number))

    def rename(self, agent: str, name: str) -> TenantState:
        """A change that no bundle shows."""
        changed = agent_pb2.Agent()
        changed.CopyFrom(self.state.agents[AgentId(agent)].agent)
        changed.display_name = name
        return self._commit(changed)

    def label(self, agent: str, **labels: str) -> TenantState:
        """Give an agent other labels."""
        changed = agent_pb2.Agent()
        changed.CopyFrom(self.state.agents[AgentId(agent)].agent)
        changed.labels.clear()
        changed.labels.update(labels)
        return self._commit(changed)

    def compact(self, floor: int) -> TenantState:
        """Keep the history after a revision alone."""
        self.state = replace(self.state, floor=floor)
        return self.state

    def delete(self, agent: str) -> TenantState:
        """Take an agent out of use."""
        changed = agent_pb2.Agent()
        changed.CopyFrom(self.state.agents[AgentId(agent)].agent)
        changed.delete_time.FromSeconds(1_700_000_000)
        return self._commit(changed)

    def has(self, agent: str, number: int) -> bool:
        """Whether a version is there."""
        return number in self.state.agents[AgentId(agent)].versions

    @property
    def live(self) -> list[str]:
        """The agents that are in use."""
        return sorted(agent for agent, record in self.state.agents.items() if not record.deleted)

    def _agent(self, agent: str, number: int) -> agent_pb2.Agent:
        made = agent_pb2.Agent(tenant_id=self.state.tenant_id, agent_id=agent, latest_version=number)
        made.aliases["live"].version = number
        return made

    def _commit(self, agent: agent_pb2.Agent, version: agent_pb2.AgentVersion | None = None) -> TenantState:
        revision = self.state.revision + 1
        agent.revision = revision
        entry = log_pb2.LogEntry(tenant_id=self.state.tenant_id, revision=revision)
        entry.mutations.add().put.agent.CopyFrom(agent)
        if version is not None:
            entry.mutations.add().put.agent_version.CopyFrom(version)
        entry.time.FromSeconds(1_700_000_000 + revision)
        self.state = apply(self.state, entry)
        return self.state
