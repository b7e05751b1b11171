"""Configs judged part by part: as strict as configs judged whole."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buf.validate import validate_pb2
from voxplane.errors import VoxplaneError
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.validation import check_config, violations_of_message
from voxplane.validation_parts import RELATED, are_good, unjudged_parts

KEY = "sk-" + "x1" * 12


def good_as_a_whole(config: AgentConfig) -> bool:
    """What the whole config is judged to be."""
    if violations_of_message(config):
        return False
    try:
        check_config(config)
    except VoxplaneError:
        return False
    return True


def field_rules(name: str) -> Any:
    """The rules of the contract on a field of AgentConfig."""
    return AgentConfig.DESCRIPTOR.fields_by_name[name].GetOptions()


def test_no_rule_holds_parts_against_each_other() -> None:
    """Rules on AgentConfig are on fields that are judged together, and those on
    its other fields are within them."""
    rules = AgentConfig.DESCRIPTOR.GetOptions().Extensions[validate_pb2.message]
    assert rules.cel
    assert not rules.oneof
    assert not rules.cel_expression
    for rule in rules.cel:
        named = set(re.findall(r"this\.(\w+)", rule.expression))
        assert named <= RELATED, rule.id
        assert "this" not in re.sub(r"this\.\w+", "", rule.expression), rule.id
    for field in AgentConfig.DESCRIPTOR.fields:
        if field.name not in RELATED:
            assert field.message_type is not None, field.name
            assert not field.is_repeated, field.name
            assert not field_rules(field.name).HasExtension(validate_pb2.field), field.name


def changes() -> dict[str, Any]:
    """Ways to change a config, good and bad, by name."""
    return {
        "prompt": lambda c: setattr(c.prompt_config, "instructions", "Hello {{ name }}, {{ tenant_id }}."),
        "tags": lambda c: setattr(c.prompt_config, "instructions", "{% if name %}x{% endif %}"),
        "loop": lambda c: setattr(c.prompt_config, "instructions", "{% for i in (1..9) %}x{% endfor %}"),
        "bad prompt": lambda c: setattr(c.prompt_config, "instructions", "{{ missing }}"),
        "key in prompt": lambda c: setattr(c.prompt_config, "instructions", KEY),
        "variable": lambda c: c.prompt_config.dynamic_vars.update(name="you"),
        "bad variable": lambda c: c.prompt_config.dynamic_vars.update({"1x": ""}),
        "llm": lambda c: setattr(c.llm_config, "provider", "offline"),
        "bad llm": lambda c: setattr(c.llm_config, "temperature", 3),
        "stt": lambda c: setattr(c.stt_config, "provider", "deepgram"),
        "stt without": lambda c: setattr(c.stt_config, "language", "de"),
        "version": lambda c: setattr(c, "version", "1.2.0"),
        "key as version": lambda c: setattr(c, "version", KEY),
        "bad type": lambda c: setattr(c, "agent_type", "nothing"),
        "field": lambda c: c.schema_config.fields.add(field_name="mood", field_type="string"),
        "hidden": lambda c: c.schema_config.fields.add(
            field_name="mind", field_type="string", metadata={"hidden": True}
        ),
        "bad field": lambda c: c.schema_config.fields.add(field_name="bad", field_type="nothing"),
        "bad pattern": lambda c: c.schema_config.fields.add(
            field_name="code", field_type="string", constraints={"pattern": "("}
        ),
        "shown": lambda c: c.frontend_config.fields.append("mood"),
        "tts": lambda c: setattr(c.tts_config, "provider", "openai"),
        "spoken": lambda c: setattr(c.tts_config, "instruction_field", "mood"),
        "turn": lambda c: setattr(c.turn_config, "turn_detection", "stt"),
        "bad turn": lambda c: setattr(c.turn_config, "turn_detection", "never"),
        "realtime": lambda c: setattr(c.realtime_config, "enabled", True),
        "limits": lambda c: setattr(c.limits_config, "stale_action", "warn"),
    }


@settings(max_examples=300)
@given(st.lists(st.sampled_from(sorted(changes())), max_size=8))
def test_parts_are_as_strict_as_the_whole(names: list[str]) -> None:
    """Whatever was judged before, the parts of a config are good together when
    the config is."""
    config = AgentConfig()
    for name in names:
        changes()[name](config)
    assert are_good(unjudged_parts(config)) == good_as_a_whole(config)


def test_only_what_has_changed_is_judged() -> None:
    """After a config was judged, a change of one block leaves one part to judge,
    and a change back leaves none; what is bad is never known to be good."""
    config = AgentConfig(version="judged once")
    config.llm_config.model = "judged once"
    config.llm_config.provider = "offline"
    config.prompt_config.instructions = "Judged once."
    assert len(unjudged_parts(config)) == 3
    assert are_good(unjudged_parts(config))
    assert unjudged_parts(config) == []
    config.prompt_config.instructions = "Judged a second time."
    assert len(unjudged_parts(config)) == 1
    config.prompt_config.instructions = "{{ missing }}"
    for _ in range(2):
        assert not are_good(unjudged_parts(config))
    config.prompt_config.instructions = "Judged once."
    assert unjudged_parts(config) == []


@pytest.mark.parametrize(
    ("instructions", "is_long"),
    [
        ("Be kind. " * 200, False),
        ("{{ name }}" * 20, False),
        ("{{ name | default: 'you' | upcase }}", False),
        ("{% if name == 'x' %}a{% else %}b{% endif %}", False),
        ("{{ name }}" * 40, True),
        ("{% for i in (1..900) %}x{% endfor %}", True),
        ("{{ name | split: '' | sort | join }}", True),
        ("{{ (1..900) | size }}", True),
        ("x" * 50_000, True),
        ("{{" * 10_000, True),
        ("{{" + "x" * 2_000 + "}}", True),
    ],
)
def test_what_may_take_long_is_told_apart(instructions: str, is_long: bool) -> None:
    """Prose with some variables is judged at once; much text, many tags, loops
    and lists are not."""
    [part] = unjudged_parts(AgentConfig(prompt_config={"instructions": instructions}))
    assert part.is_long == is_long


def test_a_large_schema_takes_long() -> None:
    """Each field and each pattern costs the compiler something."""
    config = AgentConfig()
    for number in range(3):
        config.schema_config.fields.add(field_name=f"a{number}", field_type="string")
    assert [part.is_long for part in unjudged_parts(config)] == [False]
    config.schema_config.fields[0].constraints.pattern = "^" + "[a-z]" * 30 + "$"
    assert [part.is_long for part in unjudged_parts(config)] == [True]
