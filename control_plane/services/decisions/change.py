"""An agent that a decision is changing: gathers the mutations."""

from __future__ import annotations

import hashlib
import heapq

from google.protobuf.timestamp_pb2 import Timestamp

from control_plane.state import Act, AgentRecord, TenantState
from voxplane.digest import ETAG_CHARS
from voxplane.errors import VoxplaneError
from voxplane.names import AgentId, agent_name
from voxplane.storage.v1 import log_pb2
from voxplane.v1 import agent_config_pb2, agent_pb2, revision_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

ALIASES_PER_AGENT_MAX = 32
ALIAS_HISTORY_MAX = 32
VERSIONS_PER_AGENT_MAX = 1_000


class AgentChange:
    """Changes one agent in one commit on `state`."""

    def __init__(self, state: TenantState, record: AgentRecord, act: Act) -> None:
        self._state = state
        self._act = act
        self._record = record
        self._revision = state.revision + 1
        self._time = Timestamp()
        self._time.FromNanoseconds(round(act.now * 1e9))
        self._published: list[log_pb2.Mutation] = []
        self.agent = agent_pb2.Agent()
        self.agent.CopyFrom(record.agent)

    def revision(self) -> revision_pb2.Revision:
        """The revision that the commit will make."""
        message = revision_pb2.Revision(number=self._revision, epoch=self._state.epoch)
        message.commit_time.CopyFrom(self._time)
        return message

    def publish(
        self, config: agent_config_pb2.AgentConfig, content_hash: str, note: str
    ) -> agent_pb2.AgentVersion:
        """Make a version of a config, whose hash is given; no alias points at
        it yet."""
        self.agent.latest_version += 1
        mutation = log_pb2.Mutation()
        # Made where it will be, as each copy costs.
        version = mutation.put.agent_version
        version.tenant_id = self.agent.tenant_id
        version.agent_id = self.agent.agent_id
        version.number = self.agent.latest_version
        version.config.CopyFrom(config)
        version.content_hash = content_hash
        version.note = note
        version.author = self._act.principal
        version.revision = self._revision
        version.create_time.CopyFrom(self._time)
        self._published.append(mutation)
        return version

    def point(self, alias: str, number: int) -> None:
        """Have an alias point at a version, and remember where it pointed.
        Raises VoxplaneError LIMIT_REACHED."""
        if alias not in self.agent.aliases and len(self.agent.aliases) >= ALIASES_PER_AGENT_MAX:
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_LIMIT_REACHED,
                f"an agent has at most {ALIASES_PER_AGENT_MAX} aliases",
            )
        target = self.agent.aliases[alias]
        if target.version:
            target.history.append(target.version)
            del target.history[:-ALIAS_HISTORY_MAX]
        target.version = number

    def delete(self) -> None:
        """Take the agent out of use."""
        self.agent.delete_time.CopyFrom(self._time)

    def mutations(self) -> list[log_pb2.Mutation]:
        """What is to be committed. Ends the change: the agent has its new
        etag, and versions beyond the bound are gone."""
        agent = self.agent
        agent.revision = self._revision
        agent.update_time.CopyFrom(self._time)
        agent.ClearField("etag")
        agent.etag = hashlib.sha256(agent.SerializeToString(deterministic=True)).hexdigest()[:ETAG_CHARS]
        head = log_pb2.Mutation()
        head.put.agent.CopyFrom(agent)
        return [head, *self._published, *self._expired()]

    def _expired(self) -> list[log_pb2.Mutation]:
        """Deletes of the versions that are neither among the newest nor
        within an alias' reach, by rollback too."""
        published = [mutation.put.agent_version.number for mutation in self._published]
        beyond = len(self._record.versions) + len(published) - VERSIONS_PER_AGENT_MAX
        if beyond <= 0:
            return []
        reached: set[int] = set()
        for alias in self.agent.aliases.values():
            reached |= {alias.version, *alias.history}
        oldest = heapq.nsmallest(beyond, (*self._record.versions, *published))
        name = f"agents/{self.agent.agent_id}/versions"
        return [log_pb2.Mutation(delete=f"{name}/{number}") for number in oldest if number not in reached]


def find(state: TenantState, agent_id: str) -> AgentRecord:
    """The agent, also a deleted one. Raises VoxplaneError AGENT_NOT_FOUND."""
    record = state.agents.get(AgentId(agent_id))
    if record is None:
        name = agent_name(state.tenant_id, agent_id)
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_AGENT_NOT_FOUND, f"there is no agent {name}", metadata={"agent": name}
        )
    return record


def find_for_change(state: TenantState, agent_id: str, etag: str) -> AgentRecord:
    """The agent that is to be changed. Raises VoxplaneError AGENT_NOT_FOUND,
    AGENT_DELETED, ETAG_MISMATCH."""
    record = find(state, agent_id)
    check_etag(state, record, etag)
    if record.deleted:
        name = agent_name(state.tenant_id, agent_id)
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_AGENT_DELETED,
            f"{name} is deleted; undelete it first",
            metadata={"agent": name},
        )
    return record


def check_etag(state: TenantState, record: AgentRecord, etag: str) -> None:
    """Raises VoxplaneError ETAG_MISMATCH if an etag is given and is not the
    agent's."""
    if etag and etag != record.agent.etag:
        name = agent_name(state.tenant_id, record.agent.agent_id)
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_ETAG_MISMATCH,
            f"{name} has changed; read it again",
            metadata={"agent": name, "etag": record.agent.etag},
        )


def version_of(record: AgentRecord, number: int) -> agent_pb2.AgentVersion:
    """A version by number. Raises VoxplaneError VERSION_NOT_FOUND."""
    version = record.versions.get(number)
    if version is None:
        name = agent_name(record.agent.tenant_id, record.agent.agent_id)
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_VERSION_NOT_FOUND,
            f"{name} has no version {number}",
            metadata={"agent": name, "version": str(number)},
        )
    return version


def aliased_version(record: AgentRecord, alias: str) -> agent_pb2.AgentVersion:
    """The version that an alias points at. Raises VoxplaneError
    ALIAS_NOT_FOUND."""
    if alias not in record.agent.aliases:
        name = agent_name(record.agent.tenant_id, record.agent.agent_id)
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_ALIAS_NOT_FOUND,
            f"{name} has no alias {alias!r}",
            metadata={"agent": name, "alias": alias},
        )
    return version_of(record, record.agent.aliases[alias].version)
