"""A model of outages, restarts and lost acknowledgements: what was told of sessions arrives, once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent_node.sessions.frames import Frame
from agent_node.sessions.reports import RESTARTED, SessionReports
from control_plane.store import MemoryStore, SessionId
from tests.unit.node.session_samples import ACTIVE, CALLER_LEFT, ENDED, NODE_STOPPED, report, session, turns
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as pb2

IDS = st.sampled_from(["s1", "s2", "s3", "s4"])
BYTES_MAX = 1_000_000


@dataclass
class Truth:
    """What has happened in a session; `safe` is what must arrive."""

    sequence: int = 0
    turns: int = 0
    ended: bool = False
    dead: bool = False
    saved: bool = False
    saved_end: bool = False
    safe: set[int] = field(default_factory=set)
    corrected: dict[int, int] = field(default_factory=dict)


class Outages(RuleBasedStateMachine):
    """A node with a disk, and a control plane with a table."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.table = MemoryStore().sessions
        self.node = SessionReports(BYTES_MAX)
        self.disk: list[Frame] = []
        self.whole = True
        self.truth: dict[str, Truth] = {}
        self.connected = False
        self.wire: pb2.SessionBatch | None = None
        self.stored = 0

    def run(self, awaitable: Any) -> Any:
        """What the table answers."""

        async def call() -> Any:
            return await awaitable()

        return self.loop.run_until_complete(call())

    def tell(self, name: str, *numbers: int, **fields: Any) -> None:
        """The session changes."""
        truth = self.truth[name]
        truth.sequence += 1
        self.node.report(report(session(name, truth.sequence, **fields), *numbers))

    @rule(name=IDS)
    def begin(self, name: str) -> None:
        """A session begins."""
        if name not in self.truth:
            self.truth[name] = Truth()
            self.tell(name)

    @rule(name=IDS, count=st.sampled_from([1, 2, 150]))
    def talk(self, name: str, count: int) -> None:
        """Turns end."""
        truth = self.truth.get(name)
        if truth is None or truth.ended or truth.dead:
            return
        numbers = range(truth.turns + 1, truth.turns + count + 1)
        truth.turns += count
        self.tell(name, *numbers)

    @rule(name=IDS)
    def correct(self, name: str) -> None:
        """The last turn is told again, otherwise."""
        truth = self.truth.get(name)
        if truth is None or truth.ended or truth.dead or not truth.turns:
            return
        truth.sequence += 1
        truth.corrected[truth.turns] = truth.sequence
        self.node.report(
            pb2.SessionReport(
                session=session(name, truth.sequence), turns=turns(truth.turns, revision=truth.sequence)
            )
        )

    @rule(name=IDS, last_turn=st.booleans())
    def end(self, name: str, last_turn: bool) -> None:
        """A session ends, perhaps with a last turn."""
        truth = self.truth.get(name)
        if truth is None or truth.ended or truth.dead:
            return
        truth.turns += last_turn
        truth.ended = True
        self.tell(name, *([truth.turns] if last_turn else []), state=ENDED, outcome=CALLER_LEFT)

    @rule()
    def save(self) -> None:
        """The spool is brought up to date."""
        if self.whole:
            self.disk, self.whole = self.node.whole(), False
        else:
            self.disk += self.node.changes()
        again = SessionReports(BYTES_MAX)
        again.restore(self.disk, 0.0)
        assert _ids(again) == _ids(self.node)
        for truth in self.truth.values():
            if not truth.dead:
                truth.saved, truth.saved_end = True, truth.ended
                truth.safe |= set(range(1, truth.turns + 1))

    @rule()
    def write_anew(self) -> None:
        """The next save replaces the file."""
        self.whole = True

    @precondition(lambda self: not self.connected)
    @rule()
    def connect(self) -> None:
        """A stream begins."""
        running = {SessionId(*key) for key in self.node.running()}
        self.run(lambda: self.table.reconcile("n1", running, 0.0))
        self.node.opened()
        self.connected, self.wire, self.stored = True, None, 0

    @precondition(lambda self: self.connected and self.wire is None)
    @rule()
    def send(self) -> None:
        """A batch goes out."""
        self.wire = self.node.next_batch()

    @precondition(lambda self: self.wire is not None)
    @rule()
    def arrive(self) -> None:
        """The control plane stores the batch."""
        batch, self.wire = self.wire, None
        assert batch is not None
        assert len(batch.reports) <= 500
        assert all(len(each.turns) <= 100 for each in batch.reports)
        self.run(lambda: self.table.put(batch.reports, 0.0))
        self.stored = batch.sequence

    @precondition(lambda self: self.stored > 0)
    @rule()
    def acknowledge(self) -> None:
        """The node hears of it."""
        self.node.stored(self.stored)
        self.stored = 0

    @rule(during=st.sampled_from(["", "talk", "correct", "end", "save"]), name=IDS)
    def exchange(self, during: str, name: str) -> None:
        """A batch arrives and is acknowledged, while something else happens."""
        if not self.connected:
            self.connect()
        if self.wire is None:
            self.send()
        if self.wire is None:
            return
        match during:
            case "talk":
                self.talk(name, 1)
            case "correct":
                self.correct(name)
            case "end":
                self.end(name, False)
            case "save":
                self.save()
            case _:
                pass
        self.arrive()
        self.acknowledge()

    @precondition(lambda self: self.connected)
    @rule()
    def lose_stream(self) -> None:
        """The stream ends, whatever was on its way."""
        self.connected, self.wire, self.stored = False, None, 0

    @rule()
    def kill(self) -> None:
        """The node dies and starts again, with what is on its disk."""
        self.lose_stream()
        self.node = SessionReports(BYTES_MAX)
        self.node.restore(self.disk, 1_700_000_100.0)
        self.whole = True
        for truth in self.truth.values():
            truth.dead = True

    @invariant()
    def counts_its_bytes(self) -> None:
        """The size is that of what is kept."""
        assert self.node.size == sum(frame.size for frame in self.node.kept())
        assert self.node.unsent <= self.node.unacknowledged <= len(list(self.node.running()))

    def teardown(self) -> None:
        """In the end all is well for long enough."""
        if self.connected:
            self.lose_stream()
        self.connect()
        for _ in range(100):
            self.send()
            if self.wire is None:
                break
            self.arrive()
            self.acknowledge()
        assert (self.node.unsent, self.node.unacknowledged) == (0, 0)
        for name, truth in self.truth.items():
            self.check(name, truth)
        live = {name for name, truth in self.truth.items() if not truth.ended and not truth.dead}
        assert {key.session_id for key in self.node.running()} == live
        self.loop.close()

    def check(self, name: str, truth: Truth) -> None:
        """The table has what it must, and nothing that was not told."""
        found: session_pb2.Session | None = self.run(lambda: self.table.get("acme", name))
        told = [turn.turn for turn in self.run(lambda: self.table.turns("acme", name))]
        assert len(told) == len(set(told))
        assert set(told) <= set(range(1, truth.turns + 1))
        if not truth.dead:
            assert found is not None
            assert (found.state, found.sequence) == (ENDED if truth.ended else ACTIVE, truth.sequence)
            assert len(told) == min(truth.turns, 1_000)
            for turn in self.run(lambda: self.table.turns("acme", name)):
                assert turn.revision == truth.corrected.get(turn.turn, 0)
            return
        assert truth.turns > 1_000 or truth.safe <= set(told)
        if truth.saved_end:
            assert found is not None
            assert (found.state, found.outcome) == (ENDED, CALLER_LEFT)
        elif truth.saved:
            assert found is not None
            assert found.state == ENDED
            assert (found.outcome, found.end_reason) in ((NODE_STOPPED, RESTARTED), (CALLER_LEFT, ""))


def _ids(node: SessionReports) -> list[tuple[str, int]]:
    """The sessions that a node keeps, and their turns."""
    return sorted(
        (frame.id.session_id, session_pb2.SessionTurn.FromString(frame.data).turn if frame.kind == 2 else 0)
        for frame in node.kept()
    )


TestOutages = Outages.TestCase
TestOutages.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
