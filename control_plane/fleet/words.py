"""What nodes say of bundles. A fleet says the same few things very often, so
each different one is kept once and shared."""

from __future__ import annotations

from dataclasses import dataclass

from google.rpc import status_pb2  # pyright: ignore[reportMissingTypeStubs]

from voxplane.v1 import config_sync_service_pb2 as sync_pb2

ERROR_BYTES_MAX = 4_096
"""Of a longer error the start of the message is kept, and the details that
fit."""
ERROR_TEXT_MAX = 500
WORDS_MAX = 4_096
"""Words that are shared; those of a fleet with more are kept many times."""

REFUSED = (sync_pb2.CONFIG_PHASE_FAILED, sync_pb2.CONFIG_PHASE_REVERTED)


@dataclass(frozen=True, slots=True)
class Word:
    """How far a node has come with a bundle, and why it has refused it if it
    did."""

    etag: str
    revision: int
    phase: sync_pb2.ConfigPhase
    error: status_pb2.Status | None = None

    @property
    def refuses(self) -> bool:
        """Whether the node has refused the bundle."""
        return self.phase in REFUSED


class Words:
    """The words of a fleet. Equal ones are nearly always the same object."""

    def __init__(self, words_max: int = WORDS_MAX) -> None:
        self._words_max = words_max
        self._words: dict[tuple[str, int, int, bytes], Word] = {}

    def of(self, status: sync_pb2.BundleStatus) -> Word:
        """What a status says."""
        error = status.error.SerializeToString() if status.HasField("error") else b""
        key = (status.etag, status.revision, status.phase, error)
        word = self._words.get(key)
        if word is None:
            kept = _bounded(status.error) if status.HasField("error") else None
            word = Word(key[0], key[1], status.phase, kept)
            if len(error) > ERROR_BYTES_MAX:
                return word
            if len(self._words) >= self._words_max:
                self._words.clear()
            self._words[key] = word
        return word


def _bounded(error: status_pb2.Status) -> status_pb2.Status:
    """A copy of the error, cut if it is too long."""
    copy = status_pb2.Status()
    if error.ByteSize() <= ERROR_BYTES_MAX:
        copy.CopyFrom(error)
        return copy
    copy.code, copy.message = error.code, error.message[:ERROR_TEXT_MAX]
    size = copy.ByteSize()
    for detail in error.details:
        size += detail.ByteSize()
        if size <= ERROR_BYTES_MAX:
            copy.details.add().CopyFrom(detail)
        else:
            size -= detail.ByteSize()
    return copy
