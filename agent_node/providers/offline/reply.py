"""What the offline model says: pure functions of the situation and the schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import ceil, floor
from typing import Any, cast

from agent_node.providers.offline.pattern import matching_text

INSTRUCTIONS_SHOWN_CHARS = 80
ITEMS_WANTED = 2
EXACT_INTEGER_MAX = 2**53
NUMBER_SPAN = 100

# how a schema that was compiled here says the bounds of a string's length
_LENGTHS = re.compile(r"\^\[\\s\\S\]\{(\d+),(\d*)\}\$")
_DELIVERY = re.compile(r"instruction|style|tone|delivery|manner|emotion|mood")
_QUESTION = re.compile(r"question")
_SPEECH = re.compile(r"response|reply|answer|message|speech|spoken|say|utterance|greeting|text")

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Situation:
    """What a reply depends on besides its schema.

    `turn` counts the user's messages; `label` is what the model calls itself.
    """

    model: str
    temperature: float | None
    instructions: str
    user: str
    turn: int
    label: str = "offline"


def plain_reply(situation: Situation) -> str:
    """The reply as text."""
    heat = (
        "its own temperature" if situation.temperature is None else f"temperature {situation.temperature:g}"
    )
    told = " ".join(situation.instructions.split())
    if len(told) > INSTRUCTIONS_SHOWN_CHARS:
        told = told[:INSTRUCTIONS_SHOWN_CHARS].rstrip() + "…"
    heard = f"You said: “{situation.user}”." if situation.user else "You have said nothing yet."
    return f"[{situation.label}] {situation.model} at {heat}. I am told: “{told}” {heard}"


def structured_reply(schema: Schema, situation: Situation) -> str:
    """The reply as a JSON object that satisfies `schema`, in the schema's order."""
    return json.dumps(_Writer(schema, situation).object(schema), ensure_ascii=False)


class _Writer:
    def __init__(self, root: Schema, situation: Situation) -> None:
        self._root = root
        self._situation = situation
        names = [name for name, inner in _properties(root).items() if self._is_free_text(inner)]
        free = [name for name in names if not _DELIVERY.search(name)]
        self._speech = {name for name in free if _SPEECH.search(name)} or set(free[:1])

    def object(self, schema: Schema) -> dict[str, Any]:
        return {name: self._value(name, inner) for name, inner in _properties(schema).items()}

    def _value(self, name: str, schema: Schema) -> Any:
        schema = self._plain(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._choice([value for value in schema["enum"] if value is not None])
        match _type(schema):
            case "string":
                return self._string(name, schema)
            case "integer":
                return self._integer(name, schema)
            case "number":
                return self._number(name, schema)
            case "boolean":
                return self._draw(name) % 2 == 0
            case "array":
                return self._array(name, schema)
            case "object":
                return self.object(schema)
            case _:
                return None

    def _plain(self, schema: Schema) -> Schema:
        """The schema without $ref, and of alternatives the first that is not null."""
        while True:
            if "$ref" in schema:
                schema = self._root["$defs"][schema["$ref"].rpartition("/")[2]]
            elif "anyOf" in schema:
                schema = next(each for each in schema["anyOf"] if each.get("type") != "null")
            else:
                return _with_lengths(schema)

    def _is_free_text(self, schema: Schema) -> bool:
        schema = self._plain(schema)
        return _type(schema) == "string" and not {"enum", "const", "pattern"} & set(schema)

    def _choice(self, values: list[Any]) -> Any:
        """One step further with each turn, so that stages are seen to advance."""
        return values[min(max(self._situation.turn - 1, 0), len(values) - 1)] if values else None

    def _string(self, name: str, schema: Schema) -> str:
        shortest, longest = schema.get("minLength", 0), schema.get("maxLength")
        if pattern := schema.get("pattern"):
            return matching_text(pattern, shortest, longest)
        text = self._text(name)
        return text[:longest].ljust(shortest, ".")

    def _text(self, name: str) -> str:
        if name in self._speech:
            return plain_reply(self._situation)
        if _DELIVERY.search(name):
            return "Speak calmly and clearly, at an even pace."
        if _QUESTION.search(name):
            return f"What more can you tell me about “{self._situation.user}”?"
        return f"{name.replace('_', ' ')} after turn {self._situation.turn}"

    def _integer(self, name: str, schema: Schema) -> int:
        low, high = _range(schema, ceil, floor)
        if max(abs(low), abs(high)) > EXACT_INTEGER_MAX:
            return int(min(max(0, low), high))
        return int(low) + self._draw(name) % max(int(high) - int(low) + 1, 1)

    def _number(self, name: str, schema: Schema) -> float:
        low, high = _range(schema, float, float)
        if "minimum" not in schema and "maximum" not in schema:
            low, high = 0.0, 1.0
        share = self._draw(name) % 101 / 100
        return min(max(round(low * (1 - share) + high * share, 2), low), high)

    def _array(self, name: str, schema: Schema) -> list[Any]:
        count = max(ITEMS_WANTED, schema.get("minItems", 0))
        count = min(count, schema.get("maxItems", count))
        return [self._value(f"{name}_{i + 1}", schema["items"]) for i in range(count)]

    def _draw(self, name: str) -> int:
        """A number that depends on the field and on the user's words alone."""
        return int.from_bytes(sha256(f"{name}\0{self._situation.user}".encode()).digest()[:6])


def _properties(schema: Schema) -> Mapping[str, Schema]:
    return cast("Mapping[str, Schema]", schema.get("properties", {}))


def _type(schema: Schema) -> str | None:
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return next((kind for kind in cast("list[str]", kinds) if kind != "null"), None)
    return kinds


def _with_lengths(schema: Schema) -> Schema:
    """The schema with a pattern that says nothing but lengths as lengths."""
    lengths = _LENGTHS.fullmatch(schema.get("pattern", ""))
    if lengths is None:
        return schema
    bounds = {"minLength": int(lengths[1])} | ({"maxLength": int(lengths[2])} if lengths[2] else {})
    return {name: value for name, value in schema.items() if name != "pattern"} | bounds


def _range(schema: Schema, up: Any, down: Any) -> tuple[Any, Any]:
    """The bounds; a missing one is NUMBER_SPAN away from the other, or from 0."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None:
        low = 0 if high is None or high >= 0 else high - NUMBER_SPAN
    if high is None:
        high = low + NUMBER_SPAN
    return up(low), down(high)
