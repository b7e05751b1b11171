"""The fleet against a model of it: streams that replace each other, reports
that come late, twice, on streams that are over or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from control_plane.fleet import Fleet, Survey, Target, at_once, node_message, survey_answers
from control_plane.state import BundleRecord, TenantState
from tests.unit.fleet.fleet_world import APPLIED, FAILED, RECEIVED, REVERTED, Level, watch
from tests.unit.watch.tenant_log import TenantLog
from tests.virtual_clock import VirtualClock
from voxplane.names import AgentName, TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import node_pb2

ACME = TenantId("acme")
NODES = ("n1", "n2")
AGENTS = ("a", "b")
PHASES = (RECEIVED, APPLIED, FAILED, REVERTED)

Report = sync_pb2.ReportConfigStatusRequest


@dataclass
class _Stream:
    """A stream as its node sees it, also when the server has ended it."""

    node: str
    stream_id: str
    declared: TenantState | None
    states: dict[int, TenantState] = field(default_factory=dict[int, TenantState])
    sequence: int = 0
    postponed: Report | None = None


@dataclass
class _Node:
    """What the fleet should know of a node."""

    stream: _Stream | None = None
    connected: bool = False
    acked: int = 0
    numbers: int = 0
    generation: int = 0
    sent: TenantState | None = None
    unsent: frozenset[AgentName] = frozenset()
    acked_state: TenantState | None = None
    said: dict[AgentName, list[tuple[int, int, sync_pb2.BundleStatus]]] = field(
        default_factory=dict[AgentName, list[tuple[int, int, sync_pb2.BundleStatus]]]
    )

    def has_acked(self, name: AgentName) -> bool:
        """Whether it has acknowledged the very bundle that it was sent."""
        assert self.sent is not None
        acked = self.acked_state.bundles.get(name) if self.acked_state else None
        return name in self.unsent or (
            acked is not None and acked.revision == self.sent.bundles[name].revision
        )

    def newest(self, name: AgentName) -> sync_pb2.BundleStatus | None:
        """The last word of a bundle, in the order in which the node spoke."""
        said = sorted(self.said.get(name, ()), key=lambda each: each[:2])
        return said[-1][2] if said else None

    def effective(self, name: AgentName) -> sync_pb2.BundleStatus | None:
        """What the node runs, as it has told one after the other."""
        runs: sync_pb2.BundleStatus | None = None
        for _, _, status in sorted(self.said.get(name, ()), key=lambda each: each[:2]):
            if status.phase == APPLIED:
                runs = status
            elif status.phase in (FAILED, REVERTED) and runs is not None and status.etag == runs.etag:
                runs = None
        return runs

    def runs(self, bundle: BundleRecord) -> bool:
        """Whether it runs the bundle, by this number or an earlier one; but not
        if it is on its way to another."""
        runs, newest = self.effective(bundle.name), self.newest(bundle.name)
        if runs is None or newest is None or runs.etag != bundle.etag:
            return False
        return newest.etag == bundle.etag or runs.revision >= bundle.revision


class FleetModel(RuleBasedStateMachine):
    """Two nodes and a tenant of two agents."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet(VirtualClock())
        self.log = TenantLog()
        self.log.publish("a", "Sell.")
        self.nodes = {node: _Node() for node in NODES}
        self.streams: list[_Stream] = []
        self.following = self.fleet.follow()
        self.changes = self.following.__enter__()
        self.texts = 0

    @initialize()
    def begin(self) -> None:
        """A node has the first state."""
        self.open("n1", keeps=False)
        self._send(self.streams[0])

    @rule(agent=st.sampled_from(AGENTS))
    def publish(self, agent: str) -> None:
        """An agent changes."""
        self.texts += 1
        self.log.publish(agent, f"Text {self.texts}.")

    @precondition(lambda self: self.log.has("a", 2))
    @rule(number=st.integers(1, 2))
    def point(self, number: int) -> None:
        """An agent goes back to content that it had before."""
        if "a" in self.log.live:
            self.log.point("a", number)

    @precondition(lambda self: "b" in self.log.live)
    @rule()
    def delete(self) -> None:
        """An agent is taken out of use."""
        self.log.delete("b")

    @rule(node=st.sampled_from(NODES), keeps=st.booleans())
    def open(self, node: str, keeps: bool) -> None:
        """A node connects, with what it has or with nothing."""
        known = self.nodes[node]
        has = (known.acked_state or known.sent) if keeps else None
        stream = _Stream(node, f"s{len(self.streams)}", has)
        self.streams.append(stream)
        before = known.stream.stream_id if known.stream and known.connected else ""
        request = watch(node, start=has.revision if has else None)
        assert self.fleet.open(stream.stream_id, request) == before
        generation = known.generation + 1
        if has is None:
            self.nodes[node] = known = _Node()
        known.stream, known.connected, known.generation = stream, True, generation
        known.acked = known.numbers = 0
        self._look()

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        """A stream ends, also one that was replaced long ago."""
        stream = self._some_stream(data)
        self.fleet.close(stream.stream_id)
        if self._current(stream):
            self.nodes[stream.node].connected = False

    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        """A stream moves to the newest state, also one that was replaced."""
        self._send(self._some_stream(data))

    def _send(self, stream: _Stream) -> None:
        state, old = self.log.state, stream.states[max(stream.states)] if stream.states else None
        if old is state:
            return
        nonce = len(stream.states) + 1
        known = self.nodes[stream.node]
        unsent: frozenset[AgentName] = frozenset()
        if stream.declared is not None:
            had = _etags(stream.declared)
            unsent = frozenset(name for name, etag in _etags(state).items() if had.get(name) == etag)
        removed = [name for name in (old or stream.declared or state).bundles if name not in state.bundles]
        stream.states[nonce] = state
        level = Level(state, unsent)
        node = self.fleet.record(stream.stream_id)
        plain = node is not None and old is not None and old.epoch == state.epoch and not removed
        if not (plain and node is not None and node.follow(ACME, level, nonce)):
            self.fleet.sent(stream.stream_id, ACME, level, removed, nonce)
        if self._current(stream):
            if nonce == 1:
                known.acked_state = stream.declared
            known.sent, known.unsent = state, unsent
            for name in [name for name in known.said if name not in state.bundles]:
                del known.said[name]

    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        """A node reports as it should."""
        self._report(data, "now")

    @rule(data=st.data(), how=st.sampled_from(["twice", "late", "never"]))
    def report_amiss(self, data: st.DataObject, how: str) -> None:
        """A node reports twice, after its next report, or in vain."""
        self._report(data, how)

    def _report(self, data: st.DataObject, how: str) -> None:
        stream = self._some_stream(data)
        nonce = data.draw(st.sampled_from((len(stream.states), *range(len(stream.states)))))
        stream.sequence += 1
        report = Report(stream_id=stream.stream_id, nonce=str(nonce or ""), sequence=stream.sequence)
        if stream.states:
            for _, bundle in sorted(stream.states[max(nonce, 1)].bundles.items()):
                phase = data.draw(st.sampled_from((None, *PHASES)))
                if phase is not None:
                    report.statuses.add(
                        name=bundle.name, etag=bundle.etag, revision=bundle.revision, phase=phase
                    )
        if how == "late" and stream.postponed is None:
            stream.postponed = report
        elif how != "never":
            for _ in range(2 if how == "twice" else 1):
                self._deliver(stream, report)
            if stream.postponed is not None:
                self._deliver(stream, stream.postponed)
        if how != "late":
            stream.postponed = None

    def _some_stream(self, data: st.DataObject) -> _Stream:
        """One of the streams that there ever were, most often one that counts."""
        newest = [known.stream for known in self.nodes.values() if known.stream is not None]
        return data.draw(st.sampled_from(newest * 4 + self.streams))

    def _deliver(self, stream: _Stream, report: Report) -> None:
        known = self.nodes[stream.node]
        self._look()
        before = self._told(stream.node)
        missing = self.fleet.report(report)
        after = self._told(stream.node)
        newly_acked = self._current(stream) and int(report.nonce or 0) > known.acked
        assert self._look() is (before != after or newly_acked), (before, after)
        if not self._current(stream):
            assert (missing, before) == (0, after)
            return
        gap = report.sequence > known.numbers + 1
        assert missing == (known.numbers + 1 if gap else 0)
        known.numbers = max(known.numbers, report.sequence)
        known.acked = max(known.acked, int(report.nonce or 0))
        if known.acked:
            known.acked_state = stream.states[known.acked]
        for status in report.statuses:
            if known.sent is not None and status.name in known.sent.bundles:
                said = known.said.setdefault(AgentName(status.name), [])
                said.append((known.generation, report.sequence, status))

    def _look(self) -> bool:
        """Whether a follower was told of a change."""
        if not self.changes.any:
            return False
        following = self.changes.next()
        try:
            following.send(None)
        except StopIteration:
            return True
        raise AssertionError("a change that has to be waited for")

    def _current(self, stream: _Stream) -> bool:
        known = self.nodes[stream.node]
        return known.connected and known.stream is stream

    def _told(self, node: str) -> node_pb2.Node | None:
        found = self.fleet.find(node)
        if found is None:
            return None
        message = at_once(node_message(found))
        message.ClearField("last_seen_time")
        return message

    @invariant()
    def each_node_is_shown_as_it_is(self) -> None:
        """What is shown of a node is what it has said, in its own order."""
        for node, known in self.nodes.items():
            shown = self._told(node)
            if shown is None:
                assert known.stream is None
                continue
            assert shown.connected is known.connected
            assert len(shown.tenants) == (known.sent is not None)
            for tenant in shown.tenants:
                assert known.sent is not None
                assert [bundle.name for bundle in tenant.bundles] == sorted(known.sent.bundles)
                assert tenant.acked_revision.number == (
                    known.acked_state.revision if known.acked_state else 0
                )
                for bundle in tenant.bundles:
                    name = AgentName(bundle.name)
                    newest = known.newest(name)
                    runs = known.effective(name)
                    assert bundle.effective_etag == (runs.etag if runs else "")
                    assert (bundle.status if bundle.HasField("status") else None) == newest
                refused = {
                    name: status.etag
                    for name in known.sent.bundles
                    if (status := known.newest(name)) and status.phase in (FAILED, REVERTED)
                }
                assert self.fleet.refused(node, ACME) == refused

    @invariant()
    def the_fleet_is_counted_right(self) -> None:
        """The counts are those of the model's nodes."""
        state = self.log.state
        survey = Survey(Target(ACME, state.revision, state.bundles))
        for node in self.fleet.ids("acme"):
            survey.see(self.fleet.node(node))
        for answer in at_once(survey_answers(survey, state.bundles.values(), 1_000_000)):
            name = AgentName(answer.name)
            there = [known for known in self.nodes.values() if known.stream is not None]
            sent = [known for known in there if _has(known.sent, name, answer.etag)]
            acked = [known for known in sent if known.has_acked(name)]
            runs = [known for known in there if known.runs(state.bundles[name])]
            refused = [
                known
                for known in there
                if (status := known.newest(name)) and status.phase in (FAILED, REVERTED)
                if status.etag == answer.etag
            ]
            assert (answer.nodes, answer.sent) == (len(there), len(sent))
            assert (answer.acked, answer.refused) == (len(acked), len(refused))
            assert answer.effective == len(runs)
            assert len(answer.lagging) == answer.nodes - answer.effective

    def teardown(self) -> None:
        """Follow no more."""
        self.following.__exit__(None, None, None)


def _etags(state: TenantState) -> Mapping[AgentName, str]:
    return {name: bundle.etag for name, bundle in state.bundles.items()}


def _has(state: TenantState | None, name: AgentName, etag: str) -> bool:
    return state is not None and _etags(state).get(name) == etag


TestFleetModel = FleetModel.TestCase
TestFleetModel.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
