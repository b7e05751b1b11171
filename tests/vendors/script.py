"""What the vendors say and hear, as a test wants it."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

_Line = TypeVar("_Line")


class Script(Generic[_Line]):
    """Lines that are used in order, of all callers or of those with one API key."""

    def __init__(self) -> None:
        self._lines: defaultdict[str, deque[_Line]] = defaultdict(deque)

    def append(self, line: _Line, key: str = "") -> None:
        """One more line; with `key` for that API key alone."""
        self._lines[key].append(line)

    def take(self, key: str) -> _Line | None:
        """The next line for an API key: of its own, else of those for all."""
        for lines in (self._lines[key], self._lines[""]):
            if lines:
                return lines.popleft()
        return None

    def look(self, key: str) -> _Line | None:
        """The next line, which stays."""
        return next((lines[0] for lines in (self._lines[key], self._lines[""]) if lines), None)

    def clear(self) -> None:
        """No more lines."""
        self._lines.clear()


@dataclass(frozen=True, slots=True)
class Text:
    """A reply word for word, valid JSON or not."""

    text: str


@dataclass(frozen=True, slots=True)
class Fields:
    """Fields of a reply; the others are derived from the schema."""

    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model calls a tool."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def text(self) -> str:
        """The arguments as JSON."""
        return json.dumps(self.arguments, ensure_ascii=False)


Reply = Text | Fields | ToolCall


def to_json(reply: Reply) -> dict[str, Any]:
    """The reply as the control endpoint takes it."""
    match reply:
        case Text(text):
            return {"text": text}
        case Fields(fields):
            return {"fields": dict(fields)}
        case ToolCall(name, arguments):
            return {"tool": name, "arguments": dict(arguments)}


def from_json(said: Mapping[str, Any]) -> Reply:
    """The reply that to_json has written. Raises ValueError."""
    match said:
        case {"text": str(text)}:
            return Text(text)
        case {"fields": dict()}:
            return Fields(said["fields"])
        case {"tool": str(name)}:
            return ToolCall(name, said.get("arguments", {}))
        case _:
            raise ValueError("a reply is one of {text}, {fields}, {tool, arguments}")


@dataclass(slots=True)
class Pace:
    """Seconds that the vendors take.

    first: until an answer of the language model begins. chunk: between two of
    its pieces. speech: until speech begins.
    """

    first: float = 0.0
    chunk: float = 0.0
    speech: float = 0.0


@dataclass(slots=True)
class Plan:
    """All that a test says beforehand: what utterances are heard as, what the
    model replies, and how fast."""

    transcripts: Script[str] = field(default_factory=Script[str])
    replies: Script[Reply] = field(default_factory=Script[Reply])
    pace: Pace = field(default_factory=Pace)
    _utterances: int = 0

    def hear(self, key: str) -> str:
        """The transcript of the next utterance; numbered if the test has none."""
        self._utterances += 1
        return self.transcripts.take(key) or f"utterance {self._utterances}"

    def clear(self) -> None:
        """As in the beginning."""
        self.transcripts.clear()
        self.replies.clear()
        self.pace.first = self.pace.chunk = self.pace.speech = 0.0
