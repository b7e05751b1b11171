"""A tenant as its log says it is: immutable, replaced whole.

`apply` is pure and costs what the changed agents cost: bundles and contents of
the others are carried over as they are, encoded bytes included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

from control_plane.store.log import NO_HASH
from voxplane.digest import bundle_etag
from voxplane.names import AgentId, AgentName, TenantId, agent_name
from voxplane.storage.v1 import log_pb2
from voxplane.v1 import agent_pb2, bundle_pb2, revision_pb2

KeyT = TypeVar("KeyT")
ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """An agent and the versions of it that are kept, by number. The messages
    are shared: never change them."""

    agent: agent_pb2.Agent
    versions: Mapping[int, agent_pb2.AgentVersion]

    @property
    def deleted(self) -> bool:
        """Whether the agent is out of use."""
        return self.agent.HasField("delete_time")


@dataclass(frozen=True, slots=True)
class BundleRecord:
    """A live agent's bundle, and the bytes that it is sent as."""

    bundle: bundle_pb2.AgentBundle
    encoded: bytes
    name: AgentName
    etag: str
    revision: int


@dataclass(frozen=True, slots=True)
class TenantState:
    """All that a tenant has at one revision.

    `agents` are by agent_id and hold the deleted ones too; `bundles` are those
    of the live agents; `contents` are serialised VersionContent messages by
    content hash, of the versions that the bundles reach, and `content_uses`
    counts for each how many versions of bundles name it. The tenant's history
    is kept after the revision `floor`; 0 means that all of it is.
    """

    tenant_id: TenantId
    epoch: str
    revision: int = 0
    commit_time: float = 0.0
    head_hash: bytes = NO_HASH
    agents: Mapping[AgentId, AgentRecord] = field(default_factory=lambda: MappingProxyType({}))
    bundles: Mapping[AgentName, BundleRecord] = field(default_factory=lambda: MappingProxyType({}))
    contents: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    content_uses: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    floor: int = 0

    def revision_message(self) -> revision_pb2.Revision:
        """The state's revision, as answers carry it."""
        message = revision_pb2.Revision(number=self.revision, epoch=self.epoch)
        if self.revision:
            message.commit_time.FromNanoseconds(round(self.commit_time * 1e9))
        return message


def empty(tenant_id: TenantId, epoch: str) -> TenantState:
    """A tenant without a commit: revision 0."""
    return TenantState(tenant_id, epoch)


def apply(state: TenantState, entry: log_pb2.LogEntry, head_hash: bytes = NO_HASH) -> TenantState:
    """The state after one more commit. `head_hash` is the entry's own hash,
    where it is known. Raises ValueError if the entry is not the next one."""
    if entry.revision != state.revision + 1 or entry.tenant_id != state.tenant_id:
        raise ValueError(
            f"{entry.tenant_id} at {entry.revision} does not follow {state.tenant_id} at {state.revision}"
        )
    agents = _copy(state.agents)
    changed = _mutate(agents, entry.mutations)
    return _materialise(
        replace(
            state,
            revision=entry.revision,
            commit_time=entry.time.ToNanoseconds() / 1e9,
            head_hash=head_hash,
            agents=MappingProxyType(agents),
        ),
        changed,
    )


def from_snapshot(snapshot: log_pb2.Snapshot, epoch: str) -> TenantState:
    """The state that a snapshot holds."""
    agents: dict[AgentId, AgentRecord] = {}
    changed = _mutate(agents, [log_pb2.Mutation(put=resource) for resource in snapshot.resources])
    state = TenantState(
        TenantId(snapshot.tenant_id),
        epoch,
        snapshot.revision,
        snapshot.time.ToNanoseconds() / 1e9,
        snapshot.hash,
        MappingProxyType(agents),
    )
    return _materialise(state, changed)


def to_snapshot(state: TenantState) -> log_pb2.Snapshot:
    """The state as it is stored; `from_snapshot` gives an equal one."""
    snapshot = log_pb2.Snapshot(tenant_id=state.tenant_id, revision=state.revision, hash=state.head_hash)
    snapshot.time.FromNanoseconds(round(state.commit_time * 1e9))
    for _, record in sorted(state.agents.items()):
        snapshot.resources.add(agent=record.agent)
        for _, version in sorted(record.versions.items()):
            snapshot.resources.add(agent_version=version)
    return snapshot


def _copy(items: Mapping[KeyT, ItemT]) -> dict[KeyT, ItemT]:
    # A proxy's own copy is that of its dict; dict(proxy) asks for each item.
    return items.copy() if isinstance(items, MappingProxyType) else dict(items)


