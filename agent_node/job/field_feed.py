"""What the caller's frontend is told of a session's replies: pure.

The rules:

- A payload tells of one reply, which is one step of a turn. Replies come one
  after the other, in the order in which they first had something to show; the
  fields of a reply in theirs. One payload is on its way at a time, and the next
  one tells all that has come meanwhile.
- The first payload of a reply is `whole`: what was told before it does not
  count any more. `seq` rises by one from payload to payload. What is sent a
  second time is the same payload with the same seq.
- A payload goes by RPC if it has at most PAYLOAD_BYTES_MAX, else as a text
  stream; it is split between fields, never within one.
- Where the method is not registered, text streams are used until the next
  reply; where the RPC is not answered or not supported, until the first reply
  after RPC_AGAIN_SECONDS_MIN, which doubles each time up to
  RPC_AGAIN_SECONDS_MAX. A caller that joins is tried by RPC again.
- Without a caller nothing is sent, and of the replies only the newest is kept.
  Whoever joins is told all of it.
- At most REPLIES_MAX replies are held; of more the oldest are left out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from google.rpc import status_pb2  # pyright: ignore[reportMissingTypeStubs]

from agent_node.job.reply_events import (
    ReplyBegan,
    ReplyCut,
    ReplyDone,
    ReplyEvent,
    ReplyFailed,
    ReplyField,
    ReplyFieldPart,
)
from agent_node.job.reply_fields import ReplyFields, encoded, size_of
from agent_node.job.targets import Target
from voxplane.names import split_agent_name

DEFAULT_METHOD = "voxplane.fields"
PAYLOAD_BYTES_MAX = 12_000
FRAME_BYTES = 128
"""What a payload has beside its header and what it tells."""
REPLIES_MAX = 4
MAKING_MAX = 16
"""Turns whose replies are made at the same time; of more the first is left out."""
SEQ_PER_PROCESS = 10_000_000
TEXT_SECONDS_MIN = 0.05
"""From one text stream to the next, as nothing says that one has arrived."""
RPC_AGAIN_SECONDS_MIN = 30.0
RPC_AGAIN_SECONDS_MAX = 480.0
AWAY_SECONDS = 2.0
"""After a caller could not be reached, until it is tried again."""
MODEL = "llm"


class Way(Enum):
    """How a payload goes."""

    RPC = "rpc"
    TEXT = "text"


class Result(Enum):
    """What became of a payload."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    """It has arrived, but its handler failed."""
    UNREGISTERED = "unregistered"
    """The caller has not registered the method."""
    NO_ANSWER = "no answer"
    """The RPC was not answered in time, or is not supported."""
    TOO_LARGE = "too large"
    GONE = "gone"
    """The caller is not in the room."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Sending:
    """A payload to send: by RPC of the method, or as a text stream on the topic
    of that name."""

    way: Way
    method: str
    payload: str


@dataclass(slots=True)
class _Flight:
    """A payload on its way: to be sent `again` as text, or `stale` as it was for
    a caller that is there no more."""

    sending: Sending
    reply: ReplyFields
    again: bool = False
    stale: bool = False


def first_seq(replacements: int) -> int:
    """Where a process begins that has replaced so many others: a session's seq
    rises though nobody knows how far the one before it came."""
    return replacements * SEQ_PER_PROCESS + 1


