"""Tools that cannot be called, and texts of a session that cannot be rendered."""

from __future__ import annotations

from typing import Any

import pytest

from voxplane.errors import VoxplaneError
from voxplane.session_texts import texts_of
from voxplane.tools import OPTIONS_BYTES_MAX, PARAMETERS_BYTES_MAX
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.validation import check_config, violations_of_message
from voxplane.validation_parts import are_good, unjudged_parts


def _config() -> AgentConfig:
    config = AgentConfig()
    config.llm_config.provider = "offline"
    config.prompt_config.dynamic_vars["name"] = "Ada"
    config.session_config.greeting = "Hello {{ name }}, this is {{ agent_id }}."
    config.session_config.transfers.add(agent_id="sales", description="To buy.", announcement="A moment.")
    tool = config.tools.add(name="look_up", description="Looks up.", url="https://a.example/orders/{id}")
    tool.parameters.update({"type": "object", "properties": {"id": {"type": "string"}}})
    return config


def _refused(config: AgentConfig) -> set[str]:
    """The paths of what is refused, which is refused part by part too."""
    with pytest.raises(VoxplaneError) as raised:
        check_config(config)
    assert not are_good(unjudged_parts(config))
    return {violation.field for violation in raised.value.violations}


def test_what_can_be_called_and_rendered_is_good() -> None:
    """A greeting over the config's variables and a tool over its parameters pass."""
    config = _config()
    assert violations_of_message(config) == []
    check_config(config)
    assert are_good(unjudged_parts(config))
    assert [path for path, _ in texts_of(config)] == [
        "session_config.greeting",
        "session_config.transfers[0].announcement",
    ]


def test_a_text_that_names_an_unknown_variable_is_refused() -> None:
    """Each text is refused by its own path; one that was good is judged again
    when its variable goes."""
    config = _config()
    assert are_good(unjudged_parts(config))
    config.prompt_config.dynamic_vars.clear()
    config.session_config.goodbye = "{{ unclosed"
    assert _refused(config) == {"session_config.greeting", "session_config.goodbye"}


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"type": "string"}, "tools[0].parameters"),
        ({"type": "object", "properties": {"id": {"type": "no type"}}}, "tools[0].parameters"),
        ({"type": "object", "properties": {"other": {}}}, "tools[0].url"),
        ({"type": "object", "description": "x" * PARAMETERS_BYTES_MAX}, "tools[0].parameters"),
    ],
)
def test_parameters_are_the_schema_of_an_object(parameters: dict[str, Any], path: str) -> None:
    """What is no JSON Schema of an object, is too large, or lacks what the
    address names, is refused."""
    config = _config()
    config.tools[0].parameters.Clear()
    config.tools[0].parameters.update(parameters)
    assert _refused(config) == {path}


def test_names_of_the_sessions_own_tools_are_taken() -> None:
    """No tool is called as those that end a session or hand it on."""
    config = _config()
    config.tools.add(name="end_session", description="Ends.", url="https://a.example")
    config.tools.add(name="transfer_to_sales", description="Hands on.", url="https://a.example")
    assert _refused(config) == {"tools[1].name", "tools[2].name"}


def test_two_tools_of_one_name_are_refused() -> None:
    """The later of two is named."""
    config = _config()
    config.tools.add(name="look_up", description="Again.", url="https://a.example")
    assert [each.field for each in violations_of_message(config)] == ["tools[1].name"]
    assert not are_good(unjudged_parts(config))


def test_options_are_bounded() -> None:
    """Options are refused past their bound, those of fallbacks too."""
    config = _config()
    large = {"prompt": "x" * OPTIONS_BYTES_MAX}
    config.llm_config.options.update(large)
    config.tts_config.provider = "openai"
    config.tts_config.fallbacks.add(provider="openai").options.update(large)
    assert _refused(config) == {"llm_config.options", "tts_config.fallbacks[0].options"}
    config.tts_config.fallbacks.pop()
    assert _refused(config) == {"llm_config.options"}


def test_a_fallback_has_no_fallbacks() -> None:
    """Fallbacks are one level deep."""
    config = _config()
    config.llm_config.fallbacks.add(provider="offline").fallbacks.add(provider="offline")
    assert [each.field for each in violations_of_message(config)] == ["llm_config.fallbacks[0].fallbacks"]
