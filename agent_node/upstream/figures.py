"""What the stream has done so far, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Figures:
    """Counts since the node started. `messages` are by kind, `transfers` by
    intent; `edge_failures` are streams and connections to the edge that led to
    nothing."""

    opens: int = 0
    back_offs: int = 0
    moves: int = 0
    replaced: int = 0
    edge_opens: int = 0
    edge_failures: int = 0
    messages: Counter[str] = field(default_factory=Counter[str])
    transfers: Counter[str] = field(default_factory=Counter[str])
