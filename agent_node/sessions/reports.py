"""What the control plane has still to be told of the node's sessions: pure.

The rules:

- A report is the newest record of a session with all its turns that are not
  acknowledged. One batch is on its way at a time; what it holds counts as told
  when it is acknowledged, and is told again on the next stream if it was not.
  The control plane counts nothing twice.
- A new stream is told of every session that runs, so that a control plane that
  has lost something gets it back.
- A session is forgotten when it has ended, or is another node's, and all of it
  is acknowledged.
- What is kept is bounded in bytes. The oldest turns go first, then the records
  of sessions that have ended, then those of others; all of it is counted.
- A batch that the control plane refuses as invalid is told again report by
  report, and the one that is refused alone is dropped.
- What is on disk is a mirror of this: `changes` are the entries that bring it up
  to date, `whole` those that make it anew, and `restore` reads them back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from agent_node.sessions.frames import Frame, Kind, SessionId, TornFrame, number_of, turn_gone
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as pb2

REPORTS_PER_BATCH_MAX = 500
TURNS_PER_REPORT_MAX = 100
BATCH_BYTES_MAX = 1_048_576
"""Of records and turns in a batch; it has one report at least."""
RUNNING_MAX = 10_000
RESTARTED = "the node restarted"
RESTART_SEQUENCES = 1_000
"""The record on disk may be behind what the control plane has by so many
changes; one that says the end must be ahead."""

ENDED = session_pb2.SESSION_STATE_ENDED


@dataclass(slots=True)
class _Known:
    """A session; `ended` also if it is another node's, `acknowledged` if its
    record is, `refused` if the control plane does not take it."""

    record: bytes
    sequence: int
    ended: bool
    acknowledged: bool = False
    refused: bool = False
    turns: dict[int, None] = field(default_factory=dict[int, None])


@dataclass(frozen=True, slots=True)
class _Told:
    """A report that is on its way."""

    id: SessionId
    record: bytes
    turns: dict[int, bytes]


@dataclass(slots=True)
class Losses:
    """What the control plane will never be told of, in numbers."""

    turns: int = 0
    records: int = 0
    refused: int = 0


class SessionReports:
    """Reports that wait, and what is on disk of them."""

    def __init__(self, bytes_max: int) -> None:
        self.losses = Losses()
        self.size = 0
        self._bytes_max = bytes_max
        self._known: dict[SessionId, _Known] = {}
        self._turns: dict[tuple[SessionId, int], bytes] = {}
        self._unsent: dict[SessionId, None] = {}
        self._on_way: list[_Told] = []
        self._sequence = 0
        self._suspects = 0
        self._mirror = _Mirror()

    @property
    def on_way(self) -> bool:
        """Whether a batch waits for its acknowledgement."""
        return bool(self._on_way)

    @property
    def unsent(self) -> int:
        """Count of sessions of which there is something to send."""
        return len(self._unsent)

    @property
    def unacknowledged(self) -> int:
        """Count of sessions of which there is something that is not
        acknowledged."""
        return sum(self._has_news(known) for known in self._known.values())

    def running(self) -> Iterator[SessionId]:
        """The sessions that run, or have ended and are not yet told."""
        for _, key in zip(range(RUNNING_MAX), self._known, strict=False):
            yield key

    def report(self, report: pb2.SessionReport) -> None:
        """A session as it is now, and turns that are new. A record that is
        older than the one that is known brings its turns alone."""
        session = report.session
        key = SessionId(session.tenant_id, session.session_id)
        known = self._known.get(key)
        if known is None or session.sequence >= known.sequence:
            known = self._put_record(key, session)
        for turn in report.turns:
            self._put_turn(key, known, turn.turn, turn.SerializeToString())
        if self._has_news(known):
            self._unsent[key] = None
        self._trim()

    def moved(self, key: SessionId) -> None:
        """A session is another node's: what is told of it is told, and nothing
        again."""
        known = self._known.get(key)
        if known is not None:
            known.ended = True
            self._tidy(key, known)

    def opened(self) -> None:
        """A stream has begun."""
        self._sequence = 0
        again = [told.id for told in self._on_way]
        self._on_way = []
        for known in self._known.values():
            known.acknowledged = known.acknowledged and (known.ended or known.refused)
        news = {key: None for key, known in self._known.items() if self._has_news(known)}
        self._unsent = {key: None for key in again if key in news} | news

    def next_batch(self) -> pb2.SessionBatch | None:
        """The next batch, which then is on its way; None while there is one, or
        if there is nothing to tell."""
        if self._on_way or not self._unsent:
            return None
        self._sequence += 1
        batch = pb2.SessionBatch(sequence=self._sequence)
        most, size = (1 if self._suspects else REPORTS_PER_BATCH_MAX), 0
        for key in list(self._unsent):
            if len(self._on_way) >= most or size >= BATCH_BYTES_MAX:
                break
            known = self._known[key]
            told = _Told(key, known.record, self._some_turns(key, known))
            size += len(told.record) + sum(map(len, told.turns.values()))
            self._on_way.append(told)
            report = batch.reports.add()
            report.session.ParseFromString(told.record)
            for turn in told.turns.values():
                report.turns.add().ParseFromString(turn)
            del self._unsent[key]
            if len(told.turns) < len(known.turns):
                self._unsent[key] = None
        return batch

    def stored(self, sequence: int) -> bool:
        """The control plane has stored the batches up to this one; whether one
        was waited for."""
        if not self._on_way or sequence < self._sequence:
            return False
        self._suspects = max(0, self._suspects - 1)
        self._settle()
        return True

    def refused(self) -> None:
        """The control plane does not take what is on its way. Of a report
        that is alone its turns are dropped, and its record if it has none."""
        if len(self._on_way) != 1:
            self._suspects = len(self._on_way)
            return
        (told,) = self._on_way
        known = self._known.get(told.id)
        self.losses.refused += 1
        if known is None:
            return
        self._drop_told(told, known)
        if not told.turns and known.record is told.record:
            known.acknowledged = known.refused = True
            self._suspects = max(0, self._suspects - 1)
        self._tidy(told.id, known)

    def restore(self, frames: Iterable[Frame], written: float) -> None:
        """Begin with what was on disk when the node ended, at `written`, in
        seconds since 1970: what ran then has ended."""
        for frame in frames:
            try:
                self._replay(frame)
            except (DecodeError, TornFrame):
                continue  # the checksum fits, so another version has written it
        for key, known in list(self._known.items()):
            if not known.ended:
                self._put_record(key, _ended(known.record, written))
        self._unsent = dict.fromkeys(self._known)
        self._trim()

    def changes(self) -> list[Frame]:
        """The entries that bring the disk up to date; they then count as
        written."""
        return self._mirror.changes(self._known, self._turns)

    def whole(self) -> list[Frame]:
        """All entries that count, which then count as written."""
        return self._mirror.whole(self._known, self._turns)

    def kept(self) -> list[Frame]:
        """All entries that count."""
        return _entries(self._known, self._turns)

    def _has_news(self, known: _Known) -> bool:
        return bool(known.turns) or not known.acknowledged

    def _some_turns(self, key: SessionId, known: _Known) -> dict[int, bytes]:
        some: dict[int, bytes] = {}
        size = 0
        for number in sorted(known.turns):
            turn = self._turns[key, number]
            size += len(turn)
            if some and (len(some) >= TURNS_PER_REPORT_MAX or size > BATCH_BYTES_MAX):
                break
            some[number] = turn
        return some

    def _settle(self) -> None:
        """What is on its way is stored."""
        on_way, self._on_way = self._on_way, []
        for told in on_way:
            known = self._known.get(told.id)
            if known is not None:
                self._drop_told(told, known)
                known.acknowledged = known.acknowledged or known.record is told.record
                self._tidy(told.id, known)

    def _drop_told(self, told: _Told, known: _Known) -> None:
        """Its turns need not be told again."""
        for number, turn in told.turns.items():
            if self._turns.get((told.id, number)) is turn:
                self._drop_turn(told.id, known, number)

    def _tidy(self, key: SessionId, known: _Known) -> None:
        """Send nothing of a session of which there is nothing new, and forget
        it if it has ended."""
        if not self._has_news(known):
            self._unsent.pop(key, None)
            if known.ended:
                self._drop_session(key, known)

    def _put_record(self, key: SessionId, session: session_pb2.Session) -> _Known:
        record = session.SerializeToString()
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known(record, session.sequence, session.state == ENDED)
        else:
            self.size -= _record(key, known).size
            known.record, known.sequence, known.ended = record, session.sequence, session.state == ENDED
            known.acknowledged = known.refused = False
        self.size += _record(key, known).size
        self._mirror.records[key] = None
        return known

    def _put_turn(self, key: SessionId, known: _Known, number: int, turn: bytes) -> None:
        if number in known.turns:
            self.size -= Frame(Kind.TURN, key, self._turns[key, number]).size
        self.size += Frame(Kind.TURN, key, turn).size
        known.turns[number] = None
        self._turns[key, number] = turn
        self._mirror.turns[key, number] = None

    def _drop_turn(self, key: SessionId, known: _Known, number: int) -> None:
        turn = self._turns.pop((key, number))
        del known.turns[number]
        self.size -= Frame(Kind.TURN, key, turn).size
        self._mirror.drop_turn(key, number)

    def _drop_session(self, key: SessionId, known: _Known) -> None:
        for number in list(known.turns):
            self._drop_turn(key, known, number)
        del self._known[key]
        self._unsent.pop(key, None)
        self.size -= _record(key, known).size
        self._mirror.drop_session(key)

    def _trim(self) -> None:
        while self.size > self._bytes_max and self._turns:
            key, number = next(iter(self._turns))
            known = self._known[key]
            self._drop_turn(key, known, number)
            self.losses.turns += 1
            self._tidy(key, known)
        while self.size > self._bytes_max and len(self._known) > 1:
            ended = (key for key, known in self._known.items() if known.ended)
            key = next(ended, next(iter(self._known)))
            self._drop_session(key, self._known[key])
            self.losses.records += 1

    def _replay(self, frame: Frame) -> None:
        known = self._known.get(frame.id)
        match frame.kind:
            case Kind.RECORD:
                session = session_pb2.Session.FromString(frame.data)
                self._put_record(frame.id, session)
            case Kind.TURN if known is not None:
                turn = session_pb2.SessionTurn.FromString(frame.data)
                self._put_turn(frame.id, known, turn.turn, frame.data)
            case Kind.TURN_GONE if known is not None and (number := number_of(frame)) in known.turns:
                self._drop_turn(frame.id, known, number)
            case Kind.SESSION_GONE if known is not None:
                self._drop_session(frame.id, known)
            case _:
                pass


class _Mirror:
    """What is on disk, and what has changed since. `records` and `turns` are to
    be written."""

    def __init__(self) -> None:
        self.records: dict[SessionId, None] = {}
        self.turns: dict[tuple[SessionId, int], None] = {}
        self._gone: list[Frame] = []
        self._written: dict[SessionId, set[int]] = {}

    def drop_turn(self, key: SessionId, number: int) -> None:
        """A turn need not be kept."""
        self.turns.pop((key, number), None)
        written = self._written.get(key)
        if written is not None and number in written:
            written.discard(number)
            self._gone.append(turn_gone(key, number))

    def drop_session(self, key: SessionId) -> None:
        """A session need not be kept; its turns are gone."""
        self.records.pop(key, None)
        if self._written.pop(key, None) is not None:
            self._gone.append(Frame(Kind.SESSION_GONE, key))

    def changes(
        self, known: dict[SessionId, _Known], turns: dict[tuple[SessionId, int], bytes]
    ) -> list[Frame]:
        """See SessionReports."""
        frames, self._gone = self._gone, []
        frames += [_record(key, known[key]) for key in self.records]
        frames += [Frame(Kind.TURN, key, turns[key, number]) for key, number in self.turns]
        self._mark(self.records, self.turns)
        return frames

    def whole(self, known: dict[SessionId, _Known], turns: dict[tuple[SessionId, int], bytes]) -> list[Frame]:
        """See SessionReports."""
        frames = _entries(known, turns)
        self._gone, self._written = [], {}
        self._mark(known, turns)
        return frames

    def _mark(self, records: Iterable[SessionId], turns: Iterable[tuple[SessionId, int]]) -> None:
        for key in records:
            self._written.setdefault(key, set())
        for key, number in turns:
            self._written[key].add(number)
        self.records, self.turns = {}, {}


def _entries(known: dict[SessionId, _Known], turns: dict[tuple[SessionId, int], bytes]) -> list[Frame]:
    records = [_record(key, each) for key, each in known.items()]
    return records + [Frame(Kind.TURN, key, turn) for (key, _), turn in turns.items()]


def _record(key: SessionId, known: _Known) -> Frame:
    return Frame(Kind.RECORD, key, known.record)


def _ended(record: bytes, written: float) -> session_pb2.Session:
    """The record of a session whose node has ended, as it is then."""
    session = session_pb2.Session.FromString(record)
    session.state, session.outcome = ENDED, session_pb2.SESSION_OUTCOME_NODE_STOPPED
    session.end_reason = RESTARTED
    session.end_time.FromNanoseconds(round(written * 1e9))
    if session.end_time.ToNanoseconds() < session.start_time.ToNanoseconds():
        session.end_time.CopyFrom(session.start_time)
    session.sequence += RESTART_SEQUENCES
    return session
