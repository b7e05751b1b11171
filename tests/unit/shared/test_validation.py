"""A config's checks together."""

from __future__ import annotations

import pytest

from voxplane.errors import VoxplaneError, to_status
from voxplane.v1 import agent_service_pb2 as service_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.v1.schema_pb2 import SchemaField
from voxplane.validation import (
    VIOLATIONS_CHARS_MAX,
    VIOLATIONS_MAX,
    check_config,
    violations_of_message,
)

TRAILERS_BYTES_MAX = 8192
BASE64 = 4 / 3


def interview() -> AgentConfig:
    """A config that is in order."""
    config = AgentConfig(agent_type="interview")
    config.prompt_config.instructions = "Interview {{ name }} for {{ tenant_id }}."
    config.prompt_config.dynamic_vars["name"] = "you"
    config.llm_config.provider = "offline"
    config.llm_config.api_key = "env:OPENAI_API_KEY"
    config.tts_config.provider = "offline"
    config.tts_config.instruction_field = "voice_instructions"
    for name in ("system_response", "voice_instructions"):
        config.schema_config.fields.add(field_name=name, field_type="string")
    return config


def test_a_good_config_passes() -> None:
    """What is in order raises nothing."""
    check_config(interview())
    assert violations_of_message(interview()) == []


def test_everything_that_is_wrong_is_told_at_once() -> None:
    """Secrets, prompt and schema are judged together, with paths behind the prefix."""
    config = interview()
    config.prompt_config.instructions += "{{ a }}\n{{ b }}"
    config.prompt_config.dynamic_vars["key"] = "sk-" + "x1" * 20
    config.schema_config.fields[0].constraints.pattern = "("
    config.schema_config.fields[1].default.number_value = 1
    with pytest.raises(VoxplaneError) as caught:
        check_config(config, prefix="config.")
    assert caught.value.reason == reason_pb2.ERROR_REASON_SECRET_LITERAL
    assert [each.field for each in caught.value.violations] == [
        'config.prompt_config.dynamic_vars["key"]',
        "config.prompt_config.instructions",
        "config.prompt_config.instructions",
        "config.schema_config.fields[0].constraints.pattern",
        "config.schema_config.fields[1].default",
    ]
    assert "x1x1" not in repr(caught.value.violations) + caught.value.message


@pytest.mark.parametrize(
    ("wrong", "reason", "path"),
    [
        (
            AgentConfig(version="sk-abcdefghijklmnop1"),
            reason_pb2.ERROR_REASON_SECRET_LITERAL,
            "version",
        ),
        (
            AgentConfig(prompt_config={"instructions": "{{ x }}"}),
            reason_pb2.ERROR_REASON_INVALID_PROMPT,
            "prompt_config.instructions",
        ),
        (
            AgentConfig(schema_config={"fields": [SchemaField(field_name="a", field_type="no")]}),
            reason_pb2.ERROR_REASON_INVALID_SCHEMA,
            "schema_config.fields[0].field_type",
        ),
    ],
)
def test_the_reason_is_that_of_what_failed(wrong: AgentConfig, reason: int, path: str) -> None:
    """One kind of mistake has its own reason, and its path is in the message too."""
    with pytest.raises(VoxplaneError) as caught:
        check_config(wrong)
    assert caught.value.reason == reason
    assert [each.field for each in caught.value.violations] == [path]
    assert path in caught.value.message


def test_an_error_fits_into_the_trailers_of_a_call() -> None:
    """However much is wrong, the answer stays within what gRPC carries, and the rest is counted."""
    config = interview()
    for index in range(90):
        config.schema_config.fields.add(field_name=f"{'x' * 50}_{index}", field_type="nothing known")
    request = service_pb2.CreateAgentRequest(tenant_id="t", agent_id="a", config=config)
    for index in range(60):
        request.labels[f"{'ü' * 300}{index}"] = "y" * 100
    found = violations_of_message(request)
    assert len(found) <= VIOLATIONS_MAX + 1
    assert sum(len(f"{v.field}{v.description}".encode()) for v in found) <= VIOLATIONS_CHARS_MAX + 20
    assert found[-1].field == ""
    assert found[-1].description.startswith("and ")
    with pytest.raises(VoxplaneError) as caught:
        check_config(config)
    status = to_status(caught.value)
    assert len(status.SerializeToString()) * BASE64 + len(status.message) < TRAILERS_BYTES_MAX


def test_keys_of_maps_are_quoted_and_cut() -> None:
    """A path stays readable, whatever the key."""
    request = service_pb2.CreateAgentRequest(tenant_id="t", agent_id="a", config=interview())
    request.labels['a"b\n'] = ""
    request.labels["x" * 1000] = ""
    assert {each.field for each in violations_of_message(request)} == {
        'labels["a\\"b\\n"]',
        f'labels["{"x" * 63}…"]',
    }
