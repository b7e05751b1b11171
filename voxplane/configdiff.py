"""What differs between two configs, by paths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.message import Message

from voxplane.v1 import agent_config_pb2, schema_pb2

SCHEMA_FIELDS = "schema_config.fields"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One path and its JSON values; None stands for what is not set."""

    path: str
    old: Any
    new: Any


def field_changes(old: agent_config_pb2.AgentConfig, new: agent_config_pb2.AgentConfig) -> list[FieldChange]:
    """The changes from `old` to `new`, in the order of the contract.

    Paths are like `llm_config.temperature`, `prompt_config.dynamic_vars["x"]`;
    fields of the schema go by name, `schema_config.fields[mood].description`,
    and a new order of theirs is a change of `schema_config.fields`.
    """
    return list(_changes(_json(old), _json(new), ""))


def changed_fields(old: agent_config_pb2.AgentConfig, new: agent_config_pb2.AgentConfig) -> list[str]:
    """The paths of `field_changes`."""
    return [change.path for change in field_changes(old, new)]


def _json(config: Message) -> dict[str, Any]:
    return json_format.MessageToDict(config, preserving_proto_field_name=True)


_ORDER = [f.name for f in agent_config_pb2.AgentConfig.DESCRIPTOR.fields] + [
    f.name for f in schema_pb2.SchemaField.DESCRIPTOR.fields
]


def _rank(name: str) -> tuple[int, str]:
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)


def _changes(old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[FieldChange]:
    for name in sorted(old.keys() | new.keys(), key=_rank):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if path == "prompt_config.dynamic_vars":
            yield FieldChange(f'{path}["{name}"]', before, after)
            continue
        inner = f"{path}.{name}" if path else name
        if inner == SCHEMA_FIELDS:
            yield from _schema_changes(before or [], after or [])
        elif isinstance(before, dict) and isinstance(after, dict):
            yield from _changes(cast("dict[str, Any]", before), cast("dict[str, Any]", after), inner)
        elif inner == "prompt_config.dynamic_vars":
            yield from _changes(
                cast("dict[str, Any]", before or {}), cast("dict[str, Any]", after or {}), inner
            )
        else:
            yield FieldChange(inner, before, after)


def _schema_changes(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> Iterator[FieldChange]:
    before = {field["field_name"]: field for field in old}
    after = {field["field_name"]: field for field in new}
    for name in [*before, *(name for name in after if name not in before)]:
        path = f"{SCHEMA_FIELDS}[{name}]"
        if name not in before or name not in after:
            yield FieldChange(path, before.get(name), after.get(name))
        elif before[name] != after[name]:
            yield from _changes(before[name], after[name], path)
    kept_before = [name for name in before if name in after]
    kept_after = [name for name in after if name in before]
    if kept_before != kept_after:
        yield FieldChange(SCHEMA_FIELDS, list(before), list(after))
