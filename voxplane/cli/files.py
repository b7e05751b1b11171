"""Configs in files: YAML or JSON in the shape of AgentConfig."""

from __future__ import annotations

import re
import sys
from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import yaml
from google.protobuf import json_format

from voxplane.cli.failures import UsageError
from voxplane.errors import Violation
from voxplane.v1 import agent_config_pb2, schema_pb2

FILE_BYTES_MAX = 1_000_000
SHORT_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array"}


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping that has a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # pyright: ignore[reportUnknownMemberType]
            if key in seen:
                raise UsageError(f"line {key_node.start_mark.line + 1}: the key {key!r} is there twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_config(file: str) -> agent_config_pb2.AgentConfig:
    """The config in a YAML or JSON file, or on stdin for `-`.

    The types of fields may be given short: str, int, float, bool. Raises
    UsageError, with the path of what is not in the contract.
    """
    return parse_config(_mapping(file))


def read_field(file: str) -> schema_pb2.SchemaField:
    """One field of a schema, likewise."""
    field = schema_pb2.SchemaField()
    values = _mapping(file)
    _lengthen(values)
    _parse(values, field)
    return field


def parse_config(values: dict[str, Any]) -> agent_config_pb2.AgentConfig:
    """The config of a mapping, as `read_config` reads it."""
    schema = values.get("schema_config")
    fields = cast("dict[str, Any]", schema).get("fields") if isinstance(schema, dict) else None
    for field in cast("list[Any]", fields) if isinstance(fields, list) else []:
        if isinstance(field, dict):
            _lengthen(cast("dict[str, Any]", field))
    config = agent_config_pb2.AgentConfig()
    _parse(values, config)
    return config


def _lengthen(field: dict[str, Any]) -> None:
    for name in ("field_type", "item_type"):
        short = field.get(name)
        if isinstance(short, str) and short in SHORT_TYPES:
            field[name] = SHORT_TYPES[short]


def _mapping(file: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read(FILE_BYTES_MAX + 1) if file == "-" else Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}: {error}") from None
    if len(text) > FILE_BYTES_MAX:
        raise UsageError(f"{file} has more than {FILE_BYTES_MAX} characters")
    try:
        values: object = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise UsageError(f"{file} is neither YAML nor JSON: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{file} must hold a mapping in the shape of AgentConfig")
    return cast("dict[str, Any]", values)


def _parse(values: dict[str, Any], message: agent_config_pb2.AgentConfig | schema_pb2.SchemaField) -> None:
    try:
        json_format.ParseDict(values, message)
    except json_format.ParseError as error:
        said = str(error).partition("\n")[0]
        raise UsageError("the file does not fit the contract", [Violation(_path_in(said), said)]) from None


def _path_in(message: str) -> str:
    """The path that json_format names in its message, such as
    `llm_config.temperature`; `config` where it names none."""
    found = re.search(r'at "?(?:AgentConfig|SchemaField)\.?([^\s"]*)', message)
    return (found.group(1).rstrip(".") if found else "") or "config"
