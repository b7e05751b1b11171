"""Reads the log of a server that runs, straight from its SQLite file.

What was ever committed is kept, also when the server trims its history later
or a backup takes it away, so that the whole log of every epoch can be told at
the end. Entries are kept by hash: walking back from a head is the proof that
they are a chain.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from control_plane.state import TenantState, apply, empty
from control_plane.store.chain import verify_chain
from control_plane.store.log import NO_HASH, Entry
from tests.robustness.history import AgentIs, At, Committed, EpochBegan, Floor, Record
from voxplane.names import AgentId, TenantId, agent_name
from voxplane.storage.v1 import log_pb2

BUSY_SECONDS_MAX = 5.0
_Key = tuple[str, str]
"""Epoch and tenant."""


class LostEntries(Exception):
    """Entries were trimmed before they were read: the run proves nothing."""


@dataclass(slots=True)
class _Seen:
    """What was read of a tenant's log in an epoch."""

    revision: int = 0
    hash: bytes = NO_HASH
    floor: int = 0
    times: dict[bytes, float] = field(default_factory=dict[bytes, float])


@dataclass(slots=True)
class _Replayed:
    """A log as records, up to a head."""

    state: TenantState
    hash: bytes = NO_HASH
    records: list[Committed] = field(default_factory=list[Committed])


class Tap:
    """Call `read` often while the server runs, and when it has stopped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[_Key, _Seen] = {}
        self._entries: dict[bytes, Entry] = {}
        self._marks: list[Record] = []
        self._rewritten: list[Committed] = []
        self._replayed: dict[_Key, _Replayed] = {}
        self.epoch = ""
        self.read_entries = 0

    def read(self, now: float, since: float) -> None:
        """Take in what is new. `since` is when the server that runs was
        started: an epoch that was not seen yet began then. Raises
        sqlite3.Error."""
        uri = f"{self._path.as_uri()}?mode=ro"
        with closing(
            sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS_MAX)
        ) as database:
            database.execute("BEGIN")
            epoch = str(database.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()[0])
            if epoch != self.epoch:
                self.epoch = epoch
                self._marks.append(EpochBegan(since, epoch))
            for tenant, revision, head, floor in database.execute(
                "SELECT tenant_id, revision, hash, floor FROM heads"
            ).fetchall():
                seen = self._seen.setdefault((epoch, tenant), _Seen())
                self._read_tenant(database, tenant, seen, now)
                if (seen.revision, seen.hash) != (revision, head):
                    self._rewritten.append(
                        Committed(now, tenant, At(revision, epoch), "(rewritten)", "", head.hex(), "")
                    )
                if floor > seen.floor:
                    seen.floor = floor
                    self._marks.append(Floor(now, tenant, At(floor, epoch)))

    def _read_tenant(self, database: sqlite3.Connection, tenant: str, seen: _Seen, now: float) -> None:
        for revision, encoded, own in database.execute(
            "SELECT revision, entry, hash FROM entries WHERE tenant_id = ? AND revision > ?"
            " ORDER BY revision",
            (tenant, seen.revision),
        ):
            self._entries[own] = Entry(revision, encoded, own)
            seen.revision, seen.hash = revision, own
            seen.times[own] = now
            self.read_entries += 1

    def heads(self) -> dict[str, int]:
        """The newest revision of each tenant in the present epoch, as it was read."""
        return {tenant: seen.revision for (epoch, tenant), seen in self._seen.items() if epoch == self.epoch}

    def floors(self) -> dict[str, int]:
        """Up to where each tenant's log is trimmed in the present epoch."""
        return {tenant: seen.floor for (epoch, tenant), seen in self._seen.items() if epoch == self.epoch}

    def records(self) -> list[Record]:
        """The logs of all epochs, so far. Raises LostEntries, BrokenChain."""
        found: list[Record] = [*self._marks, *self._rewritten]
        for key, seen in self._seen.items():
            found += self._log(key, seen)
        return sorted(found, key=lambda record: record.time)

    def _log(self, key: _Key, seen: _Seen) -> list[Committed]:
        epoch, tenant = key
        replayed = self._replayed.setdefault(key, _Replayed(empty(TenantId(tenant), epoch)))
        fresh: list[Entry] = []
        own = seen.hash
        while own != replayed.hash:
            if own == NO_HASH:
                raise LostEntries(f"the log of {tenant} has two beginnings")
            entry = self._entries.get(own)
            if entry is None:
                raise LostEntries(f"entries of {tenant} were trimmed before they were read")
            fresh.append(entry)
            own = entry.decode().previous_hash
        fresh.reverse()
        verify_chain(fresh, replayed.state.revision, replayed.hash)
        for entry in fresh:
            message = entry.decode()
            replayed.state = apply(replayed.state, message, entry.hash)
            replayed.hash = entry.hash
            time = seen.times.get(entry.hash, 0.0)
            replayed.records.append(_committed(message, entry, replayed.state, time))
        return replayed.records


def _committed(message: log_pb2.LogEntry, entry: Entry, state: TenantState, time: float) -> Committed:
    changed = {_agent_of(mutation) for mutation in message.mutations}
    return Committed(
        time,
        message.tenant_id,
        At(message.revision, state.epoch),
        message.method.rpartition("/")[2],
        message.request_id,
        entry.hash.hex(),
        message.previous_hash.hex(),
        {agent: _agent_is(state, agent) for agent in sorted(changed)},
    )


def _agent_of(mutation: log_pb2.Mutation) -> AgentId:
    match mutation.WhichOneof("kind"):
        case "put" if mutation.put.HasField("agent"):
            return AgentId(mutation.put.agent.agent_id)
        case "put":
            return AgentId(mutation.put.agent_version.agent_id)
        case _:
            return AgentId(mutation.delete.split("/")[1])


def _agent_is(state: TenantState, agent_id: AgentId) -> AgentIs:
    agent = state.agents[agent_id].agent
    record = state.bundles.get(agent_name(state.tenant_id, agent_id))
    if record is None:
        return AgentIs(agent.etag, True, dict(agent.labels))
    contents = [version.content_hash for version in record.bundle.versions]
    return AgentIs(agent.etag, False, dict(agent.labels), record.etag, contents)
