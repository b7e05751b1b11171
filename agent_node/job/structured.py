"""What a reply says and shows, out of the JSON that the model writes.

Only the fields with use_in_tts are spoken, as they arrive, in the schema's
order: a field that comes too early waits for those before it. A null takes
its default. Whatever goes wrong, what was spoken stays: plain text in place of
JSON is spoken as it is, and of a broken object the complete fields count and
the others take their defaults. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent_node.job.json_stream import Member, ObjectReader, Piece, PlainText, Reading, StringPart

BETWEEN_FIELDS = " "


@dataclass(frozen=True, slots=True)
class ReplyShape:
    """What the reader has to know of a schema. `names` are in schema order."""

    names: tuple[str, ...]
    spoken: tuple[str, ...] = ()
    hidden: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Spoken:
    """A piece of the text to speak."""

    text: str


@dataclass(frozen=True, slots=True)
class FieldPart:
    """A piece of a string field as it arrives; a hidden one never comes."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class FieldDone:
    """A field is complete; a hidden one must not leave the node."""

    name: str
    value: Any
    hidden: bool


Said = Spoken | FieldPart | FieldDone


class ReplyReader:
    """Reads one reply: `feed` its pieces, then `finish`.

    Afterwards `fields` has the values by name, hidden ones too, and `problem`
    what was wrong with the reply, without quoting it; None if nothing was.
    """

    def __init__(self, shape: ReplyShape) -> None:
        self.fields: dict[str, Any] = {}
        self.problem: str | None = None
        self._shape = shape
        self._known = frozenset(shape.names)
        self._stream = ObjectReader()
        self._queue = [name for name in shape.spoken if name not in shape.hidden]
        self._early: dict[str, list[str]] = {name: [] for name in self._queue}
        self._streamed: set[str] = set()
        self._speaking = ""
        self._ended: set[str] = set()

    @property
    def empty(self) -> bool:
        """Whether the reply had no text so far."""
        return self._stream.state is Reading.START

    def feed(self, text: str) -> list[Said]:
        """What this piece of the reply brings. Never raises."""
        return [said for piece in self._stream.feed(text) for said in self._take(piece)]

    def finish(self) -> list[Said]:
        """The reply has ended. Never raises."""
        said = [said for piece in self._stream.finish() for said in self._take(piece)]
        complete = self._stream.state is Reading.DONE
        for name in self._shape.names:
            if name not in self.fields and name in self._shape.defaults:
                said += self._done(name, None, spoken=complete)
        if complete:
            said += self._rest()
        self.problem = self._problem()
        return said

    def _take(self, piece: Piece) -> Iterator[Said]:
        match piece:
            case PlainText(text):
                yield Spoken(text)
            case StringPart(name, text) if name in self._known:
                if name not in self._shape.hidden:
                    yield FieldPart(name, text)
                if name in self._early:
                    self._streamed.add(name)
                    yield from self._speak(name, text)
            case Member(name, value) if name in self._known:
                yield from self._done(name, value)
            case _:
                pass

    def _done(self, name: str, value: Any, *, spoken: bool = True) -> Iterator[Said]:
        if value is None:
            value = self._shape.defaults.get(name)
        self.fields[name] = value
        if spoken and name in self._early:
            if isinstance(value, str) and value and name not in self._streamed:
                yield from self._speak(name, value)
            self._ended.add(name)
        yield FieldDone(name, value, name in self._shape.hidden)
        if spoken:
            yield from self._advance()

    def _speak(self, name: str, text: str) -> Iterator[Said]:
        if self._queue and self._queue[0] == name:
            yield self._aloud(name, text)
        else:
            self._early[name].append(text)

    def _aloud(self, name: str, text: str) -> Spoken:
        if self._speaking and self._speaking != name:
            text = BETWEEN_FIELDS + text
        self._speaking = name
        return Spoken(text)

    def _advance(self) -> Iterator[Said]:
        """Speak what has waited for the fields that have ended."""
        while self._queue and self._queue[0] in self._ended:
            self._queue.pop(0)
            if self._queue:
                yield from self._catch_up(self._queue[0])

    def _catch_up(self, name: str) -> Iterator[Said]:
        parts, self._early[name] = self._early[name], []
        if text := "".join(parts):
            yield self._aloud(name, text)

    def _rest(self) -> Iterator[Said]:
        """Fields that the model left out hold nothing up any more."""
        self._ended.update(self._queue)
        yield from self._advance()

    def _problem(self) -> str | None:
        match self._stream.state:
            case Reading.DONE:
                missing = [n for n in self._shape.names if n in self._shape.required - self.fields.keys()]
                return f"the reply lacks {', '.join(missing)}" if missing else None
            case Reading.PLAIN:
                return "the reply is plain text in place of a JSON object"
            case Reading.START:
                return "the reply is empty"
            case _:
                return "the reply is broken JSON, or was cut off"
