"""The turns of a session, out of what happens in it: pure.

The rules:

- A turn is one speech of the agent with all its steps: a reply with its tool
  calls, a greeting, a goodbye. It gets its number when it begins, and is told
  once, when it is over, whatever order turns end in.
- It is of the version that made its first step; one that no model made is of
  the version in force when it began.
- An error belongs to the turn in which it happened; one that happened in none,
  or after its end, to the next turn that ends.
- Figures are sums. What comes after a turn's end, such as the tokens of a reply
  that was interrupted, is in them with the next turn.
- At most TURNS_OPEN_MAX turns are open; of more the oldest ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf import duration_pb2

from agent_node.job.targets import Target
from voxplane.clock import Clock
from voxplane.names import split_agent_name
from voxplane.v1 import session_pb2

TOOLS_MAX = 20
TOOL_CHARS_MAX = 128
ERRORS_MAX = 10
SOURCE_CHARS_MAX = 32
ERROR_CHARS_MAX = 500
TURNS_OPEN_MAX = 16


@dataclass(frozen=True, slots=True)
class Began:
    """A turn begins: `key` is its own while it is open. `at` is in seconds of
    the monotonic clock, as everywhere here."""

    key: str
    at: float


@dataclass(frozen=True, slots=True)
class MadeBy:
    """A step of the turn is made by the target; the first one counts."""

    key: str
    target: Target


@dataclass(frozen=True, slots=True)
class Answers:
    """The turn answers the caller. The delays are in seconds after the end of
    the caller's speech; None without speech."""

    key: str
    transcription_delay: float | None = None
    end_of_turn_delay: float | None = None


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The model's first token came so many seconds after the request; the first
    step counts."""

    key: str
    seconds: float


@dataclass(frozen=True, slots=True)
class FirstHeard:
    """The first speech of the turn is heard, or the first text is seen."""

    key: str
    at: float


@dataclass(frozen=True, slots=True)
class Spoke:
    """A message of the turn is over. `first_speech` is in seconds after its
    first text, `after_speech` from the end of the caller's speech to the
    first of the agent's; None if not known. `characters` were spoken."""

    key: str
    first_speech: float | None = None
    after_speech: float | None = None
    characters: int = 0


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """A tool is called."""

    key: str
    name: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """A model was given and made tokens; `key` is empty if it is not known for
    which turn."""

    key: str
    given: int
    made: int


@dataclass(frozen=True, slots=True)
class Audio:
    """Seconds of audio that were spoken or listened to."""

    spoken: float = 0.0
    heard: float = 0.0


@dataclass(frozen=True, slots=True)
class Problem:
    """Something went wrong at `source`. `key` is empty outside a turn. The
    message never holds what was said."""

    key: str
    at: float
    source: str
    message: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The turn is over, its speech too."""

    key: str
    interrupted: bool = False


_InTurn = MadeBy | Answers | FirstToken | FirstHeard | Spoke | ToolCalled
TurnEvent = Began | Ended | Tokens | Audio | Problem | _InTurn

TurnTold = Callable[[session_pb2.SessionTurn, session_pb2.SessionFigures], None]


class _Turn:
    """A turn that is open."""

    def __init__(self, began: float, in_force: Target, record: session_pb2.SessionTurn) -> None:
        self.record = record
        self.problems: list[Problem] = []
        self._began = began
        self._in_force = in_force
        self._made_by: Target | None = None
        self._answers = False
        self._first_heard: float | None = None
        self._after_speech: float | None = None

    @property
    def target(self) -> Target:
        """What made it."""
        return self._made_by or self._in_force

    @property
    def response(self) -> float | None:
        """Seconds from the end of the caller's turn to the first speech."""
        if self._after_speech is not None:
            return self._after_speech - self.record.end_of_turn_delay.ToNanoseconds() / 1e9
        if self._answers and self._first_heard is not None:
            return self._first_heard - self._began
        return None

    def take(self, event: _InTurn) -> None:
        """Something happened in it."""
        match event:
            case MadeBy(_, target):
                self._made_by = self._made_by or target
            case Answers(_, transcription_delay, end_of_turn_delay):
                self._answers = True
                _set_first(self.record, "transcription_delay", transcription_delay)
                _set_first(self.record, "end_of_turn_delay", end_of_turn_delay)
            case FirstToken(_, seconds):
                _set_first(self.record, "first_token", seconds)
            case FirstHeard(_, at):
                self._first_heard = at if self._first_heard is None else self._first_heard
            case Spoke(_, first_speech, after_speech, _):
                _set_first(self.record, "first_speech", first_speech)
                self._after_speech = after_speech if self._after_speech is None else self._after_speech
            case ToolCalled(_, name):
                if len(self.record.tools) < TOOLS_MAX:
                    self.record.tools.append(name[:TOOL_CHARS_MAX])


