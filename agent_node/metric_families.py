"""The node's metrics, as Prometheus' client takes them."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

PREFIX = "voxplane_node_"


def gauge(name: str, about: str, value: float) -> Metric:
    """A value that rises and falls."""
    return GaugeMetricFamily(PREFIX + name, about, value=value)


def count(name: str, about: str, value: float) -> Metric:
    """A count that only rises."""
    return CounterMetricFamily(PREFIX + name, about, value=value)


def counts(name: str, about: str, label: str, values: Mapping[str, int]) -> Metric:
    """Counts by a label."""
    made = CounterMetricFamily(PREFIX + name, about, labels=[label])
    for key, value in sorted(values.items()):
        made.add_metric([key], value)
    return made
