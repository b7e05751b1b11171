"""What the node's metrics say of its calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent_node.calls.healing import Outcome
from agent_node.calls.worker import CallWorker
from agent_node.metric_families import PREFIX, count, counts, gauge


class CallFigures(Collector):
    """The figures of a worker, read when they are asked for."""

    def __init__(self, worker: CallWorker) -> None:
        self._worker = worker

    def collect(self) -> Iterator[Metric]:
        """Part of prometheus_client's interface."""
        worker, gate = self._worker, self._worker.gate
        load = worker.meter.load()
        yield gauge("livekit_registered", "1 while LiveKit offers calls to the node.", worker.registered)
        yield gauge("draining", "1 since the node takes no more calls.", gate.draining)
        yield gauge("calls", "Calls that run or are about to.", len(worker.slots))
        yield gauge("calls_max", "Calls that the node may hold.", worker.slots.slots_max)
        yield gauge("cpu", "Share of the processors that is in use, smoothed.", worker.meter.cpu)
        parts = GaugeMetricFamily(
            PREFIX + "call_load", "How full the node is, 0 to 1, by part.", labels=["part"]
        )
        parts.add_metric(["sessions"], load.sessions)
        parts.add_metric(["cpu"], load.cpu)
        yield parts
        yield count("calls_accepted", "Calls that were taken.", gate.accepted)
        yield counts("calls_refused", "Calls that were not taken, by reason.", "reason", gate.refusals)
        yield count(
            "refusals_untold", "Refusals of which nobody in the room could be told.", worker.unannounced
        )
        yield counts("calls_ended", "Processes of calls that ended, by how.", "how", worker.ends)
        healed = worker.healer.outcomes if worker.healer else Counter[Outcome]()
        outcomes = {outcome.value: healed[outcome] for outcome in Outcome}
        yield counts("calls_healed", "Calls whose process died, by who took them over.", "by", outcomes)
        yield count("livekit_restarts", "How often the LiveKit worker broke.", worker.restarts)
