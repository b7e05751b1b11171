"""Which bundles a stream is about."""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.state import BundleRecord
from voxplane.names import AgentName

Names = frozenset[AgentName]


@dataclass(frozen=True, slots=True)
class Scope:
    """The bundles that were asked for and may be seen: by `names`, by `labels`
    (all of them, as pairs of key and value), and of those the `permitted`.
    None does not restrict."""

    names: Names | None = None
    labels: frozenset[tuple[str, str]] = frozenset()
    permitted: Names | None = None

    @property
    def is_everything(self) -> bool:
        """Whether no bundle is left out."""
        return self.names is None and not self.labels and self.permitted is None

    def covers(self, record: BundleRecord) -> bool:
        """Whether a bundle is among them."""
        if self.names is not None and record.name not in self.names:
            return False
        if self.permitted is not None and record.name not in self.permitted:
            return False
        labels = record.bundle.labels
        return all(labels.get(key) == value for key, value in self.labels)


EVERYTHING = Scope()
