"""The nodes that hold no stream, and since when."""

from __future__ import annotations

from collections import OrderedDict


class Absent:
    """Times are in seconds and never run backwards."""

    def __init__(self, seconds_max: float) -> None:
        self._seconds_max = seconds_max
        self._due: OrderedDict[str, float] = OrderedDict()

    def left(self, node_id: str, now: float) -> None:
        """A node has no stream from now on."""
        self._due[node_id] = now + self._seconds_max
        self._due.move_to_end(node_id)

    def came(self, node_id: str) -> None:
        """A node has a stream."""
        self._due.pop(node_id, None)

    def next_due(self) -> float | None:
        """When the first of them has been away for too long."""
        return next(iter(self._due.values()), None)

    def due(self, now: float) -> str | None:
        """One that has been away for too long; it stays until it `came`."""
        node_id = next(iter(self._due), None)
        return node_id if node_id is not None and self._due[node_id] <= now else None
