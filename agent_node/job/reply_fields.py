"""The fields of one reply, and what of them was told: pure.

Nothing waits in a queue. A field knows how much of it was told, and what is
to be told is the rest, however much has come meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent_node.job.targets import Target
from voxplane.v1.agent_config_pb2 import FrontendConfig

REPLY_BYTES_MAX = 131_072
"""Of one reply's fields, as JSON; what comes beyond is left out."""
ERRORS_MAX = 10
"""Errors of one reply that are kept; of more the first count."""
ERROR_CHARS_MAX = 500
TOO_LARGE = f"the reply's fields are larger than {REPLY_BYTES_MAX} bytes; the rest is left out"


def encoded(value: Any) -> str:
    """The value as compact JSON."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace").decode()


def size_of(value: Any) -> int:
    """Bytes of the value as JSON."""
    return len(encoded(value).encode())


@dataclass(slots=True)
class Told:
    """What one payload tells of a reply."""

    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    deltas: dict[str, str] = field(default_factory=dict[str, str])
    complete: list[str] = field(default_factory=list[str])
    error: Mapping[str, Any] | None = None
    whole: bool = False
    done: bool = False


class _Field:
    """A string as it arrives, or any value when it is complete."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._parts: list[str] = []
        self._told_parts = 0
        self._value: Any = None
        self._has_value = False
        self._complete = False
        self._told = False

    @property
    def pending(self) -> bool:
        """Whether something of it was not told."""
        return self._told_parts < len(self._parts) or (self._complete and not self._told)

    @property
    def begins(self) -> bool:
        """Whether it would be told for the first time, and in part."""
        return not self._told_parts and not self._complete

    @property
    def complete(self) -> bool:
        """Whether nothing more comes."""
        return self._complete

    def add(self, text: str) -> None:
        """A piece of the string."""
        self._parts.append(text)

    def end(self, value: Any) -> None:
        """It is complete."""
        self._complete = True
        rest = self._rest(value)
        if rest is None:
            self._parts, self._told_parts = [], 0
            self._value, self._has_value = value, True
        elif rest:
            self._parts.append(rest)

    def growth(self, value: Any) -> int:
        """The bytes by which `end` makes it grow."""
        rest = self._rest(value)
        return size_of(value if rest is None else rest)

    def _rest(self, value: Any) -> str | None:
        """What the parts have not said of the value; None if they said
        something else, whose place the value takes."""
        so_far = "".join(self._parts)
        if so_far and isinstance(value, str) and value.startswith(so_far):
            return value[len(so_far) :]
        return None

    def forget(self) -> None:
        """Tell it from the beginning again."""
        self._told_parts, self._told = 0, False

    def tell(self, told: Told) -> None:
        """Add what is to be told."""
        if self._has_value:
            told.fields[self.name] = self._value
        elif self._complete and self._told_parts == 0:
            told.fields[self.name] = "".join(self._parts)
        else:
            if text := "".join(self._parts[self._told_parts :]):
                told.deltas[self.name] = text
            if self._complete:
                told.complete.append(self.name)

    def was_told(self) -> None:
        """All that `tell` gave counts as told."""
        self._told_parts, self._told = len(self._parts), self._complete


class ReplyFields:
    """One reply on its way to the frontend."""

    def __init__(self, target: Target, turn: int) -> None:
        self.target = target
        self.turn = turn
        self.over = False
        self.interrupted = False
        self._config: FrontendConfig = target.config.frontend_config
        self._deltas = self._config.deltas if self._config.HasField("deltas") else True
        self._fields: dict[str, _Field] = {}
        self._bytes = 0
        self._errors: list[Mapping[str, Any]] = []
        self._errors_told = self._errors_acknowledged = 0
        self._told_done = False
        self._begun = False

    @property
    def shown(self) -> bool:
        """Whether there is anything of it to tell, or was."""
        return bool(self._fields or self._errors)

    @property
    def begun(self) -> bool:
        """Whether something of it was told."""
        return self._begun

    @property
    def pending(self) -> bool:
        """Whether something of it was not told."""
        if not self.shown:
            return False
        ending = self.over and not self._told_done
        return ending or self._errors_told < len(self._errors) or any(self._to_tell())

    def part(self, name: str, text: str) -> None:
        """A piece of a string field."""
        known = self._fields.get(name) or _Field(name)
        if not text or not self._deltas or not self._wanted(known) or not self._grows(size_of(text)):
            return
        known.add(text)
        self._fields[name] = known

    def value(self, name: str, value: Any) -> None:
        """A field is complete."""
        known = self._fields.get(name) or _Field(name)
        if not self._wanted(known) or not self._grows(known.growth(value)):
            return
        known.end(value)
        self._fields[name] = known

    def error(self, source: str, message: str, turn: int) -> None:
        """Something went wrong."""
        if len(self._errors) < ERRORS_MAX:
            said = {"source": source, "message": message[:ERROR_CHARS_MAX], "turn": turn}
            self._errors.append(said)

    def end(self, *, interrupted: bool = False) -> None:
        """Nothing more comes."""
        if not self.over:
            self.over, self.interrupted = True, interrupted

    def forget(self) -> None:
        """Tell it from the beginning again, but for errors that have arrived."""
        for entry in self._fields.values():
            entry.forget()
        self._errors_told = self._errors_acknowledged
        self._told_done = self._begun = False

    def next(self, room: int) -> Told:
        """What is to be told next, of at most `room` bytes unless it is a
        single field; it counts as told. There is something `pending`."""
        told = Told(whole=not self._begun)
        if self._errors_told < len(self._errors):
            told.error = self._errors[self._errors_told]
            self._errors_told += 1
            room -= size_of(told.error)
        begins = False
        for entry in self._to_tell():
            alone = Told()
            entry.tell(alone)
            size = size_of([alone.fields, alone.deltas, alone.complete])
            if begins and alone.fields:
                break  # a payload's fields are applied before its deltas
            if size > room and (told.fields or told.deltas or told.complete or told.error):
                break
            room -= size
            begins = begins or entry.begins
            entry.tell(told)
            entry.was_told()
        self._begun = True
        rest = self._errors_told < len(self._errors) or any(self._to_tell())
        self._told_done = told.done = self.over and not rest
        return told

    def acknowledge(self) -> None:
        """What was told has arrived."""
        self._errors_acknowledged = self._errors_told

    def _to_tell(self) -> Iterator[_Field]:
        return (entry for entry in self._fields.values() if entry.pending)

    def _wanted(self, entry: _Field) -> bool:
        return not entry.complete and (not self._config.fields or entry.name in self._config.fields)

    def _grows(self, size: int) -> bool:
        """Whether there is room for so much more."""
        if self._bytes > REPLY_BYTES_MAX:
            return False
        self._bytes += size
        if self._bytes > REPLY_BYTES_MAX:
            self.error("frontend", TOO_LARGE, self.turn)
        return self._bytes <= REPLY_BYTES_MAX
