"""The log of every tenant: the only durable truth of the control plane."""

from control_plane.store.log import (
    Answer,
    Commit,
    CommitMeta,
    Compacted,
    DuplicateRequest,
    Entry,
    LogStore,
    RevisionConflict,
    StoreError,
)

__all__ = [
    "Answer",
    "Commit",
    "CommitMeta",
    "Compacted",
    "DuplicateRequest",
    "Entry",
    "LogStore",
    "RevisionConflict",
    "StoreError",
]