def _mutate(
    agents: dict[AgentId, AgentRecord], mutations: Iterable[log_pb2.Mutation]
) -> Mapping[AgentId, AgentRecord | None]:
    """Carry the mutations out on `agents`, and return what each agent that
    they touch was before."""
    before: dict[AgentId, AgentRecord | None] = {}
    versions: dict[AgentId, dict[int, agent_pb2.AgentVersion]] = {}
    for mutation in mutations:
        agent_id, number = _target(mutation)
        before.setdefault(agent_id, agents.get(agent_id))
        if number is None:
            if mutation.HasField("delete"):
                agents.pop(agent_id, None)
                versions.pop(agent_id, None)
            else:
                old = agents.get(agent_id)
                agents[agent_id] = AgentRecord(mutation.put.agent, old.versions if old else {})
            continue
        if agent_id not in agents:
            raise ValueError(f"a version of {agent_id}, which is not there")
        kept = versions.get(agent_id)
        if kept is None:
            kept = versions[agent_id] = _copy(agents[agent_id].versions)
        if mutation.HasField("delete"):
            kept.pop(number, None)
        else:
            kept[number] = mutation.put.agent_version
    for agent_id, kept in versions.items():
        agents[agent_id] = AgentRecord(agents[agent_id].agent, MappingProxyType(kept))
    return before


def _target(mutation: log_pb2.Mutation) -> tuple[AgentId, int | None]:
    """The agent that a mutation is about, and the version if it is about one."""
    match mutation.WhichOneof("kind"):
        case "put" if mutation.put.HasField("agent"):
            return AgentId(mutation.put.agent.agent_id), None
        case "put" if mutation.put.HasField("agent_version"):
            version = mutation.put.agent_version
            return AgentId(version.agent_id), version.number
        case "delete":
            match mutation.delete.split("/"):
                case ["agents", agent_id]:
                    return AgentId(agent_id), None
                case ["agents", agent_id, "versions", number]:
                    return AgentId(agent_id), int(number)
                case _:
                    pass
        case _:
            pass
    raise ValueError("a mutation of a kind that this version does not know")


def _materialise(state: TenantState, changed: Mapping[AgentId, AgentRecord | None]) -> TenantState:
    """`state` with the bundles and contents of the changed agents made anew."""
    made: list[tuple[AgentName, BundleRecord | None, AgentRecord | None]] = []
    for agent_id in changed:
        name = agent_name(state.tenant_id, agent_id)
        old = state.bundles.get(name)
        record = state.agents.get(agent_id)
        new = _bundle(name, record, old) if record and not record.deleted else None
        if new is not old:
            made.append((name, new, record))
    if not made:
        return state
    bundles = _copy(state.bundles)
    contents = _copy(state.contents)
    uses = _copy(state.content_uses)
    for name, new, record in made:
        old = bundles.get(name)
        if new is None:
            del bundles[name]
        else:
            bundles[name] = new
            assert record is not None
            _use(contents, uses, record, new.bundle)
        if old is not None:
            _release(contents, uses, old.bundle)
    return replace(
        state,
        bundles=MappingProxyType(bundles),
        contents=MappingProxyType(contents),
        content_uses=MappingProxyType(uses),
    )


def _bundle(name: AgentName, record: AgentRecord, old: BundleRecord | None) -> BundleRecord:
    """The agent's bundle; the old one if it would say the same."""
    aliases = {alias: target.version for alias, target in record.agent.aliases.items()}
    bundle = bundle_pb2.AgentBundle(name=name, labels=record.agent.labels, aliases=aliases)
    for number in sorted(set(aliases.values())):
        bundle.versions.add(number=number, content_hash=record.versions[number].content_hash)
    etag = bundle_etag(bundle)
    if old is not None and old.etag == etag:
        return old
    bundle.etag = etag
    # After a load from a snapshot this may be later than the bundle's true
    # change, never earlier: the agent's own revision bounds it.
    bundle.revision = record.agent.revision
    return BundleRecord(bundle, bundle.SerializeToString(deterministic=True), name, etag, bundle.revision)


def _use(
    contents: dict[str, bytes], uses: dict[str, int], record: AgentRecord, bundle: bundle_pb2.AgentBundle
) -> None:
    for reached in bundle.versions:
        content = reached.content_hash
        uses[content] = uses.get(content, 0) + 1
        if content not in contents:
            message = bundle_pb2.VersionContent(content_hash=content)
            message.config.CopyFrom(record.versions[reached.number].config)
            contents[content] = message.SerializeToString(deterministic=True)


def _release(contents: dict[str, bytes], uses: dict[str, int], bundle: bundle_pb2.AgentBundle) -> None:
    for reached in bundle.versions:
        uses[reached.content_hash] -= 1
        if not uses[reached.content_hash]:
            del uses[reached.content_hash], contents[reached.content_hash]
