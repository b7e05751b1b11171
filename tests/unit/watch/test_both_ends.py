"""The server's end of the stream and the node's, joined without a socket."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings

from agent_node.upstream.events import Apply, BackOff, Begin, Close, Ended, Persist, Received, Subscribe
from agent_node.upstream.protocol import WatchProtocol
from agent_node.upstream.snapshot import Snapshot
from control_plane.watch.planner import Planner
from tests.unit.watch.streams import DrivenStream
from tests.unit.watch.tenant_log import TenantLog
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

AGENTS = ("a", "b", "c")

steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(AGENTS), st.sampled_from(("one", "two"))),
        st.tuples(st.just("rename"), st.sampled_from(AGENTS), st.just("")),
        st.tuples(st.just("delete"), st.sampled_from(AGENTS), st.just("")),
        st.tuples(st.sampled_from(("look", "beat", "cut", "restart")), st.just(""), st.just("")),
    ),
    max_size=60,
)


class Joined:
    """A tenant's log, a stream, and a node whose disk keeps what it persists."""

    def __init__(self, part_bytes_max: int) -> None:
        self.log = TenantLog()
        self.disk: dict[str, Snapshot] = {}
        self._planner = Planner(part_bytes_max)
        self._protocol = self._node()
        self.begin()

    def _node(self) -> WatchProtocol:
        node = sync_pb2.NodeInfo(node_id="n1")
        return WatchProtocol(node=node, jitter=lambda: 0.5, now=0.0, snapshots=self.disk.values())

    def begin(self) -> None:
        """The node opens a stream."""
        (subscribe,) = self._protocol.receive(Begin(0.0))
        assert isinstance(subscribe, Subscribe)
        self.stream = DrivenStream(subscribe.request, planner=self._planner)
        assert self.stream.closed is None
        self._delivered = 0

    def cut(self, *, restart: bool) -> None:
        """The stream breaks; perhaps the node does too, and starts from disk."""
        (wait,) = self._protocol.receive(Ended("cut", 0.0))
        assert isinstance(wait, BackOff)
        if restart:
            self._protocol = self._node()
        self.begin()

    def deliver(self) -> None:
        """All messages arrive; the node finds fault with none."""
        for data in self.stream.sent[self._delivered :]:
            message = sync_pb2.WatchConfigResponse.FromString(data)
            for action in self._protocol.receive(Received(message, 0.0)):
                assert not isinstance(action, Close), action.reason
                if isinstance(action, Persist):
                    self.disk[action.snapshot.tenant_id] = action.snapshot
                if isinstance(action, Apply):
                    assert action.snapshot.revision.number <= self.log.state.revision
        self._delivered = len(self.stream.sent)


@given(steps=steps, part_bytes_max=st.sampled_from((100, 1_000_000)))
@settings(max_examples=150, deadline=None)
def test_a_node_and_the_server_agree(steps: list[tuple[str, str, str]], part_bytes_max: int) -> None:
    """Through changes, broken streams and restarts from disk, the node never
    distrusts the server, and ends with what the server has."""
    joined = Joined(part_bytes_max)
    for act, agent, text in steps:
        match act:
            case "publish":
                joined.log.publish(agent, text)
            case "rename" if agent in joined.log.live:
                joined.log.rename(agent, "renamed")
            case "delete" if agent in joined.log.live:
                joined.log.delete(agent)
            case "look":
                joined.stream.show(joined.log.state)
                joined.deliver()
            case "beat":
                joined.stream.beat()
                joined.deliver()
            case "cut" | "restart":
                joined.stream.show(joined.log.state)
                joined.cut(restart=act == "restart")
            case _:
                pass
    joined.stream.show(joined.log.state)
    joined.stream.beat()
    joined.deliver()
    snapshot = joined.disk["acme"]
    state = joined.log.state
    assert snapshot.revision.number == state.revision
    assert snapshot.etags == {name: record.etag for name, record in state.bundles.items()}
    assert set(snapshot.contents) == set(state.contents)
