"""Counts are looked at before any rule is judged."""

from __future__ import annotations

import time

import pytest

from voxplane.v1 import agent_service_pb2 as service_pb2
from voxplane.validation import violations_of_message

SECONDS_MAX = 1.0


@pytest.fixture
def request_() -> service_pb2.CreateAgentRequest:
    """A request that keeps to the contract."""
    made = service_pb2.CreateAgentRequest(tenant_id="acme", agent_id="support")
    made.config.llm_config.provider = made.config.tts_config.provider = "offline"
    return made


def test_too_many_fields_are_refused_at_once(request_: service_pb2.CreateAgentRequest) -> None:
    """A hundred thousand fields cost no more than their count, and name the list."""
    for number in range(100_000):
        request_.config.schema_config.fields.add(field_name=f"f{number}", field_type="string")
    began = time.perf_counter()
    found = violations_of_message(request_)
    assert time.perf_counter() - began < SECONDS_MAX
    assert [each.field for each in found] == ["config.schema_config.fields"]


def test_a_huge_default_is_refused_unread(request_: service_pb2.CreateAgentRequest) -> None:
    """A default far beyond its limit is named, and not looked into."""
    request_.config.schema_config.fields.add(field_name="a", field_type="string")
    field = request_.config.schema_config.fields.add(field_name="b", field_type="string")
    field.default.list_value.values.add().string_value = "x" * 100_000
    assert [each.field for each in violations_of_message(request_)] == [
        "config.schema_config.fields[1].default"
    ]


def test_maps_and_lists_within_their_bounds_pass(request_: service_pb2.CreateAgentRequest) -> None:
    """As many labels and fields as the contract allows are no violation; one more label is."""
    for number in range(64):
        request_.labels[f"l{number}"] = "x"
    for number in range(100):
        request_.config.schema_config.fields.add(field_name=f"f{number}", field_type="string")
    assert violations_of_message(request_) == []
    request_.labels["more"] = "x"
    assert [each.field for each in violations_of_message(request_)] == ["labels"]
