"""What the figures should be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Against(Enum):
    """What a target is a limit of."""

    ETCD = "× etcd"
    ADS = "× ADS"
    NONE_SILENT = "× none"
    PLAIN = "× plain"
    ITSELF = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A limit of a figure, or of its ratio. `least` turns it round."""

    limit: float
    against: Against
    unit: str = ""
    least: bool = False

    def met(self, found: float) -> bool:
        """Whether a figure or ratio keeps to it."""
        return found >= self.limit if self.least else found <= self.limit

    def __str__(self) -> str:
        sign = "≥" if self.least else "≤"
        return f"{sign} {self.limit:,g} {self.against.value or self.unit}".rstrip()


RSS = Target(0.6, Against.ETCD)
RECONNECT = Target(1.5, Against.ETCD)
ADS_CPU = Target(1.0, Against.ADS)
BY_STREAM = Target(130, Against.ITSELF, "µs")
NONE_LOST = Target(0, Against.ITSELF, "lost")
SILENT = Target(1.1, Against.NONE_SILENT)
COMMITS = Target(1_500, Against.ITSELF, "/s", least=True)
ONE_WRITER = Target(2, Against.ITSELF, "ms")
ALL_HAVE = {2_000: Target(2.5, Against.ETCD), 16_000: Target(1.5, Against.ETCD)}
EDGE_ALL_HAVE = Target(1.0, Against.ETCD)
EDGE_CPU = Target(0.7, Against.ETCD)
EDGE_RSS = Target(0.3, Against.ETCD)
EDGE_RECONNECT = Target(1.0, Against.ETCD)
EDGE_BY_STREAM = Target(60, Against.ITSELF, "µs")
EDGE_TLS = Target(1.4, Against.PLAIN)
TARGET_STREAMS = 1_000
CROWD_STREAMS = 5_000
