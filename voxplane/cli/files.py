"""Configs as people write them: YAML or JSON in the shape of AgentConfig.

Unknown keys, keys that stand twice and values of the wrong type are refused,
each with its path. Types of fields may be written short: str, int, float, bool.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from voxplane.cli.failures import UsageError
from voxplane.errors import Violation
from voxplane.v1 import agent_config_pb2, schema_pb2

STDIN = "-"
FILE_BYTES_MAX = 4 * 1_048_576
SHORT_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_TYPE_FIELDS = {"field_type", "item_type", "property_type"}
_DURATION = re.compile(r"-?\d+(\.\d{1,9})?s")
_ANY_JSON = {"google.protobuf.Value", "google.protobuf.Struct", "google.protobuf.ListValue"}
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}
_FLOATS = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}

MessageT = TypeVar("MessageT", bound=Message)


def read_config(path: str) -> agent_config_pb2.AgentConfig:
    """The config in a file, or on standard input by `-`. Raises UsageError."""
    return parse_config(read_text(path), path)


def read_field(path: str) -> schema_pb2.SchemaField:
    """One field of a schema, likewise. Raises UsageError."""
    return to_message(parse_data(read_text(path), path), schema_pb2.SchemaField(), path)


def read_text(path: str) -> str:
    """The text of a file, or of standard input by `-`. Raises UsageError."""
    try:
        if path == STDIN:
            text = sys.stdin.read(FILE_BYTES_MAX + 1)
        else:
            with Path(path).open(encoding="utf-8") as file:
                text = file.read(FILE_BYTES_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text in UTF-8"
        raise UsageError(f"cannot read {path}: {reason}") from error
    if len(text) > FILE_BYTES_MAX:
        raise UsageError(f"{path} is larger than {FILE_BYTES_MAX} bytes")
    return text


def parse_config(text: str, source: str) -> agent_config_pb2.AgentConfig:
    """The config in a text, YAML or JSON. Raises UsageError."""
    return to_message(parse_data(text, source), agent_config_pb2.AgentConfig(), source)


def parse_data(text: str, source: str) -> object:
    """YAML or JSON as data. Raises UsageError; also for a key that stands twice."""
    try:
        if text.lstrip().startswith(("{", "[")):
            try:
                return json.loads(text, object_pairs_hook=_once)
            except json.JSONDecodeError:
                if source.endswith(".json"):
                    raise
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read {source}: {_one_line(error)}") from error


def to_message(data: object, message: MessageT, source: str) -> MessageT:
    """Data as a message of the contract. Raises UsageError with a violation
    for each key or value that does not fit."""
    kind = message.DESCRIPTOR.name
    if not isinstance(data, dict):
        raise UsageError(f"{source} does not fit {kind}: it must hold keys and values")
    reader = _Reader()
    read = reader.message(cast("dict[object, object]", data), cast("Descriptor", message.DESCRIPTOR), "")
    if reader.violations:
        raise UsageError(f"{source} does not fit {kind}", reader.violations)
    try:
        json_format.ParseDict(read, message)
    except json_format.ParseError as error:
        raise UsageError(f"{source} does not fit {kind}: {_one_line(error)}") from error
    return message


def change_of(settings: Sequence[str]) -> tuple[agent_config_pb2.AgentConfig, list[str]]:
    """The config and the mask of PATH=VALUE settings. A text is taken as it
    stands, other values as YAML; no value clears the path. Raises UsageError."""
    data: dict[str, Any] = {}
    paths: list[str] = []
    config = agent_config_pb2.AgentConfig()
    for setting in settings:
        path, mark, value = setting.partition("=")
        if not mark or not path:
            raise UsageError(f"{setting!r} is not PATH=VALUE")
        _put(data, path, _value_at(path, value, cast("Descriptor", config.DESCRIPTOR)))
        paths.append(path)
    return to_message(data, config, "--set"), paths


def _value_at(path: str, value: str, kind: Descriptor | None) -> object:
    field = None
    for name in path.split("."):
        field = _field(kind, name) if kind is not None else None
        kind = field.message_type if field is not None else None
    if field is not None and field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
        return value
    return parse_data(value, f"--set {path}") if value else None


def _put(data: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"{path} is within another path that is set")
    data[last] = value


class _Reader:
    """Walks data along a message's descriptor and collects what does not fit."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def message(self, data: Mapping[object, object], kind: Descriptor, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in data.items():
            inner = f"{path}.{key}" if path else str(key)
            field = _field(kind, str(key))
            if field is None:
                self._refuse(inner, _unknown(str(key), kind))
            elif value is not None:
                found[field.name] = self._field(value, field, inner)
        return found

    def _field(self, value: object, field: FieldDescriptor, path: str) -> Any:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return self._map(value, field.message_type.fields_by_name["value"], path)
        if not field.is_repeated:
            return self._single(value, field, path)
        if not isinstance(value, list):
            return self._refuse(path, "must be a list")
        items = cast("list[object]", value)
        return [self._single(item, field, f"{path}[{index}]") for index, item in enumerate(items)]

    def _map(self, value: object, field: FieldDescriptor, path: str) -> Any:
        if not isinstance(value, dict):
            return self._refuse(path, "must hold keys and values")
        found: dict[str, Any] = {}
        for key, item in cast("dict[object, object]", value).items():
            inner = f'{path}["{key}"]'
            if not isinstance(key, str):
                self._refuse(inner, "the key must be text: put it in quotes")
            found[str(key)] = self._single(item, field, inner)
        return found

    def _single(self, value: object, field: FieldDescriptor, path: str) -> Any:
        if field.message_type is not None:
            return self._message_value(value, field.message_type, path)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING:
                if not isinstance(value, str):
                    return self._refuse(path, "must be text: put it in quotes")
                return SHORT_TYPES.get(value, value) if field.name in _TYPE_FIELDS else value
            case FieldDescriptor.CPPTYPE_BOOL:
                return value if isinstance(value, bool) else self._refuse(path, "must be true or false")
            case kind if kind in _FLOATS:
                return value if number else self._refuse(path, "must be a number")
            case kind if kind in _INTEGERS:
                whole = number and float(cast("float", value)).is_integer()
                return value if whole else self._refuse(path, "must be a whole number")
            case _:
                return value

    def _message_value(self, value: object, kind: Descriptor, path: str) -> Any:
        if kind.full_name in _ANY_JSON:
            return value if _is_json(value) else self._refuse(path, "must be JSON: put it in quotes")
        if kind.full_name == "google.protobuf.Duration":
            fits = isinstance(value, str) and _DURATION.fullmatch(value)
            return value if fits else self._refuse(path, "must be a duration in seconds, such as 20s")
        if not isinstance(value, dict):
            return self._refuse(path, "must hold keys and values")
        return self.message(cast("dict[object, object]", value), kind, path)

    def _refuse(self, path: str, description: str) -> None:
        self.violations.append(Violation(path, description))


def _field(kind: Descriptor, name: str) -> FieldDescriptor | None:
    return kind.fields_by_name.get(name) or kind.fields_by_camelcase_name.get(name)


def _unknown(name: str, kind: Descriptor) -> str:
    close = difflib.get_close_matches(name, list(kind.fields_by_name), n=1)
    if close:
        return f"unknown key; did you mean {close[0]}?"
    return f"unknown key; {kind.name} has {', '.join(kind.fields_by_name)}"


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice")
        found[key] = value
    return found


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Part of PyYAML's interface."""
        seen: set[str] = set()
        for key in _keys(node):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _keys(node: yaml.MappingNode) -> Iterator[yaml.ScalarNode]:
    for key, _ in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
        if isinstance(key, yaml.ScalarNode):
            yield key