class FieldFeed:
    """Takes what happens, and says what to send. After `next` has given
    something, `sent` must tell what became of it.

    `target` is in force when the session begins. All times are in seconds of
    one monotonic clock.
    """

    def __init__(self, session_id: str, target: Target, *, seq: int = 1, present: bool = False) -> None:
        self._session_id = session_id
        self._target = target
        self._seq = seq
        self._present = present
        self._making: dict[int, ReplyFields] = {}
        self._replies: deque[ReplyFields] = deque()
        self._flight: _Flight | None = None
        self._away_until = 0.0
        self._text_from = 0.0
        self._way = Way.RPC
        self._method = ""
        self._rpc_from = 0.0
        self._rpc_wait = RPC_AGAIN_SECONDS_MIN

    def take(self, event: ReplyEvent, turn: int) -> None:
        """Something happened in a reply of the turn."""
        match event:
            case ReplyBegan(target):
                self._begin(target, turn)
            case ReplyFieldPart(name, text) if reply := self._making.get(turn):
                reply.part(name, text)
                self._show(reply)
            case ReplyField(name, value) if reply := self._making.get(turn):
                reply.value(name, value)
                self._show(reply)
            case ReplyDone(target, _, problem):
                self._end(target, turn, problem)
            case ReplyFailed(target, error):
                self._end(target, turn, error)
            case ReplyCut(target):
                self._end(target, turn, None, interrupted=True)
            case _:
                pass
        self._prune()

    def problem(self, source: str, message: str, turn: int) -> None:
        """Something went wrong outside a reply. It comes with the newest one,
        of which the frontend keeps what it has."""
        if self._replies:
            self._replies[-1].error(source, message, turn)
        else:
            reply = ReplyFields(self._target, turn)
            reply.error(source, message, turn)
            reply.end()
            self._show(reply)

    def caller(self, *, present: bool) -> None:
        """The caller has joined, perhaps in place of another, or has left."""
        self._present = present
        self._away_until = 0.0
        self._way, self._rpc_wait, self._rpc_from = Way.RPC, RPC_AGAIN_SECONDS_MIN, 0.0
        self._start_over()

    def next(self, now: float) -> Sending | None:
        """What to send now."""
        flight = self._flight
        if flight is not None:
            if not flight.again:
                return None
            flight.again = False
            flight.sending = Sending(Way.TEXT, flight.sending.method, flight.sending.payload)
            return flight.sending
        until = self._held_until(now)
        reply = self._head()
        if until is None or until > now or reply is None:
            return None
        sending = self._sending(reply, now)
        self._flight = _Flight(sending, reply)
        return sending

    @property
    def held(self) -> int:
        """Count of the replies that are held."""
        return len(self._replies)

    @property
    def idle(self) -> bool:
        """Whether all is told that can be."""
        return self._flight is None and (not self._present or self._head() is None)

    def wait(self, now: float) -> float | None:
        """Seconds until `next` may give something that it does not give now,
        if nothing happens before; None if it will not."""
        until = self._held_until(now)
        if self._flight is not None or until is None or self._head() is None:
            return None
        return max(0.0, until - now)

    def sent(self, result: Result, now: float) -> None:
        """What became of what `next` has given."""
        flight = self._flight
        assert flight is not None
        if flight.sending.way is Way.TEXT:
            self._text_from = now + TEXT_SECONDS_MIN
        if flight.stale:
            self._flight = None
        elif result in (Result.DELIVERED, Result.REFUSED):
            self._flight = None
            self._arrived(flight)
        elif result is Result.GONE or flight.sending.way is Way.TEXT:
            self._flight = None
            self._away_until = now + AWAY_SECONDS
            self._start_over()
        else:
            self._fall_back(flight, result, now)

    def _arrived(self, flight: _Flight) -> None:
        flight.reply.acknowledge()
        if flight.sending.way is Way.RPC:
            self._rpc_wait = RPC_AGAIN_SECONDS_MIN
        self._prune()

    def _fall_back(self, flight: _Flight, result: Result, now: float) -> None:
        flight.again = True
        if result is Result.TOO_LARGE:
            return
        self._way, self._rpc_from = Way.TEXT, now
        if result is not Result.UNREGISTERED:
            self._rpc_from = now + self._rpc_wait
            self._rpc_wait = min(2 * self._rpc_wait, RPC_AGAIN_SECONDS_MAX)

    def _held_until(self, now: float) -> float | None:
        if not self._present:
            return None
        return max(self._away_until, self._text_from if self._way is Way.TEXT else now)

    def _sending(self, reply: ReplyFields, now: float) -> Sending:
        method = reply.target.config.frontend_config.rpc_method or DEFAULT_METHOD
        if not reply.begun and (method != self._method or now >= self._rpc_from):
            self._way = Way.RPC
        self._method = method
        header = self._header(reply)
        told = reply.next(PAYLOAD_BYTES_MAX - size_of(header) - FRAME_BYTES)
        self._seq += 1
        payload = encoded(
            {
                **header,
                "whole": told.whole,
                "fields": told.fields,
                "deltas": told.deltas,
                "complete": told.complete,
                "done": told.done,
                "interrupted": told.done and reply.interrupted,
                "error": told.error,
            }
        )
        large = len(payload.encode()) > PAYLOAD_BYTES_MAX
        return Sending(Way.TEXT if large else self._way, method, payload)

    def _header(self, reply: ReplyFields) -> dict[str, object]:
        target = reply.target
        return {
            "seq": self._seq,
            "session_id": self._session_id,
            "agent": split_agent_name(target.bundle.name)[1],
            "turn": reply.turn,
            "version": target.version,
            "revision": target.bundle.revision,
        }

    def _begin(self, target: Target, turn: int) -> None:
        self._target = target
        if before := self._making.pop(turn, None):
            before.end()
        self._making[turn] = ReplyFields(target, turn)
        if len(self._making) > MAKING_MAX:
            self._drop(next(iter(self._making.values())))

    def _end(
        self, target: Target, turn: int, error: status_pb2.Status | None, *, interrupted: bool = False
    ) -> None:
        reply = self._making.pop(turn, None) or ReplyFields(target, turn)
        if error is not None:
            reply.error(MODEL, error.message, turn)
        reply.end(interrupted=interrupted)
        self._show(reply)

    def _show(self, reply: ReplyFields) -> None:
        """Put it behind the others as soon as there is something to tell of it."""
        if reply.shown and reply not in self._replies:
            self._replies.append(reply)

    def _head(self) -> ReplyFields | None:
        """The reply to tell of next: none while one before it is still made."""
        for reply in self._replies:
            if reply.pending:
                return reply
            if not reply.over:
                return None
        return None

    def _start_over(self) -> None:
        """Tell all of the newest reply, and nothing of those before."""
        if self._flight is not None:
            self._flight.stale, self._flight.again = True, False
        while len(self._replies) > 1:
            self._drop(self._replies[0])
        for reply in self._replies:
            reply.forget()

    def _prune(self) -> None:
        """Keep no reply that is told once there is a newer one."""
        replies = self._replies
        while len(replies) > 1 and (len(replies) > REPLIES_MAX or not self._present or _told(replies[0])):
            self._drop(replies[0])

    def _drop(self, reply: ReplyFields) -> None:
        """Tell no more of it."""
        if reply in self._replies:
            self._replies.remove(reply)
        if self._making.get(reply.turn) is reply:
            del self._making[reply.turn]


def _told(reply: ReplyFields) -> bool:
    return reply.over and not reply.pending
