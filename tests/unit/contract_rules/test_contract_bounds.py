"""Everything that can be sent to the public services has a bound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from buf.validate import validate_pb2
from voxplane.v1 import (
    agent_service_pb2,
    config_sync_service_pb2,
    node_service_pb2,
    session_service_pb2,
)
from voxplane.validation import RULE_PLACES, violations_of_message

SERVICES = (agent_service_pb2, config_sync_service_pb2, node_service_pb2, session_service_pb2)
TOO_LONG = "a" * 100_001

# bounded as a whole: update_mask, error and status by rules of their fields, a default when the schema is
# compiled, options and parameters by check_tools
BOUNDED_BY_THEIR_FIELD = {
    "google.protobuf.FieldMask": {"voxplane.v1.UpdateAgentConfigRequest.update_mask"},
    "google.rpc.Status": {"voxplane.v1.BundleStatus.error", "voxplane.v1.SessionCommandResult.status"},
    "google.protobuf.Value": {"voxplane.v1.SchemaField.default"},
    "google.protobuf.Struct": {
        *(f"voxplane.v1.{kind}Config.options" for kind in ("Stt", "Llm", "Tts", "Vad", "Realtime")),
        "voxplane.v1.HttpTool.parameters",
    },
    "google.protobuf.Duration": None,
    "google.protobuf.Timestamp": None,
}


def is_map(field: FieldDescriptor) -> bool:
    """Whether the field is a map."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def rules(field: FieldDescriptor) -> Any:
    """The field's rules."""
    return field.GetOptions().Extensions[validate_pb2.field]


def messages(descriptor: Descriptor) -> Iterator[Descriptor]:
    """The message and all that it may hold, but what others defined."""
    seen = {descriptor.full_name: descriptor}
    waiting = [descriptor]
    while waiting:
        for field in waiting.pop().fields:
            inner = field.message_type
            if inner is not None and is_map(field):
                inner = inner.fields_by_name["value"].message_type
            if inner is None or inner.full_name.startswith("google.") or inner.full_name in seen:
                continue
            seen[inner.full_name] = inner
            waiting.append(inner)
    return iter(seen.values())


def request_messages() -> dict[str, Descriptor]:
    """All messages that a request of the public services is made of, by name."""
    return {
        inner.full_name: inner
        for module in SERVICES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        for inner in messages(method.input_type)
    }


FIELDS = {field.full_name: field for message in request_messages().values() for field in message.fields}


def broken(message: Message, path: str) -> bool:
    """Whether the message breaks a rule at the path."""
    return any(each.field == path for each in violations_of_message(message))


def test_the_walk_finds_what_it_should() -> None:
    """Deep fields of every service are among those that are tested."""
    assert {
        "voxplane.v1.ObjectProperty.property_name",
        "voxplane.v1.Revision.epoch",
        "voxplane.v1.BundleStatus.error",
        "voxplane.v1.WaitForConvergenceRequest.tenant_id",
    } <= FIELDS.keys()
    assert len(FIELDS) > 100


STRINGS = [name for name, f in FIELDS.items() if f.type == f.TYPE_STRING and not f.is_repeated]
LISTS = [name for name, f in FIELDS.items() if f.is_repeated and not is_map(f)]
MAPS = [name for name, f in FIELDS.items() if is_map(f)]


@pytest.mark.parametrize("name", STRINGS)
def test_strings_are_bounded(name: str) -> None:
    """A very long string is refused at its path."""
    field = FIELDS[name]
    message: Any = GetMessageClass(field.containing_type)()
    setattr(message, field.name, TOO_LONG)
    assert broken(message, field.name)


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_bounded(name: str) -> None:
    """A list has a greatest count, and a very long string in it is refused."""
    field = FIELDS[name]
    assert rules(field).repeated.max_items > 0
    if field.type == field.TYPE_STRING:
        message: Any = GetMessageClass(field.containing_type)()
        getattr(message, field.name).append(TOO_LONG)
        assert broken(message, f"{field.name}[0]")


@pytest.mark.parametrize("name", MAPS)
def test_maps_are_bounded(name: str) -> None:
    """A map has a greatest count, and very long keys and values are refused."""
    field = FIELDS[name]
    assert rules(field).map.max_pairs > 0
    by_key: Any = GetMessageClass(field.containing_type)()
    by_value: Any = GetMessageClass(field.containing_type)()
    value = field.message_type.fields_by_name["value"]
    if value.type == value.TYPE_DOUBLE:
        getattr(by_key, field.name)[TOO_LONG] = 0.0
    elif value.message_type is None:
        getattr(by_key, field.name)[TOO_LONG] = ""
        getattr(by_value, field.name)["a"] = TOO_LONG
        assert broken(by_value, f'{field.name}["a"]')
    else:
        getattr(by_key, field.name)[TOO_LONG].SetInParent()
    assert broken(by_key, f'{field.name}["{"a" * 63}…"]')


def test_bytes_are_bounded() -> None:
    """A bytes field, were there one, needs max_len."""
    unbounded = [name for name, f in FIELDS.items() if f.type == f.TYPE_BYTES and not rules(f).bytes.max_len]
    assert unbounded == []


@pytest.mark.parametrize("name", [n for n, f in FIELDS.items() if f.message_type and not is_map(f)])
def test_messages_of_others_are_bounded_by_their_field(name: str) -> None:
    """Where another's message may hold text, the field that holds it is known to be bounded."""
    other = FIELDS[name].message_type.full_name
    if other.startswith("google."):
        assert other in BOUNDED_BY_THEIR_FIELD, f"{name} needs a bound"
        allowed = BOUNDED_BY_THEIR_FIELD[other]
        assert allowed is None or name in allowed, f"{name} needs a bound"


def message_rules() -> dict[str, Descriptor]:
    """The messages of requests by the ids of the rules on them."""
    return {
        rule.id: message
        for message in request_messages().values()
        for rule in message.GetOptions().Extensions[validate_pb2.message].cel
    }


def test_every_rule_on_a_message_names_a_field() -> None:
    """A rule on several fields says which one to change, and that field is there."""
    assert message_rules().keys() == RULE_PLACES.keys()
    for rule, message in message_rules().items():
        for path in RULE_PLACES[rule](GetMessageClass(message)()):
            block = message
            for name in path.partition("[")[0].split("."):
                assert name in block.fields_by_name, (rule, path)
                block = block.fields_by_name[name].message_type or block
