"""Mutations and metadata for tests of a log store."""

from __future__ import annotations

from collections.abc import Sequence

from control_plane.store import Commit, CommitMeta, LogStore
from voxplane.names import TenantId
from voxplane.storage.v1 import log_pb2

ACME = TenantId("acme")
OTHER = TenantId("other")
NOW = 1_700_000_000.0


def put(agent_id: str) -> log_pb2.Mutation:
    """Puts an agent."""
    mutation = log_pb2.Mutation()
    mutation.put.agent.agent_id = agent_id
    return mutation


def meta(request_id: str = "", time: float = NOW, previous_hash: bytes = b"") -> CommitMeta:
    """Metadata whose fingerprint and response tell which request they are of."""
    return CommitMeta(
        principal="ann",
        method="/voxplane.v1.AgentService/CreateAgent",
        time=time,
        request_id=request_id,
        fingerprint=f"fingerprint {request_id}".encode() if request_id else b"",
        response=f"response {request_id} at {time}".encode() if request_id else b"",
        previous_hash=previous_hash,
    )


async def commit(
    store: LogStore, tenant_id: TenantId, expected: int, metadata: CommitMeta | None = None
) -> Commit:
    """Commit one mutation that names the revision it makes."""
    return await store.commit(tenant_id, expected, [put(f"a{expected + 1}")], metadata or meta())


async def fill(store: LogStore, tenant_id: TenantId, revisions: int) -> list[Commit]:
    """Commit revisions 1 to `revisions`, enqueued together."""
    pending = [store.commit(tenant_id, at, [put(f"a{at + 1}")], meta()) for at in range(revisions)]
    return [await commit for commit in pending]


async def revisions(store: LogStore, tenant_id: TenantId, after: int = 0, limit: int = 1000) -> list[int]:
    """The revisions that `changes` gives."""
    return [entry.revision for entry in await store.changes(tenant_id, after, limit)]


def snapshot(tenant_id: TenantId, revision: int, agents: Sequence[str] = ()) -> log_pb2.Snapshot:
    """A snapshot of these agents."""
    made = log_pb2.Snapshot(tenant_id=tenant_id, revision=revision, hash=bytes(32))
    for agent_id in agents:
        made.resources.add().agent.agent_id = agent_id
    return made
