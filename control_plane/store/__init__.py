"""The log of every tenant: the only durable truth of the control plane."""

from control_plane.store.log import (
    Answer,
    Commit,
    CommitMeta,
    Compacted,
    DuplicateRequest,
    Entry,
    LogStore,
    OutcomeUnknown,
    RevisionConflict,
    StoreError,
)
from control_plane.store.memory import MemoryStore
from control_plane.store.sqlite import SqliteStore

__all__ = [
    "Answer",
    "Commit",
    "CommitMeta",
    "Compacted",
    "DuplicateRequest",
    "Entry",
    "LogStore",
    "MemoryStore",
    "OutcomeUnknown",
    "RevisionConflict",
    "SqliteStore",
    "StoreError",
]
