"""The log of every tenant, the only durable truth of the control plane, and
the sessions beside it."""

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
from control_plane.store.session_table import (
    Place,
    SessionChange,
    SessionId,
    SessionQuery,
    SessionTable,
)
from control_plane.store.sqlite import SqliteStore
from control_plane.store.store import Store

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
    "Place",
    "RevisionConflict",
    "SessionChange",
    "SessionId",
    "SessionQuery",
    "SessionTable",
    "SqliteStore",
    "Store",
    "StoreError",
]
