"""What differs between two configs, by paths."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from voxplane.v1 import agent_config_pb2, schema_pb2

SCHEMA_FIELDS = "schema_config.fields"

Json = Mapping[str, Any]

_CONFIG = cast("Descriptor", agent_config_pb2.AgentConfig.DESCRIPTOR)
_SCHEMA_FIELD = cast("Descriptor", schema_pb2.SchemaField.DESCRIPTOR)


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One path and its JSON values; None stands for what is not set."""

    path: str
    old: Any
    new: Any


def field_changes(old: agent_config_pb2.AgentConfig, new: agent_config_pb2.AgentConfig) -> list[FieldChange]:
    """The changes from `old` to `new`, in the order of the contract.

    Paths are like `llm_config.temperature`, `prompt_config.dynamic_vars["x"]`;
    a block that only one of them has is one change, `tts_config`. Fields of
    the schema go by name: `schema_config.fields[mood]` was added or removed,
    `schema_config.fields[mood].description` changed, and `schema_config.fields`
    itself stands for another order of those that both have.
    """
    return list(_of_message(_CONFIG, _json(old), _json(new), ""))


def changed_fields(old: agent_config_pb2.AgentConfig, new: agent_config_pb2.AgentConfig) -> list[str]:
    """The paths of `field_changes`."""
    return [change.path for change in field_changes(old, new)]


def _json(config: agent_config_pb2.AgentConfig) -> Json:
    return json_format.MessageToDict(config, preserving_proto_field_name=True)


def _of_message(descriptor: Descriptor, old: Json, new: Json, path: str) -> Iterator[FieldChange]:
    for field in descriptor.fields:
        before, after = old.get(field.name), new.get(field.name)
        if before != after:
            yield from _of_field(field, before, after, f"{path}.{field.name}" if path else field.name)


def _of_field(field: FieldDescriptor, old: Any, new: Any, path: str) -> Iterator[FieldChange]:
    block = field.message_type
    if path == SCHEMA_FIELDS:
        yield from _of_schema(old or [], new or [])
    elif block is not None and block.GetOptions().map_entry:
        yield from _of_map(old or {}, new or {}, path)
    elif block is None or field.is_repeated or block.file.package.startswith("google."):
        yield FieldChange(path, old, new)
    elif path == "schema_config" or (old is not None and new is not None):
        yield from _of_message(block, old or {}, new or {}, path)
    else:
        yield FieldChange(path, old, new)


def _of_map(old: Json, new: Json, path: str) -> Iterator[FieldChange]:
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield FieldChange(f"{path}[{json.dumps(key, ensure_ascii=False)}]", old.get(key), new.get(key))


def _of_schema(old: list[Json], new: list[Json]) -> Iterator[FieldChange]:
    before = {field["field_name"]: field for field in old}
    after = {field["field_name"]: field for field in new}
    for name in [*before, *(name for name in after if name not in before)]:
        path = f"{SCHEMA_FIELDS}[{name}]"
        if name not in before or name not in after:
            yield FieldChange(path, before.get(name), after.get(name))
        else:
            yield from _of_message(_SCHEMA_FIELD, before[name], after[name], path)
    kept_before = [name for name in before if name in after]
    kept_after = [name for name in after if name in before]
    if kept_before != kept_after:
        yield FieldChange(SCHEMA_FIELDS, list(before), list(after))
