"""What makes a config valid: the rules of the contract, and those beyond it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import protovalidate
from google.protobuf.message import Message
from protovalidate import Violation as Breach

from voxplane.bounds import beyond_bounds
from voxplane.errors import Violation, VoxplaneError
from voxplane.prompt import check_prompt
from voxplane.schema import compile_schema
from voxplane.secrets import secret_literals
from voxplane.session_texts import check_texts
from voxplane.tools import check_tools
from voxplane.v1 import agent_config_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

VIOLATIONS_MAX = 50
VIOLATIONS_CHARS_MAX = 4_000
"""Paths and descriptions together; they travel in gRPC trailers, which hold 8 KB."""
KEY_CHARS_MAX = 63

Places = Callable[[Any], Iterable[str]]
"""Where, within the message that a rule is on, the rule is broken."""


def violations_of_message(message: Message) -> list[Violation]:
    """Where the message breaks the rules of the contract.

    Paths are like `config.schema_config.fields[2].field_name` and
    `config.prompt_config.dynamic_vars["x"]`. A rule on several fields of a
    message names the one to change. What is more than VIOLATIONS_MAX or
    VIOLATIONS_CHARS_MAX is counted in the last violation, whose path is empty.
    """
    if too_much := list(beyond_bounds(message)):
        return _bounded(too_much)
    found = protovalidate.collect_violations(message)
    return _bounded([each for breach in found for each in _violations(message, breach)])


def check_config(config: agent_config_pb2.AgentConfig, prefix: str = "") -> None:
    """Check what the contract's rules cannot say: that the prompt and the
    session's texts render, the schema compiles, defaults fit, tools can be
    called, and no key stands where a reference belongs.

    Raises one VoxplaneError with all violations, bounded as those of
    violations_of_message; their paths are those of AgentConfig behind
    `prefix`. The reason is that of the first check that fails.
    """
    failed = [error for check in _CHECKS if (error := _error(check, config)) is not None]
    if failed:
        violations = [
            Violation(f"{prefix}{each.field}", each.description)
            for error in failed
            for each in error.violations
        ]
        first = violations[0]
        raise VoxplaneError(
            failed[0].reason,
            f"{failed[0].message}: {first.field}: {first.description}",
            violations=_bounded(violations),
        )


def _check_secrets(config: agent_config_pb2.AgentConfig) -> None:
    if literals := secret_literals(config):
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_SECRET_LITERAL,
            "a config holds references to secrets, never a secret",
            violations=literals,
        )


def _check_prompt(config: agent_config_pb2.AgentConfig) -> None:
    check_prompt(config.prompt_config)


def _check_schema(config: agent_config_pb2.AgentConfig) -> None:
    compile_schema(config.schema_config, first=config.tts_config.instruction_field)


_CHECKS = (_check_secrets, _check_prompt, check_texts, _check_schema, check_tools)


def _error(
    check: Callable[[agent_config_pb2.AgentConfig], None], config: agent_config_pb2.AgentConfig
) -> VoxplaneError | None:
    try:
        check(config)
    except VoxplaneError as error:
        return error
    return None


def _bounded(violations: Sequence[Violation]) -> list[Violation]:
    kept: list[Violation] = []
    chars = 0
    for each in violations[:VIOLATIONS_MAX]:
        chars += len(each.field.encode()) + len(each.description.encode())
        if chars > VIOLATIONS_CHARS_MAX:
            break
        kept.append(each)
    if len(kept) < len(violations):
        kept.append(Violation("", f"and {len(violations) - len(kept)} more"))
    return kept


def _violations(message: Message, breach: Breach) -> Iterator[Violation]:
    path, owner = "", message
    place = breach.proto.field
    for element in place.elements if place is not None else ():
        path += f".{element.field_name}" if path else element.field_name
        owner = getattr(owner, element.field_name, None)
        if element.subscript is not None:
            path += _subscript(element.subscript.value)
            owner = _item(owner, element.subscript.value)
    for within in list(RULE_PLACES.get(breach.proto.rule_id, _whole)(owner)) or [""]:
        yield Violation(f"{path}.{within}" if path and within else path or within, breach.proto.message)


def _subscript(key: object) -> str:
    if not isinstance(key, str):
        return f"[{key}]"
    shown = key if len(key) <= KEY_CHARS_MAX else f"{key[:KEY_CHARS_MAX]}…"
    return f"[{json.dumps(shown, ensure_ascii=False)}]"


def _item(items: Any, key: Any) -> Any:
    try:
        return items[key]
    except (TypeError, LookupError):
        return None


def _whole(_: Any) -> Iterable[str]:
    return ("",)


def _first_set(*paths: str) -> Places:
    """The first of the fields that is set, or else the first."""

    def places(owner: Any) -> Iterable[str]:
        return ([path for path in paths if _is_set(owner, path)] or list(paths))[:1]

    return places


def _is_set(owner: Any, path: str) -> bool:
    *blocks, name = path.split(".")
    for block in blocks:
        owner = getattr(owner, block)
    return any(field.name == name for field, _ in owner.ListFields())


def _duplicates(owner: Any) -> Iterable[str]:
    """Fields of a schema whose name an earlier one has."""
    names = [field.field_name for field in owner.fields]
    return [f"fields[{i}].field_name" for i, name in enumerate(names) if name in names[:i]]


def _unknown_in_frontend(owner: Any) -> Iterable[str]:
    shown = {field.field_name for field in owner.schema_config.fields if not field.metadata.hidden}
    names = owner.frontend_config.fields
    return [f"frontend_config.fields[{i}]" for i, name in enumerate(names) if name not in shown]


def _repeated(list_name: str, key: str) -> Places:
    """Items of a list whose key an earlier one has."""

    def places(owner: Any) -> Iterable[str]:
        keys = [getattr(item, key) for item in getattr(owner, list_name)]
        return [f"{list_name}[{i}].{key}" for i, value in enumerate(keys) if value in keys[:i]]

    return places


def _nested_fallbacks(owner: Any) -> Iterable[str]:
    return [f"fallbacks[{i}].fallbacks" for i, each in enumerate(owner.fallbacks) if each.fallbacks]


RULE_PLACES: Mapping[str, Places] = {
    "agent_config.instruction_field": _first_set("tts_config.instruction_field"),
    "agent_config.frontend_fields": _unknown_in_frontend,
    "agent_config.tool_names": _repeated("tools", "name"),
    "agent_config.mcp_server_names": _repeated("mcp_servers", "name"),
    "stt_config.fallbacks": _nested_fallbacks,
    "llm_config.fallbacks": _nested_fallbacks,
    "tts_config.fallbacks": _nested_fallbacks,
    "session_config.greeting": _first_set("greeting_instructions"),
    "session_config.transfers": _repeated("transfers", "agent_id"),
    "schema_config.field_names_unique": _duplicates,
    "schema_field.use_in_tts_string": _first_set("metadata.use_in_tts"),
    "schema_field.item_type": _first_set("item_type"),
    "schema_field.properties": _first_set("properties"),
    "schema_field.enum_values": _first_set("constraints.enum_values"),
    "schema_field.numeric_constraints": _first_set("constraints.minimum", "constraints.maximum"),
    "schema_field.string_constraints": _first_set(
        "constraints.min_length", "constraints.max_length", "constraints.pattern"
    ),
    "schema_field.array_constraints": _first_set("constraints.min_items", "constraints.max_items"),
    "field_constraints.range": _first_set("minimum"),
    "field_constraints.length": _first_set("min_length"),
    "field_constraints.items": _first_set("min_items"),
    "realtime_config.provider_when_enabled": _first_set("provider"),
    "turn_config.endpointing": _first_set("min_endpointing_delay"),
    "get_node.agent_ids": _first_set("agent_ids"),
}
"""By the id of each rule on a message."""
