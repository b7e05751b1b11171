"""Nodes, watchers and a store that fails, in any interleaving."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from control_plane.store import SessionQuery
from tests.contract.session_samples import ACTIVE, ENDED, LOST, report, session, turn
from tests.unit.sessions.session_world import Node, Watch, World
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as pb2

NODES = ("n1", "n2")
SESSIONS_OF_NODE = 3


class ReferenceNode:
    """A node that keeps what is not acknowledged and tells it again."""

    def __init__(self, world: World, node_id: str) -> None:
        self._world = world
        self.node_id = node_id
        self.running: dict[str, session_pb2.Session] = {}
        self.said: dict[str, session_pb2.Session] = {}
        self.acknowledged: dict[str, int] = {}
        self.turns: dict[str, list[int]] = {}
        self._unacknowledged: list[list[pb2.SessionReport]] = []
        self._sent: list[tuple[int, list[pb2.SessionReport]]] = []
        self._node: Node | None = None

    def connect(self) -> None:
        """Begin another stream, and tell on it all that is left to tell."""
        self._take()
        self._node = Node(self._world.sessions)
        self._node.hello(self.node_id, *self.running)
        self._sent = []
        for reports in self._unacknowledged:
            self._sent.append((self._node.batch(*reports), reports))

    def disconnect(self) -> None:
        """The stream breaks."""
        self._take()
        if self._node is not None:
            self._node.stream.cancel()

    def speak(self, at: int, *, ends: bool) -> None:
        """A session begins, has a turn, or ends."""
        session_id = f"{self.node_id}-{at}"
        before = self.said.get(session_id)
        if before is not None and session_id not in self.running:
            return
        sequence = before.sequence + 1 if before else 1
        now = session(session_id, sequence, node_id=self.node_id, state=ENDED if ends else ACTIVE)
        self.said[session_id] = self.running[session_id] = now
        self.turns.setdefault(session_id, []).append(sequence)
        if ends:
            del self.running[session_id]
        reports = [report(now, turn(sequence))]
        self._unacknowledged.append(reports)
        if self._node is not None and not self._node.stream.done():
            self._sent.append((self._node.batch(*reports), reports))

    def crash(self) -> None:
        """The node dies with its sessions, and tells nothing of their end; what
        it has told and not heard of is told all the same."""
        self.disconnect()
        self.running.clear()

    def look(self) -> None:
        """Read what has come, and come again if the stream has ended."""
        self._take()
        if self._node is not None and self._node.stream.done():
            self.connect()

    @property
    def settled(self) -> bool:
        """Whether all is acknowledged."""
        self._take()
        return not self._unacknowledged

    def _take(self) -> None:
        for number in self._node.stored() if self._node is not None else ():
            for sequence, reports in self._sent:
                if sequence <= number and reports in self._unacknowledged:
                    self._unacknowledged.remove(reports)
                    for each in reports:
                        self.acknowledged[each.session.session_id] = each.session.sequence


class ReferenceWatcher:
    """Shows what it was sent; lists anew when its stream has ended."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._watch = Watch(world.sessions)
        self._fresh: dict[str, tuple[int, session_pb2.SessionState]] = {}
        self._listing = True
        self.shown: dict[str, tuple[int, session_pb2.SessionState]] = {}

    def look(self) -> None:
        """Read what has come, and come again if the stream has ended."""
        for message in self._watch.out.take():
            if message.HasField("synced"):
                assert message.synced.sessions == len(self._fresh)
                self.shown, self._listing = self._fresh, False
            else:
                changed = message.changed.session
                target = self._fresh if self._listing else self.shown
                assert changed.sequence >= target.get(changed.session_id, (0, ACTIVE))[0]
                target[changed.session_id] = changed.sequence, changed.state
        if self._watch.stream.done():
            assert self._watch.reason() == "STORE_UNAVAILABLE"
            self._watch, self._fresh, self._listing = Watch(self._world.sessions), {}, True

    @property
    def active(self) -> dict[str, int]:
        """The sessions that it takes for active, with their sequences."""
        return {name: sequence for name, (sequence, state) in self.shown.items() if state == ACTIVE}

    def slow(self, is_slow: bool) -> None:
        """Stop reading, or go on."""
        (self._watch.out.gate.clear if is_slow else self._watch.out.gate.set)()