class TurnBook:
    """Takes what happens; `told` gets each turn that is over, with the sums so
    far.

    `target` is in force when the session begins. A process that takes a
    session over begins with the number of the `first_turn` that is its own,
    and with the `figures` so far.
    """

    def __init__(
        self,
        target: Target,
        told: TurnTold,
        clock: Clock,
        *,
        first_turn: int = 1,
        figures: session_pb2.SessionFigures | None = None,
    ) -> None:
        self._target = target
        self._told = told
        self._clock = clock
        self._next = first_turn
        self._first = first_turn
        self._figures = session_pb2.SessionFigures()
        if figures is not None:
            self._figures.CopyFrom(figures)
        self._spoken = self._figures.spoken_audio.ToNanoseconds() / 1e9
        self._heard = self._figures.heard_audio.ToNanoseconds() / 1e9
        self._open: dict[str, _Turn] = {}
        self._homeless: deque[Problem] = deque(maxlen=ERRORS_MAX)

    @property
    def turn(self) -> int:
        """Number of the newest turn; the first one's before it has begun."""
        return max(self._first, self._next - 1)

    @property
    def newest(self) -> str:
        """Key of the newest turn that is open; empty without one."""
        return next(reversed(self._open), "")

    @property
    def figures(self) -> session_pb2.SessionFigures:
        """The sums so far."""
        made = session_pb2.SessionFigures()
        made.CopyFrom(self._figures)
        made.spoken_audio.CopyFrom(_duration(self._spoken))
        made.heard_audio.CopyFrom(_duration(self._heard))
        return made

    def number(self, key: str) -> int:
        """Number of an open turn; the newest one's if it is not open."""
        turn = self._open.get(key)
        return turn.record.turn if turn is not None else self.turn

    def runs(self, target: Target) -> None:
        """The target makes the turns from now on."""
        self._target = target

    def take(self, event: TurnEvent) -> None:
        """Something happened. What is of no open turn counts in the figures
        alone."""
        match event:
            case Began(key, at):
                self._begin(key, at)
            case Ended(key, interrupted):
                self._end(key, interrupted)
            case Tokens():
                self._tokens(event)
            case Audio(spoken, heard):
                self._spoken += spoken
                self._heard += heard
            case Problem():
                self._problem(event)
            case _:
                self._count(event)
                if (turn := self._open.get(event.key)) is not None:
                    turn.take(event)

    def close(self) -> None:
        """The session is over, and so are its turns."""
        for key in list(self._open):
            self._end(key, interrupted=False)

    def _count(self, event: _InTurn) -> None:
        match event:
            case Spoke(_, _, _, characters):
                self._figures.spoken_characters += characters
            case ToolCalled():
                self._figures.tool_calls += 1
            case _:
                pass

    def _begin(self, key: str, at: float) -> None:
        if key in self._open:
            return
        if len(self._open) >= TURNS_OPEN_MAX:
            self._end(next(iter(self._open)), interrupted=False)
        record = session_pb2.SessionTurn(turn=self._next)
        record.start_time.FromNanoseconds(self._wall(at))
        self._open[key] = _Turn(at, self._target, record)
        self._next += 1

    def _end(self, key: str, interrupted: bool) -> None:
        turn = self._open.pop(key, None)
        if turn is None:
            return
        record, target = turn.record, turn.target
        record.agent_id = split_agent_name(target.bundle.name)[1]
        record.version, record.revision = target.version, target.bundle.revision
        record.interrupted = interrupted
        _set_first(record, "response", turn.response)
        problems = [*self._homeless, *turn.problems]
        self._homeless.clear()
        for problem in problems[:ERRORS_MAX]:
            record.errors.append(self._error(problem))
        self._figures.turns += 1
        self._figures.interruptions += interrupted
        self._told(record, self.figures)

    def _tokens(self, event: Tokens) -> None:
        self._figures.input_tokens += event.given
        self._figures.output_tokens += event.made
        turn = self._open.get(event.key)
        if turn is not None:
            turn.record.input_tokens += event.given
            turn.record.output_tokens += event.made

    def _problem(self, event: Problem) -> None:
        self._figures.errors += 1
        turn = self._open.get(event.key)
        if turn is None:
            self._homeless.append(event)
        elif len(turn.problems) < ERRORS_MAX:
            turn.problems.append(event)

    def _error(self, problem: Problem) -> session_pb2.SessionError:
        error = session_pb2.SessionError(
            source=problem.source[:SOURCE_CHARS_MAX], message=problem.message[:ERROR_CHARS_MAX]
        )
        error.time.FromNanoseconds(self._wall(problem.at))
        return error

    def _wall(self, at: float) -> int:
        """Nanoseconds since 1970 of a monotonic time."""
        return round((self._clock.time() - (self._clock.monotonic() - at)) * 1e9)


def _set_first(record: session_pb2.SessionTurn, name: str, seconds: float | None) -> None:
    """Set a duration that is known and was not before."""
    if seconds is not None and not record.HasField(name):  # pyright: ignore[reportArgumentType]
        getattr(record, name).CopyFrom(_duration(seconds))


def _duration(seconds: float) -> duration_pb2.Duration:
    made = duration_pb2.Duration()
    made.FromNanoseconds(max(0, round(seconds * 1e9)))
    return made