class Play:
    """One history."""

    def __init__(self) -> None:
        self.world = World()
        self.nodes = [ReferenceNode(self.world, node_id) for node_id in NODES]
        self.watcher = ReferenceWatcher(self.world)
        self.world.sessions.start()

    async def settle(self) -> None:
        """Let everybody act on what has come."""
        for _ in range(2):
            await self.world.settle()
            self.watcher.look()
            for node in self.nodes:
                node.look()
            await self.world.settle()

    async def heal(self) -> None:
        """Everything works again, until all is told and acknowledged."""
        self.world.table.gate.set()
        self.world.table.broken = self.world.table.writes_fail = False
        self.watcher.slow(False)
        for node in self.nodes:
            node.connect()
        for _ in range(10):
            await self.settle()
        assert all(node.settled for node in self.nodes)

    async def check(self) -> None:
        """Nothing acknowledged is lost, the table has everybody's last word, and
        who watches sees what it has."""
        table = self.world.table.inner
        for node in self.nodes:
            for session_id, said in node.said.items():
                found = await table.get("acme", session_id)
                assert found is not None
                assert found.sequence == said.sequence == node.acknowledged[session_id]
                assert (found.state == ACTIVE) == (session_id in node.running)
                assert found.state == ENDED or said.state == ACTIVE
                turns = [each.turn for each in await table.turns("acme", session_id)]
                assert turns == node.turns[session_id]
        active = await table.page(SessionQuery("acme", state=ACTIVE))
        assert self.watcher.active == {each.session_id: each.sequence for each in active}

    async def check_acknowledged(self) -> None:
        """At any time what was acknowledged is there."""
        for node in self.nodes:
            for session_id, sequence in node.acknowledged.items():
                found = await self.world.table.inner.get("acme", session_id)
                assert found is not None
                assert found.sequence >= sequence


def _speak(node: int, at: int, ends: bool) -> Callable[[Play], Any]:
    return lambda play: play.nodes[node].speak(at, ends=ends)


def _node(do: str, node: int) -> Callable[[Play], Any]:
    return lambda play: getattr(play.nodes[node], do)()


def _table(name: str, value: bool) -> Callable[[Play], Any]:
    return lambda play: setattr(play.world.table, name, value)


def _gate(is_open: bool) -> Callable[[Play], Any]:
    return lambda play: (play.world.table.gate.set if is_open else play.world.table.gate.clear)()


def _pass(seconds: int) -> Callable[[Play], Any]:
    return lambda play: play.world.clock.advance(seconds)


def _slow(is_slow: bool) -> Callable[[Play], Any]:
    return lambda play: play.watcher.slow(is_slow)


def _settle() -> Callable[[Play], Any]:
    return lambda play: play.settle()


nodes = st.integers(0, len(NODES) - 1)
STEPS = st.one_of(
    st.builds(_speak, nodes, st.integers(0, SESSIONS_OF_NODE - 1), st.sampled_from([False, False, True])),
    st.builds(_node, st.sampled_from(["connect", "connect", "disconnect"]), nodes),
    st.builds(_table, st.sampled_from(["broken", "writes_fail"]), st.booleans()),
    st.builds(_gate, st.booleans()),
    st.builds(_pass, st.sampled_from([1, 59, 60, 200])),
    st.builds(_slow, st.booleans()),
    st.builds(_settle),
    st.builds(_settle),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_nothing_acknowledged_is_lost(steps: list[Callable[[Play], Any]]) -> None:
    """However streams break, nodes stay away and the store fails or hangs:
    what was acknowledged is there, in the end the table has the last word of
    every node, and a watcher sees what the table has."""

    async def play() -> None:
        history = Play()
        for step in steps:
            done = step(history)
            if asyncio.iscoroutine(done):
                await done
            await history.check_acknowledged()
        await history.heal()
        await history.check()
        await history.world.clock.finish(history.world.sessions.close())

    asyncio.run(play())


async def test_a_crashed_node_leaves_no_session_running() -> None:
    """A node that dies and comes back without its sessions has them lost, and
    what it told before is kept."""
    history = Play()
    node = history.nodes[0]
    node.connect()
    node.speak(0, ends=False)
    await history.settle()
    node.crash()
    await history.settle()
    node.connect()
    await history.settle()
    found = await history.world.table.inner.get("acme", "n1-0")
    assert found is not None
    assert found.state == LOST
    assert history.watcher.active == {}
    await history.world.clock.finish(history.world.sessions.close())
